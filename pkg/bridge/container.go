package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// configureIn applies the plan to the container's interface, by one socket and two batches:
// the first sets lo up and looks the links up, the second does all the rest. The caller sends
// the announcements when the port forwards, and closes them.
func (c Interface) configureIn(container *netns.Handle) (tell announcements, err error) {
	err = container.Enter(func() error {
		var groups uint32
		if c.awaitsIPv6() {
			groups = rtmgrpIPv6Route // joined before the events can come
		}
		rt, err := openRTNL(groups)
		if err != nil {
			return err
		}
		defer rt.close()
		end, err := c.configure(rt)
		if err != nil {
			return err
		}
		tell, err = c.announcements(end.index)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", container, err)
	}
	return tell, nil
}

const rtmgrpIPv6Route = 0x400 // RTMGRP_IPV6_ROUTE, linux/rtnetlink.h

func (c Interface) configure(rt *rtnl) (end link, err error) {
	// without lo up, the container could not reach its own address; not every runtime sets it
	steps := []step{linkUp(0, "lo"), lookUp(c.Name), lookUp("lo")}
	if !c.hasIPv6() {
		steps = steps[:2]
	}
	links, err := rt.links(steps...)
	if err != nil {
		return link{}, err
	}
	end = links[1]
	if err := c.setSysctls(links[1:]); err != nil {
		return link{}, err
	}
	if _, err = rt.do(c.steps(end.index)...); err != nil {
		return link{}, err
	}
	if err := c.awaitDAD(end); err != nil {
		return link{}, err
	}
	return end, c.awaitIPv6(rt, end.index)
}

// steps are the messages that configure the interface. The order matters: setting the link
// up adds its link-local address, so that is switched off before; routes need a link that
// is up. Addresses are added after "up", or the kernel makes the routes to their subnets
// while it sets the link up, where it must not wait for memory, and does not report that it
// had none (fixup_permanent_addr, net/ipv6/addrconf.c): on a busy host the gateway would
// then be unreachable now and then.
func (c Interface) steps(index int) []step {
	var steps []step
	if !c.LinkLocal {
		steps = append(steps, noLinkLocal(index, c.Name))
	}
	if c.Up {
		steps = append(steps, linkUp(index, c.Name))
	}
	for _, a := range c.Addresses {
		steps = append(steps, addAddress(index, c.Name, a.Prefix, c.DAD))
	}
	for _, r := range c.Routes {
		steps = append(steps, addRoute(index, c.Name, r))
	}
	return steps
}

// setSysctls enables IPv6 in a container with leased IPv6 addresses, and switches off those
// that routers advertise; without leased ones, IPv6 stays as it is. links are the container's
// interface and, for IPv6, lo. Only a failure to enable IPv6 is an error: /proc/sys may be
// read-only, and its values may be right already.
func (c Interface) setSysctls(links []link) error {
	end, own := links[0], "ipv6/conf/"+c.Name+"/"
	if !end.inet6Is(confAcceptDAD, c.acceptDAD()) && end.hasIPv6() && len(c.Addresses) > 0 {
		_ = writeSysctl(own+"accept_dad", fmt.Sprint(c.acceptDAD())) // 0 spares neighbours the frames of DAD
	}
	if !c.hasIPv6() {
		return nil
	}
	for _, l := range links {
		if l.inet6Is(confDisableIPv6, 0) {
			continue
		}
		if err := writeSysctl("ipv6/conf/"+l.name+"/disable_ipv6", "0"); err != nil {
			return c.withoutIPv6(l.name, err)
		}
	}
	for name, wanted := range map[string]string{"accept_ra": "0", "autoconf": "0", "keep_addr_on_down": "1"} {
		_ = writeSysctl(own+name, wanted) // the container also works without
	}
	return nil
}

func (c Interface) withoutIPv6(link string, err error) error {
	v6 := slices.IndexFunc(c.Addresses, func(a Address) bool { return a.Prefix.Addr().Is6() })
	return cni.UnsupportedErrorf("ipam: %s needs IPv6 in the container, where it is off and cannot be switched on (net.ipv6.conf.%s.disable_ipv6); let the runtime switch it on, or take the IPv6 range out of ipam.ranges: %w", c.Addresses[v6].Prefix, link, err)
}

func (c Interface) acceptDAD() int32 {
	if c.DAD {
		return 1
	}
	return 0
}

func (c Interface) hasIPv6() bool {
	return slices.ContainsFunc(c.Addresses, func(a Address) bool { return a.Prefix.Addr().Is6() })
}

func (c Interface) awaitsIPv6() bool { return c.Up && c.hasIPv6() }

const (
	dadLimit   = 10 * time.Second
	routeLimit = 10 * time.Second
)

// awaitDAD waits for the end of duplicate address detection, if the plan asks for it: until
// no address is tentative.
func (c Interface) awaitDAD(end link) error {
	if !c.DAD || !c.awaitsIPv6() {
		return nil
	}
	return await("the IPv6 addresses of "+c.Name+" are found unique", unix.RTNLGRP_IPV6_IFADDR, dadLimit, func() (bool, error) {
		addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(end.device(), netlink.FAMILY_V6) })
		if err != nil {
			return false, fmt.Errorf("list addresses of %s: %w", c.Name, err)
		}
		unique := true
		for _, a := range addresses {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return false, cni.ConflictErrorf("address %s: a neighbour has it already (duplicate address detection)", a.IPNet)
			}
			unique = unique && a.Flags&unix.IFA_F_TENTATIVE == 0
		}
		return unique, nil
	})
}

