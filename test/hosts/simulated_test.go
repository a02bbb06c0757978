package hosts

import (
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// TestManyAtOnce (row 26): a hundred hosts that ask one etcd for subnets at the same moment have
// subnets of their own, and seldom asked twice; when they come again nothing is written.
// `make soak-hosts` has a thousand.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1)
	n.init(t, lab.Wide)
	const many = 100
	store := n.etcd.Store()
	joined, err := store.Join(many, false)
	if err != nil {
		t.Fatal(err)
	}
	if joined.Subnets != 2*many {
		t.Errorf("got %d different subnets, want one of each family for each of %d hosts", joined.Subnets, many)
	}
	if joined.Commits > many*3/2 {
		t.Errorf("got %d transactions for %d hosts, want 1.5 each at most", joined.Commits, many)
	}
	if _, commits, err := store.Again(joined.Hosts); err != nil || commits != 0 {
		t.Errorf("again: got %d transactions, %v, want none", commits, err)
	}
}
