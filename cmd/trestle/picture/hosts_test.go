package picture

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// hostOf is README's host with n other hosts, of which one is missing in the store, and one is not
// reached.
func hostOf(peers int) *inventory.Snapshot {
	s := smallHost()
	s.Node = &inventory.Node{Running: true, Status: hosts.Status{
		Name: "a", State: hosts.Ready, Uplink: "eth0", MTU: 1450, Store: hosts.Store{Name: "etcd at https://192.0.2.9:2379", Connected: true},
		Tunnel: &hosts.Device{Name: "trestle-vx", Kind: "vxlan", VNI: 7243, Port: 8473},
		Pools:  []netip.Prefix{prefix("10.40.0.0/16"), prefix("fd40::/48")},
	}}
	for i := range peers {
		p := hosts.Peer{
			ID: fmt.Sprintf("id%d", i), Name: fmt.Sprintf("node-%d", i), Way: hosts.Tunnel, MTU: 1500,
			Underlay: []netip.Prefix{prefix(fmt.Sprintf("192.0.2.%d/24", 10+i%200))},
			Subnets: []hosts.Subnet{
				{Network: "trestle", Subnet: prefix(fmt.Sprintf("10.40.%d.0/24", i%256))},
				{Network: "trestle", Subnet: prefix(fmt.Sprintf("fd40:0:0:%x::/64", i))},
			},
			Seen: s.Time.Add(-time.Minute),
		}
		switch i {
		case 1:
			p.Missing, p.Seen = true, s.Time.Add(-time.Hour)
		case 2:
			p.Way = hosts.None
		case 3:
			p.Way = hosts.Direct
		}
		s.Node.Peers = append(s.Node.Peers, p)
	}
	return s
}

// TestHostsDrawn: the other hosts are in the tree and in the picture, and those that are not
// reached, or not in the store, are marked.
func TestHostsDrawn(t *testing.T) {
	for _, peers := range []int{4, 1000} {
		top := NewTopology(hostOf(peers))
		tree := top.Tree(TreeOptions{Width: 80})
		golden(t, fmt.Sprintf("tree-of-%d-hosts.txt", peers), tree)
		if n := strings.Count(tree, "\n"); n > 60 {
			t.Errorf("got %d lines of %d hosts", n, peers)
		}
		if top.Counts.Containers != 3 {
			t.Errorf("got %d containers, want 3: hosts are none", top.Counts.Containers)
		}
	}
	top := NewTopology(hostOf(4))
	golden(t, "topology-of-4-hosts.svg", top.SVG())
	if dot := top.DOT(); !strings.Contains(dot, "node-3") || !strings.Contains(dot, "10.40.3.0/24") {
		t.Errorf("got %s", dot)
	}
	page, err := Page(top, hostOf(4).Time)
	if err != nil || !strings.Contains(page, `"id":"other hosts/id3/direct","name":"node-3","kind":"host"`) {
		t.Errorf("got %v, and no details of node-3", err)
	}
	if got := NewTopology(hostOf(4), "vault"); len(got.Hosts.Peers) != 0 {
		t.Errorf("got %+v on vault, want none", got.Hosts.Peers)
	}
}
