package bridge

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

const (
	forward4 = "ipv4/ip_forward"
	forward6 = "ipv6/conf/all/forwarding"
)

// EnableForwarding lets the host route for its containers. It is never taken
// back, since nobody knows who else has come to rely on it; hence it is the last
// step of an ADD. Attach has found out whether it is on.
func (h *Host) EnableForwarding(s State) error {
	if s.Forward4 && !h.forwards4 {
		if err := needSysctl(forward4, "1"); err != nil {
			return err
		}
	}
	if !s.Forward6 || h.forwards6 {
		return nil
	}
	if err := h.keepRouterAdvertisements(); err != nil {
		return err
	}
	return needSysctl(forward6, "1")
}

// isForwarding reads netlink's answer or, where there is none (an old kernel, or one
// without the family), the setting. A host that forwards must not be taken for one that
// begins to: what router advertisements do there is the administrator's choice.
func isForwarding(reply []byte, name string) (bool, error) {
	if reply != nil {
		return forwards(reply), nil
	}
	value, err := readSysctl(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && value != "0", err
}

// needSysctl is for what a network cannot do without. Somebody may have been faster, or
// have made it so by other means.
func needSysctl(name, value string) error {
	err := writeSysctl(name, value)
	if err == nil {
		return nil
	}
	if have, readErr := readSysctl(name); readErr == nil && have == value {
		return nil
	}
	return fmt.Errorf("isGateway: the host must forward, and does not: %w; set it on the host (sysctl -w net.%s=%s)", err, dotted(name), value)
}

// keepRouterAdvertisements raises accept_ra from 1 to 2 on the host's uplinks. A
// host that forwards ignores advertisements at 1 and would lose the default route
// that it lives by (kernel, networking/ip-sysctl, accept_ra). Bridges, their ports
// and host veths lead to containers, which must not be believed; a bridge is an
// uplink only if it has such a default route already.
func (h *Host) keepRouterAdvertisements() error {
	links, err := h.rt.list(0)
	if err != nil {
		return err
	}
	advertised, err := h.advertisedDefaults()
	if err != nil {
		return err
	}
	var failed error
	for _, l := range links {
		inward := l.kind == "bridge" || l.master != 0 || isContainer(l)
		if l.name == "lo" || inward && !advertised[l.index] || !l.inet6Is(confAcceptRA, 1) {
			continue
		}
		if err := writeSysctl("ipv6/conf/"+l.name+"/accept_ra", "2"); err != nil && advertised[l.index] {
			failed = errors.Join(failed, fmt.Errorf("keep the host's default route by %s: %w", l.name, err))
		}
	}
	return failed
}

// advertisedDefaults are the links by which a router has given us a default route.
func (h *Host) advertisedDefaults() (map[int]bool, error) {
	filter := &netlink.Route{Protocol: unix.RTPROT_RA}
	routes, err := dump.Complete(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_PROTOCOL)
	})
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
