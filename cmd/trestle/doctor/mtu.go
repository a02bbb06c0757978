package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// mtus finds networks whose packets can be too large for an uplink, bridges whose MTU is not the
// list's, and bridges whose ports have different MTUs. Unless it is set, a bridge's MTU is that
// of its smallest port.
func mtus(h *Host) []Finding {
	var all []Finding
	examined := map[string]bool{} // bridges, which networks may share
	for _, n := range h.Networks {
		bridge, ok := h.LinkOf(n.Bridge)
		if !ok || n.Driver != "bridge" {
			continue
		}
		for _, uplink := range h.uplinks() {
			if bridge.MTU > uplink.MTU && !n.Internal {
				all = append(all, Finding{
					Severity: Warning, Subject: "network " + n.Name,
					Text: fmt.Sprintf("its MTU is %d and that of the uplink %s is %d: large packets are lost if the ICMP error fragmentation needed does not reach the sender",
						bridge.MTU, uplink.Name, uplink.MTU),
					Command: fmt.Sprintf(`editor %s   # "mtu": %d`, n.File, uplink.MTU),
				})
			}
		}
		if n.MTU != 0 && bridge.MTU != n.MTU {
			all = append(all, Finding{
				Severity: Warning, Subject: "network " + n.Name,
				Text:    fmt.Sprintf("its list says MTU %d, and bridge %s has %d: larger packets between containers and the host are dropped", n.MTU, bridge.Name, bridge.MTU),
				Command: fmt.Sprintf("ip link set %s mtu %d", bridge.Name, n.MTU),
			})
		}
		if !examined[bridge.Name] {
			all = append(all, h.ports(n, *bridge)...)
		}
		examined[bridge.Name] = true
	}
	return all
}

// ports finds a bridge whose ports have different MTUs.
func (h *Host) ports(n inventory.Network, bridge inventory.Link) []Finding {
	var smallest, largest inventory.Link
	for _, l := range h.Links {
		if l.Master != bridge.Name {
			continue
		}
		if smallest.Name == "" || l.MTU < smallest.MTU {
			smallest = l
		}
		if l.MTU > largest.MTU {
			largest = l
		}
	}
	if smallest.MTU == largest.MTU {
		return nil
	}
	return []Finding{{
		Severity: Warning, Subject: "network " + n.Name,
		Text: fmt.Sprintf("ports of bridge %s differ: %s has MTU %d, %s %d; larger packets from one to the other are dropped silently",
			bridge.Name, smallest.Name, smallest.MTU, largest.Name, largest.MTU),
		Command: fmt.Sprintf("ip link set %s mtu %d   # and in its container", smallest.Name, largest.MTU),
	}}
}

// uplinks are the links of the default routes.
func (h *Host) uplinks() []inventory.Link {
	var all []inventory.Link
	for _, r := range h.Routes {
		isDefault := r.To == netip.PrefixFrom(netip.IPv4Unspecified(), 0) || r.To == netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		known := func(l inventory.Link) bool { return l.Name == r.Link }
		if link, ok := h.LinkOf(r.Link); ok && isDefault && !slices.ContainsFunc(all, known) {
			all = append(all, *link)
		}
	}
	return all
}
