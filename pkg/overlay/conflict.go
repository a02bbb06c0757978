package overlay

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Overlap is a prefix that the host has already, and what has it.
type Overlap struct {
	Prefix netip.Prefix
	What   string
}

// Overlaps finds what of the host overlaps the pools, but for what is ours: the tunnel,
// our routes, and what lies in one of own, this host's subnets.
func (h *Host) Overlaps(pools, own []netip.Prefix) ([]Overlap, error) {
	links, err := whole(h.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var found []Overlap
	consider := func(p netip.Prefix, link int, what string) {
		if p.Bits() == 0 || names[link] == TunnelName || inside(p, own) || !overlapsAny(p, pools) {
			return
		}
		found = append(found, Overlap{p, what + " of " + names[link]})
	}
	addresses, err := whole(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if p, ok := prefixOf(a.IPNet); ok {
			consider(p.Masked(), a.LinkIndex, "the address "+p.String())
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := whole(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); ok && r.Protocol != Protocol && r.Protocol != unix.RTPROT_KERNEL {
				consider(p, r.LinkIndex, "the route "+p.String())
			}
		}
	}
	return found, nil
}

func inside(p netip.Prefix, all []netip.Prefix) bool {
	for _, a := range all {
		if a.Bits() <= p.Bits() && a.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

func overlapsAny(p netip.Prefix, all []netip.Prefix) bool {
	for _, a := range all {
		if a.Overlaps(p) {
			return true
		}
	}
	return false
}
