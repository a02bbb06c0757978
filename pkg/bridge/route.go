package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// String shows the route almost as ip(8) does.
func (r Route) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "route %s", r.Dst)
	if r.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Gateway)
	}
	if r.Table != mainTable {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"metric", r.Priority}, {"mtu", r.MTU}, {"advmss", r.AdvMSS}, {"scope", r.Scope}} {
		if f.value != 0 {
			fmt.Fprintf(&b, " %s %d", f.name, f.value)
		}
	}
	return b.String()
}

// mayBe says whether the observed route can be this one, made of a result before 1.1.0,
// which cannot have all fields of a route: a field with its default matches any value.
func (r Route) mayBe(found Route) bool {
	defaults := LeasedRoute{Route: Route{Dst: r.Dst, Gateway: r.Gateway, Table: mainTable}}.resolve(nil)
	for _, f := range []struct{ want, byDefault, have int }{
		{r.MTU, defaults.MTU, found.MTU},
		{r.AdvMSS, defaults.AdvMSS, found.AdvMSS},
		{r.Priority, defaults.Priority, found.Priority},
		{r.Table, defaults.Table, found.Table},
		{r.Scope, defaults.Scope, found.Scope},
	} {
		if f.want != f.byDefault && f.want != f.have {
			return false
		}
	}
	// of a route with scope link, such a result lacks the scope, so that resolve has given
	// it a gateway
	return r.Dst == found.Dst && (r.Gateway == found.Gateway || found.Scope == unix.RT_SCOPE_LINK)
}

// routesOf are the routes over a link in one table, or in all tables if table is 0
// (RT_TABLE_UNSPEC).
func routesOf(h *netlink.Handle, linkIndex, table int) ([]Route, error) {
	filter := &netlink.Route{LinkIndex: linkIndex, Table: table}
	list, err := dump.Complete(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", table, err)
	}
	var routes []Route
	for _, r := range list {
		routes = append(routes, fromNetlink(r, linkIndex)...)
	}
	return routes, nil
}

// fromNetlink makes one route of each next hop over the link.
func fromNetlink(r netlink.Route, linkIndex int) []Route {
	dst, ok := toPrefix(*r.Dst)
	if !ok {
		return nil
	}
	one := Route{Dst: dst, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Table: r.Table, Scope: int(r.Scope)}
	if len(r.MultiPath) == 0 && r.LinkIndex == linkIndex {
		one.Gateway = gatewayOf(r.Gw, r.Via)
		return []Route{one}
	}
	var hops []Route
	for _, hop := range r.MultiPath {
		if hop.LinkIndex == linkIndex {
			one.Gateway = gatewayOf(hop.Gw, hop.Via)
			hops = append(hops, one)
		}
	}
	return hops
}

// gatewayOf is a next hop's gateway. Of an IPv4 route by an IPv6 gateway it is in RTA_VIA.
func gatewayOf(gateway net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok && gateway == nil {
		return toAddr(v.Addr)
	}
	return toAddr(gateway)
}
