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

// EnableForwarding lets the host route for its containers. It has no inverse, since nobody
// knows who else has come to rely on it; so it is the last step of an ADD. Attach has found
// out whether it is on already.
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

// isForwarding reads netlink's answer or, if there is none (an old kernel, or one without
// the family), the sysctl. If the host forwards already, EnableForwarding must not change
// anything: what router advertisements do there is the administrator's choice.
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

// needSysctl sets a sysctl that the network needs. If it cannot be written but has the value
// already, that is no error.
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

// keepRouterAdvertisements raises accept_ra from 1 to 2 on the host's uplinks: with 1, a
// host that forwards ignores router advertisements, and would lose its default route
// (kernel, networking/ip-sysctl, accept_ra). Bridges, their ports and host veths are left
// out, since they lead to containers, which must not become the host's router; unless the
// host has an advertised default route by them already.
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
		if err := acceptAdvertisements(l); err != nil && advertised[l.index] {
			failed = errors.Join(failed, fmt.Errorf("keep the host's default route by %s: %w", l.name, err))
		}
	}
	return failed
}

// acceptAdvertisements sets accept_ra of the link to 2; one that is gone by now has lost its
// routes.
func acceptAdvertisements(l link) error {
	err := writeSysctl("ipv6/conf/"+l.name+"/accept_ra", "2")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// advertisedDefaults are the links with a default route from a router advertisement.
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
