package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// Uplink is the link that leads to the other hosts.
type Uplink struct {
	Name      string
	MTU       int
	Addresses []netip.Prefix // one of each family that others can reach
	Up        bool
}

// SetUnderlay says which addresses this host published last: FindUplink keeps to them.
func (h *Host) SetUnderlay(published []netip.Prefix) { h.underlay = published }

// FindUplink finds the link with this name or, where name is "", the link with the address
// only or, where that is not given either, the link of the default route. With only, no
// other address is taken.
func (h *Host) FindUplink(name string, only ...netip.Addr) (Uplink, error) {
	link, err := h.uplink(name, only)
	if err != nil {
		return Uplink{}, err
	}
	attrs := link.Attrs()
	u := Uplink{Name: attrs.Name, MTU: attrs.MTU, Up: attrs.Flags&net.FlagUp != 0}
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, unix.AF_UNSPEC) })
	if err != nil {
		return Uplink{}, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
	}
	addresses = slices.DeleteFunc(addresses, func(a netlink.Addr) bool {
		p, ok := prefixOf(a.IPNet)
		over := a.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0
		return !ok || over || p.Addr().IsLinkLocalUnicast() || p.Addr().IsLoopback() || len(only) > 0 && !slices.Contains(only, p.Addr())
	})
	if u.Addresses = oneOfEach(addresses, h.underlay); len(u.Addresses) == 0 {
		return u, fmt.Errorf("uplink %s: no address that others could reach", u.Name)
	}
	h.underlay = u.Addresses
	return u, nil
}

// oneOfEach picks an address of each family, IPv4 first. The kernel lists the newest IPv6
// address first, and that may soon be another host's, or gone. So one that was picked before
// stays, but never instead of a better one: a virtual address (keepalived, kube-vip) has no
// prefix, and a temporary one (RFC 8981) is for a day.
func oneOfEach(addresses []netlink.Addr, before []netip.Prefix) (picked []netip.Prefix) {
	for _, is4 := range []bool{true, false} {
		var best netip.Prefix
		least := 0
		for _, a := range addresses {
			p, _ := prefixOf(a.IPNet) // it is one: see FindUplink
			if p.Addr().Is4() != is4 {
				continue
			}
			rank := 0
			for _, worse := range []bool{!is4 && a.Flags&unix.IFA_F_TEMPORARY != 0, p.IsSingleIP(), !slices.Contains(before, p)} {
				if rank *= 2; worse {
					rank++
				}
			}
			if !best.IsValid() || rank < least {
				best, least = p, rank
			}
		}
		if best.IsValid() {
			picked = append(picked, best)
		}
	}
	return picked
}

func (h *Host) uplink(name string, only []netip.Addr) (netlink.Link, error) {
	if name != "" {
		link, err := h.link(name)
		if err == nil && link == nil {
			err = fmt.Errorf("uplink: no device %s; set \"interface\" in node.json to the one that leads to the other hosts", name)
		}
		return link, err
	}
	if len(only) > 0 {
		return h.linkWith(only[0])
	}
	return h.defaultLink()
}

func (h *Host) linkWith(addr netip.Addr) (netlink.Link, error) {
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, familyOf(addr)) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if addrOf(a.IP) != addr {
			continue
		}
		if link, err := h.linkAt(a.LinkIndex); err != nil || link != nil {
			return link, err
		}
	}
	return nil, fmt.Errorf("uplink: no device has the address %s (\"address\" in node.json)", addr)
}

func (h *Host) defaultLink() (netlink.Link, error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump.Complete(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); ok && p.Bits() != 0 || r.Type != unix.RTN_UNICAST {
				continue
			}
			for _, index := range indicesOf(r) {
				if link, err := h.linkAt(index); err != nil || link != nil {
					return link, err
				}
			}
		}
	}
	return nil, errors.New("uplink: there is no default route; set \"interface\" in node.json to the device that leads to the other hosts")
}

// indicesOf are the links of a route, which has several if it has several next hops.
func indicesOf(r netlink.Route) (all []int) {
	if r.LinkIndex != 0 {
		return []int{r.LinkIndex}
	}
	for _, hop := range r.MultiPath {
		all = append(all, hop.LinkIndex)
	}
	return all
}
