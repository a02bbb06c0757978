package bridge

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	forward4 = "ipv4/ip_forward"
	forward6 = "ipv6/conf/all/forwarding"
)

// EnableForwarding lets the host route for its containers. It is never taken
// back, since nobody knows who else has come to rely on it; hence it is the last
// step of an ADD.
func (h *Host) EnableForwarding(s State) error {
	if s.Forward4 {
		if err := setSysctl(forward4, "1"); err != nil {
			return err
		}
	}
	if !s.Forward6 {
		return nil
	}
	if have, err := readSysctl(forward6); err == nil && have == "1" {
		return nil
	}
	if err := h.keepRouterAdvertisements(); err != nil {
		return err
	}
	return setSysctl(forward6, "1")
}

// keepRouterAdvertisements raises accept_ra from 1 to 2 on the host's uplinks. A
// host that forwards ignores advertisements at 1 and would lose the default route
// that it lives by (kernel, networking/ip-sysctl, accept_ra). Bridges, their ports
// and host ends lead to containers, which must not be believed; a bridge is an
// uplink only if it has such a default route already.
func (h *Host) keepRouterAdvertisements() error {
	links, err := h.nl.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list links: %w", err)
	}
	advertised, err := h.advertisedDefaults()
	if err != nil {
		return err
	}
	var failed error
	for _, l := range links {
		attrs := l.Attrs()
		inward := l.Type() == "bridge" || attrs.MasterIndex != 0 || strings.HasPrefix(attrs.Alias, aliasPrefix)
		if attrs.Name == "lo" || inward && !advertised[attrs.Index] {
			continue
		}
		name := "ipv6/conf/" + attrs.Name + "/accept_ra"
		if have, err := readSysctl(name); err == nil && have == "1" {
			failed = errors.Join(failed, setSysctl(name, "2"))
		}
	}
	return failed
}

// advertisedDefaults are the links by which a router has given us a default route.
func (h *Host) advertisedDefaults() (map[int]bool, error) {
	filter := &netlink.Route{Protocol: unix.RTPROT_RA}
	routes, err := h.nl.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list advertised routes: %w", err)
	}
	links := map[int]bool{}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			links[r.LinkIndex] = true
		}
	}
	return links, nil
}
