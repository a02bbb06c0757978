package overlay

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Apply makes the changes. It goes on after a failure, since each peer that can be
// reached should be; the errors are joined. What a killed Apply has left undone the next
// Observe finds.
func (h *Host) Apply(c Changes) error {
	var failed error
	do := func(err error) { failed = errors.Join(failed, err) }
	do(h.forward(c.Forwarding))
	do(h.applyTunnel(c))
	index := 0
	if c.Want.Tunnel != nil {
		link, err := h.link(TunnelName)
		if err != nil || link == nil {
			return errors.Join(failed, err)
		}
		index = link.Attrs().Index
		do(h.applyNeighbours(c, index))
	}
	// Strangers are kept out before anybody is sent to: with them gone the answer of
	// a new peer would be.
	if c.Peers {
		do(h.applyPeers(c.Want))
	}
	for _, r := range c.AddRoutes {
		do(h.addRoute(r, index))
	}
	for _, r := range c.DelRoutes {
		do(h.delRoute(r))
	}
	return failed
}

// forward switches routing on. Nobody switches it off again: who else has come to rely
// on it nobody knows.
func (h *Host) forward(f Families) error {
	var failed error
	if f.IPv4 {
		failed = writeSysctl(forward4, "1")
	}
	if f.IPv6 {
		failed = errors.Join(failed, h.keepRouterAdvertisements(), writeSysctl(forward6, "1"))
	}
	return failed
}

// keepRouterAdvertisements raises accept_ra from 1 to 2 where a default route was
// advertised: a host that forwards would lose it (kernel, networking/ip-sysctl).
func (h *Host) keepRouterAdvertisements() error {
	routes, err := whole(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, unix.AF_INET6) })
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_RA || r.LinkIndex == 0 {
			continue
		}
		link, err := h.nl.LinkByIndex(r.LinkIndex)
		if err != nil {
			return fmt.Errorf("look up the link of an advertised route: %w", err)
		}
		setting := "ipv6/conf/" + link.Attrs().Name + "/accept_ra"
		if readSysctl(setting) == "1" {
			if err := writeSysctl(setting, "2"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *Host) applyNeighbours(c Changes, tunnel int) error {
	var failed error
	do := func(what string, one any, err error) {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			failed = errors.Join(failed, fmt.Errorf("%s %v: %w", what, one, err))
		}
	}
	for _, f := range c.AddForwards {
		do("add forwarding entry", f, h.nl.NeighSet(f.neigh(tunnel)))
	}
	for _, n := range c.AddNeighbours {
		do("add neighbour", n, h.nl.NeighSet(n.neigh(tunnel)))
	}
	for _, f := range c.DelForwards {
		do("remove forwarding entry", f, h.nl.NeighDel(f.neigh(tunnel)))
	}
	for _, n := range c.DelNeighbours {
		do("remove neighbour", n, h.nl.NeighDel(n.neigh(tunnel)))
	}
	return failed
}

func (f Forward) neigh(tunnel int) *netlink.Neigh {
	mac, _ := net.ParseMAC(f.MAC) // of a plan, or of the kernel's
	return &netlink.Neigh{
		LinkIndex: tunnel, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, Flags: netlink.NTF_SELF,
		IP: f.Remote.AsSlice(), HardwareAddr: mac,
	}
}

func (n Neighbour) neigh(tunnel int) *netlink.Neigh {
	mac, _ := net.ParseMAC(n.MAC) // of a plan, or of the kernel's
	return &netlink.Neigh{
		LinkIndex: tunnel, Family: familyOf(n.Addr), State: netlink.NUD_PERMANENT, IP: n.Addr.AsSlice(), HardwareAddr: mac,
	}
}

// addRoute replaces a route of ours, if there is one, and no other's: NLM_F_REPLACE
// would take the first to that destination, whoever made it (fib_table_insert,
// net/ipv4/fib_trie.c).
func (h *Host) addRoute(r Route, tunnel int) error {
	route := r.library()
	if r.Kind == ByTunnel {
		route.LinkIndex = tunnel
	}
	err := h.nl.RouteAdd(route)
	if errors.Is(err, unix.EEXIST) {
		err = h.delRoute(r)
		if err == nil {
			err = h.nl.RouteAdd(route)
		}
	}
	if err != nil {
		return fmt.Errorf("add route %s: %w", r, err)
	}
	return nil
}

// delRoute deletes what route of ours leads there, and none of another protocol.
func (h *Host) delRoute(r Route) error {
	for _, kind := range []int{unix.RTN_UNICAST, unix.RTN_UNREACHABLE} {
		err := h.nl.RouteDel(&netlink.Route{Dst: ipNet(r.Dst), Protocol: Protocol, Type: kind})
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete route %s: %w", r, err)
		}
	}
	return nil
}

func (r Route) library() *netlink.Route {
	route := &netlink.Route{Dst: ipNet(r.Dst), Protocol: Protocol, MTU: r.MTU, Type: unix.RTN_UNICAST}
	switch {
	case r.Kind == Unreachable:
		route.Type = unix.RTN_UNREACHABLE
		return route
	case r.Dst.Addr().Is4() && r.Via.Is6():
		route.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: r.Via.AsSlice()}
	default:
		route.Gw = r.Via.AsSlice()
	}
	if r.Kind == ByTunnel {
		route.Flags = unix.RTNH_F_ONLINK
	}
	return route
}

// Remove takes away all that is ours, and nothing else. mac is the tunnel's.
func (h *Host) Remove(mac string) error {
	have, err := h.Observe(State{Tunnel: &Tunnel{MAC: mac}})
	if err != nil {
		return err
	}
	failed := h.Apply(Diff(State{}, have))
	return errors.Join(failed, h.removePeers())
}
