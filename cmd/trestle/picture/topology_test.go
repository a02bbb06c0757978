package picture

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// TestNewTopology: each link is in exactly one place.
func TestNewTopology(t *testing.T) {
	s := smallHost()
	s.Links = append(s.Links,
		inventory.Link{Index: 20, Name: "bond0", Kind: "bond", Up: true, PeerNetNS: -1},
		inventory.Link{Index: 21, Name: "eth1", Kind: "device", Up: true, PeerNetNS: -1, Master: "bond0"},
		inventory.Link{Index: 22, Name: "eth2", Kind: "device", Up: true, PeerNetNS: -1, Master: "trestle0"},
		inventory.Link{Index: 23, Name: "trestle0.7", Kind: "vlan", Up: true, Peer: 5, PeerNetNS: -1, VLAN: 7},
		inventory.Link{Index: 24, Name: "va", Kind: "veth", Up: true, Peer: 25, PeerNetNS: -1, Master: "trestle0"},
		inventory.Link{Index: 25, Name: "vb", Kind: "veth", Up: true, Peer: 24, PeerNetNS: -1, Operational: "lowerlayerdown"},
		inventory.Link{Index: 26, Name: "vc", Kind: "veth", Up: true, Peer: 2, PeerNetNS: 9},
		inventory.Link{Index: 27, Name: "vd", Kind: "veth", Up: true, Peer: 3, PeerNetNS: 10, PeerNetNSName: "lab"},
	)
	top := NewTopology(s)
	names := func(all []Interface) []string {
		var names []string
		for _, i := range all {
			names = append(names, i.Name)
			for _, below := range i.Below {
				names = append(names, i.Name+">"+below.Name)
			}
		}
		return names
	}
	check := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	check("uplinks", names(top.Uplinks), "eth0", "eth0>eth0.20", "bond0", "bond0>eth1")
	check("others", names(top.Others), "wg0", "vb", "vc", "vd")
	check("ports of trestle0", names(top.Segments[0].Ports), "eth2", "va")
	check("on trestle0", names([]Interface{*top.Segments[0].Bridge}), "trestle0", "trestle0>trestle0.7")
	if got := top.Segments[0].Ports[1].Peer; got != "vb" {
		t.Errorf("got peer %q of va, want vb", got)
	}
	if vb, vc := top.Others[1], top.Others[2]; vb.Up || vc.Peer != "index 2 in namespace 9" || top.Others[3].Peer != "index 3 in lab" {
		t.Errorf("got %+v and %+v", vb, vc)
	}
	if want := (Counts{Networks: 2, Containers: 3, Dead: 1, Ports: 2}); top.Counts != want {
		t.Errorf("got %+v, want %+v", top.Counts, want)
	}
}

// TestCountsPorts: each published port counts, also of a range, and once for both families.
func TestCountsPorts(t *testing.T) {
	s := smallHost()
	before := NewTopology(s).Counts.Ports
	for i := range uint16(4) {
		for _, host := range []string{"0.0.0.0", "::"} {
			s.Attachments[0].Ports = append(s.Attachments[0].Ports, inventory.Port{
				Protocol: "udp", Host: netip.AddrPortFrom(addr(host), 9000+i), Container: netip.AddrPortFrom(addr(host), 90+i),
			})
		}
	}
	if got := NewTopology(s).Counts.Ports; got != before+4 {
		t.Errorf("got %d ports, want four more than %d", got, before)
	}
}

// TestOfNetworks: the topology of a network has the network and the uplinks.
func TestOfNetworks(t *testing.T) {
	top := NewTopology(middlingHost(), "back")
	if len(top.Segments) != 1 || top.Segments[0].Name != "br-back" || len(top.Segments[0].Members) != 9 || len(top.Uplinks) != 1 || len(top.Others) != 0 {
		t.Errorf("got %+v", top)
	}
}

// TestSharedBridge: two networks on one bridge are one segment, whose members are grouped by
// network; a network without a list is on the bridge of its attachments.
func TestSharedBridge(t *testing.T) {
	s := smallHost()
	s.Networks[1].Bridge = "trestle0"
	s.Attachments[1].Network = "vault"
	s.Networks = append(s.Networks, inventory.Network{Name: "gone"})
	s.Attachments[0].Network = "gone"
	top := NewTopology(s)
	if len(top.Segments) != 1 || len(top.Segments[0].Networks) != 3 {
		t.Fatalf("got %+v", top.Segments)
	}
	groups := top.Segments[0].groups()
	if len(groups) != 3 || groups[0].Name != "gone" || groups[1].Name != "trestle" || groups[2].Name != "vault" {
		t.Errorf("got %+v", groups)
	}
}

// TestAlso: each attachment of a container on two networks names the other one.
func TestAlso(t *testing.T) {
	top := NewTopology(middlingHost())
	for _, s := range top.Segments {
		for _, m := range s.Members {
			if m.Container == "w1" && (len(m.Also) != 1 || m.Network == "six" && m.Also[0] != "eth0 on web") {
				t.Errorf("got %+v", m)
			}
		}
	}
}