// allMulticast is the destination of a link's route to ff00::/8. Without that route the
// container cannot ask its neighbours for their MACs.
var allMulticast = netip.MustParseAddr("ff00::")

// awaitIPv6 waits for the local routes of the addresses and for the link's multicast route.
// The kernel adds them later, in workers (addrconf_dad_work, net/ipv6/addrconf.c, and
// linkwatch, when the link is ready). Until then it drops packets to the addresses, and the
// container cannot find its neighbours.
func (c Interface) awaitIPv6(rt *rtnl, index int) error {
	if !c.awaitsIPv6() {
		return nil
	}
	var addresses []netip.Addr
	for _, a := range c.Addresses {
		if a.Prefix.Addr().Is6() {
			addresses = append(addresses, a.Prefix.Addr())
		}
	}
	if c.WasUp { // the events of "up" are over
		if ok, err := hasLocalRoutes(index, append(addresses, allMulticast)); ok || err != nil {
			return err
		}
	}
	if err := rt.awaitLocalRoutes(index, append(addresses, allMulticast)); err != nil {
		return fmt.Errorf("wait until %v of %s can be reached: %w", addresses, c.Name, err)
	}
	return nil
}

// awaitLocalRoutes waits for the local routes of the addresses and, if allMulticast is among
// them, for the link's multicast route. The socket must have joined RTMGRP_IPV6_ROUTE before
// the link was set up.
func (c *rtnl) awaitLocalRoutes(index int, addresses []netip.Addr) error {
	seen := func(events []event) bool {
		var own []netip.Addr
		for _, e := range events {
			if a, ok := localRoute(e, index); ok {
				own = append(own, a)
			}
		}
		return containsAll(own, addresses)
	}
	return c.await(routeLimit, seen, func() (bool, error) { return hasLocalRoutes(index, addresses) })
}

// hasLocalRoutes says whether the thread's namespace has the local routes of all the IPv6
// addresses and, if allMulticast is among them, the link's multicast route.
func hasLocalRoutes(index int, addresses []netip.Addr) (bool, error) {
	routes, err := dump.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	})
	var own []netip.Addr
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if a := toAddr(r.Dst.IP); a != allMulticast || r.LinkIndex == index {
			own = append(own, a)
		}
	}
	if containsAll(own, addresses) {
		return true, nil // even if the list is not complete
	}
	return false, err
}

func containsAll(list, wanted []netip.Addr) bool {
	return !slices.ContainsFunc(wanted, func(a netip.Addr) bool { return !slices.Contains(list, a) })
}

// localRoute is the address of the local route that an RTM_NEWROUTE (struct rtmsg and
// attributes) adds, or allMulticast if it is the link's multicast route.
func localRoute(e event, index int) (netip.Addr, bool) {
	if e.kind != unix.RTM_NEWROUTE || len(e.data) < unix.SizeofRtMsg {
		return netip.Addr{}, false
	}
	var dst netip.Addr
	link := 0
	for a := range attributes(e.data[unix.SizeofRtMsg:]) {
		switch a.kind {
		case unix.RTA_DST:
			dst = toAddr(a.data)
		case unix.RTA_OIF:
			link = a.number()
		}
	}
	if dst == allMulticast {
		return dst, link == index
	}
	return dst, e.data[7] == unix.RTN_LOCAL && dst.IsValid()
}
