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

// mtuTo is what the links of both hosts take.
func mtuTo(self Self, peer Peer) int { return min(self.MTU, cmp.Or(peer.MTU, self.MTU)) }

// leastOfPeers is what IPv6 takes at least (RFC 8200, section 5).
const leastOfPeers = 1280

// MTU is what containers may send to any host: what the smallest uplink leaves. No peer
// brings it below leastOfPeers, with which no container would have IPv6: the route to such
// a peer has its MTU, and senders are told.
func MTU(self Self, peers []Peer) int {
	alone := leftOf(self, nil)
	return max(leftOf(self, peers), min(alone, leastOfPeers))
}

// leftOf is what the smallest uplink leaves.
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

// LargerPorts is how many ports of the bridge have a larger MTU: containers that were
// started before some host took less.
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
