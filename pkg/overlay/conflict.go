package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// Overlap is a prefix of an address or route on this host. What says which.
type Overlap struct {
	Prefix netip.Prefix
	What   string
}

// Overlaps finds addresses and routes of the host that overlap the pools, except our own:
// those of the devices and of the networks' bridges, and our routes.
func (h *Host) Overlaps(pools []netip.Prefix, bridges ...string) ([]Overlap, error) {
	links, err := dump.Complete(h.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var found []Overlap
	consider := func(p netip.Prefix, link int, what string) {
		if p.Bits() == 0 || names[link] == TunnelName || names[link] == WireGuardName || slices.Contains(bridges, names[link]) || !overlapsAny(p, pools) {
			return
		}
		found = append(found, Overlap{p, what + " of " + names[link]})
	}
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if p, ok := prefixOf(a.IPNet); ok {
			consider(p.Masked(), a.LinkIndex, "the address "+p.String())
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump.Complete(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
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

// DropAddresses removes the link's addresses in the given subnets, which are another host's
// now. A missing link is no error.
func (h *Host) DropAddresses(name string, subnets []netip.Prefix) error {
	link, err := h.link(name)
	if err != nil || link == nil {
		return err
	}
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, unix.AF_UNSPEC) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, a := range addresses {
		p, ok := prefixOf(a.IPNet)
		if !ok || !inside(p, subnets) {
			continue
		}
		if err := h.removeAddress(link, p); err != nil {
			return err
		}
	}
	return nil
}

// madeByTrestle begins the MAC of every bridge that the plugins make.
const madeByTrestle = "02:74:72:"

// RemoveBridge removes a network's bridge if Trestle made it. A bridge with ports stays, and
// inUse is true.
func (h *Host) RemoveBridge(name string) (inUse bool, err error) {
	link, err := h.link(name)
	if err != nil || link == nil || link.Type() != "bridge" || !strings.HasPrefix(link.Attrs().HardwareAddr.String(), madeByTrestle) {
		return false, err
	}
	links, err := dump.Complete(h.nl.LinkList)
	if err != nil {
		return false, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == link.Attrs().Index {
			return true, nil
		}
	}
	return false, h.deleteLink(link)
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
