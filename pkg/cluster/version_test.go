package cluster_test

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

func TestCheckAgent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		least, version string
		want           bool
	}{
		{"", "", true},
		{"2.1.0", "2.1.0", true},
		{"2.1.0", "v2.1.0", false},
		{"2.1.0", "2.0.9", false},
		{"2.1.0", "2.1.0-dev", true},
		{"2.1.0", "2.1.0+3", true},
		{"2.9.0", "2.10.0", true},
		{"2.1.0", "3.0.0", true},
		{"2.1.0", "", false},
		{"2.1.0", "unknown", false},
	} {
		err := cluster.Config{MinAgent: test.least}.CheckAgent(test.version)
		if (err == nil) != test.want || err != nil && !errors.Is(err, cluster.ErrTooOld) {
			t.Errorf("%q for a cluster of %q: got %v, want fine: %v", test.version, test.least, err, test.want)
		}
	}
}

// TestMinAgent: an agent that is too old keeps its subnets, gives up one that becomes another's,
// and writes nothing; one without a subnet gets none. A newer agent goes on from there.
func TestMinAgent(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b")
	a, late := hosts[0], newHost(store, "late")
	a.Version, late.Version = "2.0.0", "2.0.0"
	value := store.keys[cluster.KeyConfig]
	value.Data = []byte(strings.Replace(string(value.Data), "{", `{"minAgent": "2.1.0", `, 1))
	store.keys[cluster.KeyConfig] = value
	before, had := maps.Clone(store.keys), len(a.State.Claims)
	moved := func() error {
		return a.Reconcile(t.Context(), store, cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.99/24")}, MTU: 1500})
	}
	if err := moved(); err != nil || len(a.State.Claims) != had || !errors.Is(a.Outdated(), cluster.ErrTooOld) {
		t.Errorf("got %v, claims %v, want those that it had", err, a.State.Claims)
	}
	if err := late.reconcile(); !errors.Is(err, cluster.ErrTooOld) || !strings.Contains(err.Error(), "2.1.0") {
		t.Errorf("one without a subnet: got %v, want %v", err, cluster.ErrTooOld)
	}
	if len(store.keys) != len(before) || !bytes.Equal(store.keys["nodes/id-a"].Data, before["nodes/id-a"].Data) {
		t.Errorf("got %d keys of %d, a's record %s; want nothing written", len(store.keys), len(before), store.keys["nodes/id-a"].Data)
	}
	if fine, err := a.Unchanged(t.Context(), store, cluster.Node{}); !fine || err != nil {
		t.Errorf("unchanged: got %v, %v, want that there is nothing to do", fine, err)
	}

	// the store has lost its claims, which it may not write again: it is not to look at
	// everything at each heartbeat
	lost := a.State.Claims[0]
	delete(store.keys, cluster.ClaimKey(lost.Network, lost.Subnet))
	if err := moved(); err != nil || len(a.State.Claims) != had || len(a.State.Lost) > 0 {
		t.Errorf("a claim that the store has lost: got %v, claims %v, lost %v; want those that it had", err, a.State.Claims, a.State.Lost)
	}
	if fine, err := a.Unchanged(t.Context(), store, cluster.Node{}); !fine || err != nil {
		t.Errorf("unchanged: got %v, %v, want that there is nothing to do", fine, err)
	}

	// a subnet of its is another's now
	store.keys[cluster.ClaimKey(lost.Network, lost.Subnet)] = cluster.Value{Data: []byte(`{"node": "x", "nonce": "x"}`), Revision: store.revision}
	if fine, err := a.Unchanged(t.Context(), store, cluster.Node{}); fine || err != nil {
		t.Errorf("unchanged: got %v, %v, want that something is amiss", fine, err)
	}
	if err := moved(); err != nil || len(a.State.Lost) != 1 || a.State.Lost[0] != lost || len(a.State.Claims) != had-1 {
		t.Errorf("got %v, lost %v, claims %v; want %v lost, and no other in its place", err, a.State.Lost, a.State.Claims, lost)
	}
	a.Version = "2.1.0"
	if err := moved(); err != nil || len(a.State.Claims) != had || !strings.Contains(string(store.keys["nodes/id-a"].Data), "192.0.2.99") {
		t.Errorf("upgraded: got %v, claims %v, record %s; want another subnet, and the address published", err, a.State.Claims, store.keys["nodes/id-a"].Data)
	}
}
