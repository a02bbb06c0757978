package bridge

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Lease is the answer of the IPAM plugin: the container's addresses and routes.
type Lease struct {
	Addresses []Address
	Routes    []LeasedRoute
}

// Address is one address with the prefix length of its subnet.
type Address struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // zero if IPAM has named none
}

// LeasedRoute is a route that may leave its gateway and scope to us (resolve).
type LeasedRoute struct {
	Route
	scopeSet bool
}

// ParseLease reads the result of an IPAM plugin, or of an ADD. Of the latter it takes the
// addresses of the interface ifName, and those that name no interface.
func ParseLease(result *cni.Result, ifName string) (Lease, error) {
	var l Lease
	for i, ip := range result.IPs {
		if n := ip.Interface; n != nil && *n >= 0 && *n < len(result.Interfaces) && result.Interfaces[*n].Name != ifName {
			continue
		}
		prefix, ok := toPrefix(ip.Address)
		if !ok {
			return Lease{}, cni.DecodeErrorf("ips[%d].address: %s is not an address", i, ip.Address.String())
		}
		l.Addresses = append(l.Addresses, Address{Prefix: prefix, Gateway: toGateway(ip.Gateway)})
	}
	for i, r := range result.Routes {
		route, err := leasedRoute(r)
		if err != nil {
			return Lease{}, cni.DecodeErrorf("routes[%d].%w", i, err)
		}
		l.Routes = append(l.Routes, route)
	}
	return l, nil
}

// The kernel makes a larger MTU or MSS of a route to these (ip_metrics_convert,
// net/ipv4/metrics.c).
const (
	maxRouteMTU = 65535 - 15
	maxRouteMSS = 65535 - 40
)

func leasedRoute(r *types.Route) (LeasedRoute, error) {
	dst, ok := toPrefix(r.Dst)
	if !ok {
		return LeasedRoute{}, fmt.Errorf("dst: %s is not a prefix", r.Dst.String())
	}
	if err := cni.CheckRoute(r); err != nil {
		return LeasedRoute{}, err
	}
	l := LeasedRoute{Route: Route{
		Dst: dst.Masked(), Gateway: toGateway(r.GW), Priority: r.Priority, Table: mainTable,
		MTU: min(r.MTU, maxRouteMTU), AdvMSS: min(r.AdvMSS, maxRouteMSS),
	}}
	if r.Table != nil && *r.Table != unix.RT_TABLE_UNSPEC {
		l.Table = *r.Table
	}
	if r.Scope != nil {
		l.Scope, l.scopeSet = *r.Scope, true
	}
	return l, nil
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip) // the zero Addr for a missing one
	return a.Unmap()
}

// toGateway reads the unspecified address as "none": IPAM plugins that must write a gateway
// write that.
func toGateway(ip net.IP) netip.Addr {
	if a := toAddr(ip); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

func toPrefix(n net.IPNet) (netip.Prefix, bool) {
	a := toAddr(n.IP)
	ones, bits := n.Mask.Size()
	if a.Is4() && bits == 128 {
		ones -= 96
	}
	p := netip.PrefixFrom(a, ones)
	return p, p.IsValid()
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
