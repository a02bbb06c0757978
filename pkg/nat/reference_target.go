package nat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// isUnused says whether it is proved that no container of this host has the address:
//
//   - there is no route to it, or only the default route, which leads away from this host; or
//   - the route leads directly to a bridge, and no neighbour there answers. The kernel
//     solicits three times, a second each (neighbour "mcast_solicit", "retrans_time_ms").
//
// It is called only for rules of the reference plugins, for which we have no record.
func isUnused(target netip.Addr) (bool, error) {
	if !target.IsValid() {
		return false, nil
	}
	routes, err := netlink.RouteGetWithOptions(target.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for the route to %s: %w", target, err)
	}
	if len(routes) != 1 {
		return false, nil
	}
	if bits := prefixBits(routes[0].Dst); bits == 0 {
		return true, nil
	}
	if routes[0].Gw != nil {
		return false, nil
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if netns.IsLinkGone(err) {
		return false, nil // the route that there is now may lead to it
	}
	if err != nil {
		return false, fmt.Errorf("look up the interface that leads to %s: %w", target, err)
	}
	if link.Type() != "bridge" {
		return false, nil // a tunnel, say, on which nobody answers solicitations
	}
	return isSilent(link.Attrs().Index, target)
}

func prefixBits(p *net.IPNet) int {
	if p == nil {
		return 0
	}
	bits, _ := p.Mask.Size() // an address that the library has parsed has a valid mask
	return bits
}

// isFixed says whether the address has a permanent neighbour entry, or one without ARP.
func isFixed(link int, address netip.Addr) (bool, error) {
	neighbours, err := dump.Complete(func() ([]netlink.Neigh, error) { return netlink.NeighList(link, unix.AF_UNSPEC) })
	if err != nil {
		return false, fmt.Errorf("list neighbours: %w", err)
	}
	return slices.ContainsFunc(neighbours, func(n netlink.Neigh) bool {
		return n.IP.Equal(address.AsSlice()) && n.State&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0
	}), nil
}

// neighbourTimeout is longer than the kernel's default of three seconds.
const neighbourTimeout = 5 * time.Second

// isSilent makes the kernel resolve the address on the link, and says whether that failed.
func isSilent(link int, address netip.Addr) (silent bool, err error) {
	if fixed, err := isFixed(link, address); err != nil || fixed {
		return false, err
	}
	neighbour := netlink.Neigh{LinkIndex: link, IP: address.AsSlice(), State: unix.NUD_NONE}
	// An existing entry may be outdated. It is deleted before updates are watched, since its
	// deletion is reported as NUD_FAILED (neigh_delete, net/core/neighbour.c).
	if err := netlink.NeighDel(&neighbour); err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("forget neighbour %s: %w", address, err)
	}
	updates, done := make(chan netlink.NeighUpdate), make(chan struct{})
	defer close(done)
	if err := netlink.NeighSubscribe(updates, done); err != nil {
		return false, fmt.Errorf("watch neighbours: %w", err)
	}
	neighbour.Flags = unix.NTF_USE
	if err := netlink.NeighSet(&neighbour); err != nil {
		return false, fmt.Errorf("ask for neighbour %s: %w", address, err)
	}
	timeout := time.After(neighbourTimeout)
	for {
		select {
		case update := <-updates:
			if update.LinkIndex != link || !update.IP.Equal(neighbour.IP) {
				continue
			}
			switch update.State {
			case unix.NUD_FAILED:
				return true, nil
			case unix.NUD_REACHABLE, unix.NUD_PERMANENT, unix.NUD_NOARP, unix.NUD_STALE:
				return false, nil
			}
		case <-timeout:
			return false, nil
		}
	}
}
