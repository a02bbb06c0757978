package overlay

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// overhead is what VXLAN adds to a packet: the outer IP header, UDP's and its own, and
// the inner Ethernet header.
func overhead(remote netip.Addr) int {
	if remote.Is4() {
		return 50
	}
	return 70
}

// mtuTo is the smaller MTU of both hosts' uplinks.
func mtuTo(self Self, peer Peer) int { return min(self.MTU, cmp.Or(peer.MTU, self.MTU)) }

// minMTU6 is the least MTU of an IPv6 link (RFC 8200, section 5).
const minMTU6 = 1280

// MTU is the MTU for containers: what the smallest uplink leaves. No peer brings it below
// minMTU6, since containers would lose IPv6: the route to such a peer has the peer's MTU,
// and path MTU discovery tells it to senders.
func MTU(self Self, peers []Peer) int {
	alone := leftOf(self, nil)
	return max(leftOf(self, peers), min(alone, minMTU6))
}

// leftOf is the smallest uplink's MTU without what the backend adds to a packet.
func leftOf(self Self, peers []Peer) int {
	least := self.MTU
	family4 := self.family4()
	for _, p := range peers {
		least = min(least, mtuTo(self, p))
		if self.Backend == WireGuardOnly && family4 && len(p.Underlay) > 0 {
			_, family4 = addressOf(p.Underlay, true)
		}
	}
	switch {
	case self.Backend == HostGW:
		return least
	case self.Backend == WireGuardOnly:
		return least - wireGuardOverhead(family4)
	case family4:
		return least - overhead(netip.IPv4Unspecified())
	}
	return least - overhead(netip.IPv6Unspecified())
}

// LargerPorts counts the bridge's ports with a larger MTU: those of containers that were
// started before some host's uplink had a smaller one.
func (h *Host) LargerPorts(bridge string, mtu int) (int, error) {
	link, err := h.link(bridge)
	if err != nil || link == nil {
		return 0, err
	}
	links, err := dump.Complete(h.nl.LinkList)
	if err != nil {
		return 0, fmt.Errorf("list links: %w", err)
	}
	n := 0
	for _, l := range links {
		if l.Attrs().MasterIndex == link.Attrs().Index && l.Attrs().MTU > mtu {
			n++
		}
	}
	return n, nil
}
