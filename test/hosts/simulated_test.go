package hosts

import (
	"context"
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// TestManyAtOnce (row 26): a hundred hosts that ask one etcd for subnets at the same moment have
// subnets of their own, and seldom asked twice; when they come again nothing is written.
// `make soak-hosts` has a thousand.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1)
	n.init(t, `{"id": "lab", "networks": [{"name": "pods", "ipv4": {"pool": "10.0.0.0/8", "subnetLen": 24}, "ipv6": {"pool": "fd40::/48", "subnetLen": 64}}]}`)
	const many = 100
	store, hosts := n.etcd.Store(), lab.Simulated(many, "n")
	ctx, cancel := context.WithTimeout(t.Context(), 2*lab.Patience)
	defer cancel()
	reconcile := func(m *cluster.Member) error {
		return m.Reconcile(ctx, store, cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, MTU: 1500})
	}
	if _, err := lab.Join(hosts, reconcile); err != nil {
		t.Fatal(err)
	}
	owner := map[netip.Prefix]string{}
	for _, m := range hosts {
		for _, s := range m.State.Subnets("pods") {
			if other := owner[s]; other != "" {
				t.Errorf("%s and %s both have %s", other, m.State.ID, s)
			}
			owner[s] = m.State.ID
		}
	}
	if len(owner) != 2*many {
		t.Errorf("got %d subnets, want %d", len(owner), 2*many)
	}
	commits := store.Commits.Load()
	if commits > many*3/2 {
		t.Errorf("got %d transactions for %d hosts, want 1.5 each at most", commits, many)
	}
	if _, err := lab.Join(hosts, reconcile); err != nil || store.Commits.Load() != commits {
		t.Errorf("again: got %d transactions more, %v, want none", store.Commits.Load()-commits, err)
	}
}
