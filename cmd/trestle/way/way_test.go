package way

import (
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// TestInner: the host routes to a container on a VLAN by the gateway's VLAN interface on the
// bridge, and not by the bridge, which has no address in its subnet.
func TestInner(t *testing.T) {
	t.Parallel()
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	h := &Host{Snapshot: &inventory.Snapshot{Links: []inventory.Link{
		{Index: 3, Name: "br0", Kind: "bridge", PeerNetNS: -1, Addresses: prefixes("10.1.0.1/24")},
		{Index: 4, Name: "br0.6", Kind: "vlan", VLAN: 6, Peer: 3, PeerNetNS: -1, Addresses: prefixes("10.6.0.1/24")},
		{Index: 5, Name: "br0.7", Kind: "vlan", VLAN: 7, Peer: 3, PeerNetNS: -1, Addresses: prefixes("10.7.0.1/24", "fd07::1/64")},
		{Index: 6, Name: "br1", Kind: "bridge", PeerNetNS: -1},
		{Index: 7, Name: "br1.7", Kind: "vlan", VLAN: 7, Peer: 6, PeerNetNS: -1, Addresses: prefixes("10.7.0.1/24")},
	}}}
	for _, test := range []struct{ name, bridge, address, want string }{
		{"on a bridge", "br0", "10.1.0.5", "br0"},
		{"on a VLAN", "br0", "10.7.0.5", "br0.7"},
		{"on a VLAN, IPv6", "br0", "fd07::5", "br0.7"},
		{"on a VLAN without a gateway", "br0", "10.8.0.5", "br0"},
		{"on another bridge", "br1", "10.7.0.5", "br1.7"},
		{"on no bridge", "", "10.1.0.5", "veth1"},
	} {
		a := inventory.Attachment{Bridge: test.bridge, HostLink: "veth1", Addresses: []netip.Addr{netip.MustParseAddr(test.address)}}
		if got := h.traveller(a, "tcp").inner(); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}
