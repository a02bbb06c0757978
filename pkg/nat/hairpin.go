package nat

import (
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// letHairpin lets the bridge send a frame back by the port that it came from.
// With br_netfilter a container's connection to its own mapped port is turned
// round within the bridge (br_nf_pre_routing_finish, net/bridge/br_netfilter_hooks.c),
// which drops it otherwise (should_deliver, net/bridge/br_forward.c).
func letHairpin(p Ports) error {
	if len(p.HostLinks) == 0 || !p.SNAT || !filtersBridges() {
		return nil
	}
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	for _, name := range p.HostLinks {
		link, err := h.LinkByName(name)
		if netns.IsLinkGone(err) {
			continue // another plugin of the chain may have renamed it
		}
		if err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
		if link.Attrs().MasterIndex == 0 {
			continue
		}
		if err := h.LinkSetHairpin(link, true); err != nil {
			return fmt.Errorf("let the bridge send back to port %s: %w", name, err)
		}
	}
	return nil
}

// NeedHairpin says whether the bridge's port of a container with these mappings must have
// hairpin mode from the beginning.
func (s PortSettings) NeedHairpin() bool { return s.Any() && s.SNAT && filtersBridges() }

// filtersBridges says whether the kernel has br_netfilter in this namespace.
func filtersBridges() bool {
	_, err := os.Stat("/proc/sys/net/bridge")
	return err == nil
}
