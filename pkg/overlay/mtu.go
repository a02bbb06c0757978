package overlay

import (
	"cmp"
	"net/netip"
)

// overhead is what VXLAN adds to a packet: the outer IP header, UDP's and its own, and
// the inner Ethernet header.
func overhead(remote netip.Addr) int {
	if remote.Is4() {
		return 50
	}
	return 70
}

// MTU is what containers may send to any host: what the smallest uplink leaves.
func MTU(self Self, peers []Peer) int {
	least := self.MTU
	for _, p := range peers {
		least = min(least, cmp.Or(p.MTU, least))
	}
	if self.Backend == HostGW {
		return least
	}
	if self.family4() {
		return least - overhead(netip.IPv4Unspecified())
	}
	return least - overhead(netip.IPv6Unspecified())
}
