package nat

import (
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// letHairpin enables hairpin mode on the attachment's bridge ports, if br_netfilter is there.
// With it a container's connection to its own mapped port is forwarded within the bridge
// (br_nf_pre_routing_finish, net/bridge/br_netfilter_hooks.c), back to the port that it came
// from: without hairpin mode the bridge drops it (should_deliver, net/bridge/br_forward.c).
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

// NeedHairpin says whether the bridge port of a container with these mappings needs hairpin
// mode, so that bridge can enable it from the beginning.
func (s PortSettings) NeedHairpin() bool { return s.Any() && s.SNAT && filtersBridges() }

// filtersBridges says whether br_netfilter is loaded, as seen from this network namespace.
func filtersBridges() bool {
	_, err := os.Stat("/proc/sys/net/bridge")
	return err == nil
}
