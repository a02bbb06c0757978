package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// given is a store whose subnets a control plane assigns (View.Complete).
type given struct {
	*memory
	fixed   bool
	lacking error
}

func (g *given) Get(ctx context.Context, keys ...string) (cluster.View, error) {
	view, err := g.memory.Get(ctx, keys...)
	view.Complete, view.Fixed, view.Lacking = true, g.fixed, g.lacking
	return view, err
}

// give assigns subnets to a host, instead of those that it has.
func (g *given) give(t *testing.T, id string, subnets ...string) {
	t.Helper()
	g.revision++
	for key, value := range g.keys {
		if strings.HasPrefix(key, cluster.PrefixClaims) && strings.Contains(string(value.Data), `"`+id+`"`) {
			delete(g.keys, key)
		}
	}
	for _, s := range subnets {
		data, err := json.Marshal(map[string]string{"node": id, "nonce": "given"})
		if err != nil {
			t.Fatal(err)
		}
		g.keys[cluster.ClaimKey("n", netip.MustParsePrefix(s))] = cluster.Value{Data: data, Revision: g.revision}
	}
}

func newGiven(t *testing.T) (*given, *plainHost) {
	t.Helper()
	store, _ := newCluster(t)
	g := &given{memory: store}
	a := newHost(store, "a")
	g.give(t, a.State.ID, "10.0.1.0/24", "fd00:0:0:1::/64")
	return g, a
}

func (h *plainHost) settleWith(store cluster.Store) error {
	return h.Reconcile(context.Background(), store, cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, MTU: 1500})
}

func subnetsOf(owned []cluster.Owned) (all []string) {
	for _, o := range owned {
		all = append(all, o.Subnet.String())
	}
	return all
}

// TestGiven: a host takes the subnets that it is assigned, publishes its record and claims
// nothing; it takes other ones when they are reassigned, and keeps what it has while it has none
// assigned.
func TestGiven(t *testing.T) {
	t.Parallel()
	g, a := newGiven(t)
	if err := a.settleWith(g); err != nil || !slices.Equal(subnetsOf(a.State.Claims), []string{"10.0.1.0/24", "fd00:0:0:1::/64"}) {
		t.Fatalf("got %v, %v, want what is given", a.State.Claims, err)
	}
	if g.keys[cluster.PrefixNodes+a.State.ID].Data == nil || g.keys[cluster.PrefixNames+"a"].Data != nil {
		t.Errorf("got keys %v, want a record and no name", g.keys)
	}
	g.give(t, a.State.ID, "10.0.2.0/24", "fd00:0:0:1::/64")
	if err := a.settleWith(g); err != nil || !slices.Equal(subnetsOf(a.State.Claims), []string{"10.0.2.0/24", "fd00:0:0:1::/64"}) ||
		!slices.Equal(subnetsOf(a.State.Lost), []string{"10.0.1.0/24"}) {
		t.Errorf("another is given: got %v, lost %v, %v", a.State.Claims, a.State.Lost, err)
	}
	g.give(t, a.State.ID)
	g.lacking = errors.New("ask the control plane")
	if err := a.settleWith(g); !errors.Is(err, g.lacking) || len(a.State.Claims) != 2 {
		t.Errorf("none is given: got %v, claims %v; want the store's words, and all kept", err, a.State.Claims)
	}
	g.give(t, "id-b", "10.0.2.0/24")
	if err := a.settleWith(g); !errors.Is(err, g.lacking) || !slices.Equal(subnetsOf(a.State.Claims), []string{"fd00:0:0:1::/64"}) {
		t.Errorf("it is another's: got %v, claims %v", err, a.State.Claims)
	}
}

// TestGivenFixed: a host that a fixed list does not name any more gives up a subnet that the list
// gives to another.
func TestGivenFixed(t *testing.T) {
	t.Parallel()
	g, a := newGiven(t)
	g.fixed = true
	if err := a.settleWith(g); err != nil || g.keys[cluster.PrefixNodes+a.State.ID].Data != nil {
		t.Fatalf("got %v, %v, want nothing written", g.keys, err)
	}
	g.give(t, a.State.ID)
	g.give(t, "id-b", "10.0.1.0/24")
	_ = a.settleWith(g) // it lacks a subnet
	if !slices.Equal(subnetsOf(a.State.Lost), []string{"10.0.1.0/24"}) {
		t.Errorf("got lost %v, claims %v, want 10.0.1.0/24 lost", a.State.Lost, a.State.Claims)
	}
}

// TestGivenRestored: a host suspects a control plane whose store went back; it writes nothing, and
// believes no peer gone.
func TestGivenRestored(t *testing.T) {
	t.Parallel()
	g, a := newGiven(t)
	b := newHost(g.memory, "b")
	g.give(t, b.State.ID, "10.0.2.0/24", "fd00:0:0:2::/64")
	for _, h := range []*plainHost{a, b} {
		if err := h.settleWith(g); err != nil {
			t.Fatal(err)
		}
	}
	listing := func() *cluster.Listing {
		view, err := g.Get(t.Context(), cluster.PrefixNodes)
		if err != nil {
			t.Fatal(err)
		}
		return cluster.NewListing(view)
	}
	if a.State.Believe(listing()); len(a.peers()) != 1 {
		t.Fatalf("got peers %v, want b", a.peers())
	}
	g.revision -= 3
	delete(g.keys, cluster.PrefixNodes+b.State.ID)
	if fine, err := a.Unchanged(t.Context(), g, cluster.Node{}); fine || err != nil {
		t.Errorf("got %v, %v, want that it is noticed", fine, err)
	}
	if err := a.settleWith(g); err != nil || a.State.Suspect == "" || g.keys[cluster.KeyFrozen].Data != nil {
		t.Errorf("got %v, suspect %q, keys %v, want a suspicion that is kept to itself", err, a.State.Suspect, g.keys)
	}
	if v := a.State.Believe(listing()); len(a.peers()) != 1 || len(v.Missing) != 1 {
		t.Errorf("got peers %v, want b, though it is missing", a.peers())
	}
	a.State.Suspect = ""
	for _, test := range []struct {
		name   string
		atBeat bool
		want   int
	}{{"changed", false, 1}, {"at a heartbeat", true, 1}, {"changed again", false, 1}, {"at the next heartbeat", true, 0}} {
		l := listing()
		l.AtBeat = test.atBeat
		if a.State.Believe(l); len(a.peers()) != test.want {
			t.Errorf("%s: got peers %v, want %d: the list says so at two heartbeats", test.name, a.peers(), test.want)
		}
	}
}

// TestGivenDeletedOneByOne: most of the nodes, deleted one after the other, make a host suspect the
// list before it has believed it; a few are gone after a while, and one that is back is not.
func TestGivenDeletedOneByOne(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ deleted, back, want int }{{6, 0, 8}, {3, 0, 5}, {3, 1, 6}, {4, 0, 4}, {5, 5, 8}} {
		g, a := newGiven(t)
		if err := a.settleWith(g); err != nil {
			t.Fatal(err)
		}
		var ids []string
		for i := range 8 {
			b := newHost(g.memory, fmt.Sprint("b", i))
			g.give(t, b.State.ID, fmt.Sprintf("10.0.%d.0/24", 10+i), fmt.Sprintf("fd00:0:0:%d::/64", 10+i))
			if err := b.settleWith(g); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, cluster.PrefixNodes+b.State.ID)
		}
		look := func(atBeat bool) {
			view, err := g.Get(t.Context(), cluster.PrefixNodes)
			if err != nil {
				t.Fatal(err)
			}
			l := cluster.NewListing(view)
			l.AtBeat = atBeat
			a.State.Believe(l)
		}
		look(false)
		had := map[string]cluster.Value{}
		for _, id := range ids[:test.deleted] {
			had[id] = g.keys[id]
			delete(g.keys, id)
			look(false)
			look(id == ids[1]) // a heartbeat comes between
		}
		for _, id := range ids[:test.back] {
			g.keys[id] = had[id]
			look(false)
		}
		for range 2 {
			look(true)
		}
		if len(a.peers()) != test.want || (a.State.Suspect != "") != (test.want == 8 && test.back == 0) {
			t.Errorf("%d deleted, %d back: got peers %v, suspect %q, want %d", test.deleted, test.back, a.peers(), a.State.Suspect, test.want)
		}
	}
}

// TestGivenLeave: a host that leaves deletes its record, and does not release assigned subnets.
func TestGivenLeave(t *testing.T) {
	t.Parallel()
	g, a := newGiven(t)
	if err := a.settleWith(g); err != nil {
		t.Fatal(err)
	}
	keys := len(g.keys)
	if err := a.Leave(t.Context(), g); err != nil || len(g.keys) != keys-1 || len(a.State.Claims) != 0 {
		t.Errorf("got %v, %d keys of %d, claims %v; want one key less", err, len(g.keys), keys, a.State.Claims)
	}
	g.fixed = true
	if err := cluster.Release(t.Context(), g, a.State.ID, a.Now()); !errors.Is(err, cluster.ErrReadOnly) {
		t.Errorf("release from a fixed list: got %v", err)
	}
}

// TestUnusableRecord: a record that the store cannot read is no proof that its host has left, and
// does not count as deleted.
func TestUnusableRecord(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b")
	a, b := hosts[0], hosts[1]
	bad := cluster.Value{Err: errors.New("no agent there")}
	view := cluster.View{Complete: true, Keys: map[string]cluster.Value{cluster.PrefixNodes + b.State.ID: bad, cluster.PrefixNodes + "id-c": bad}}
	v := a.State.Believe(cluster.NewListing(view))
	if len(a.peers()) != 1 || len(v.Problems) != 2 || !strings.Contains(v.Problems[0], "no agent there") {
		t.Errorf("got peers %v, problems %v; want b kept, c no peer, both named", a.peers(), v.Problems)
	}
	view, err := store.Get(t.Context(), cluster.PrefixNodes)
	if err != nil {
		t.Fatal(err)
	}
	l := cluster.NewListing(view)
	if gone := l.Apply([]cluster.Change{{Key: cluster.PrefixNodes + b.State.ID, Value: bad}}); gone {
		t.Error("an unusable record counts as deleted")
	}
}

// TestSubnetLen: the default length of a pool's subnets.
func TestSubnetLen(t *testing.T) {
	t.Parallel()
	c, err := cluster.ParseConfig([]byte(`{"networks": [{"name": "n", "ipv4": {"pool": "10.0.0.0/16"}, "ipv6": {"pool": "fd00::/48"}}]}`))
	if err != nil || c.Networks[0].IPv4.SubnetLen != 24 || c.Networks[0].IPv6.SubnetLen != 64 {
		t.Errorf("got %v, %v, want 24 and 64", c.Networks, err)
	}
}

// TestKeyOfAnother: a host that publishes another's WireGuard key does not take the key from it; it
// has the key once the other is gone or has another key.
func TestKeyOfAnother(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "c")
	c := hosts[0]
	record := func(id, key string) {
		store.revision++
		store.keys[cluster.PrefixNodes+id] = cluster.Value{Data: []byte(`{"id": "` + id + `", "name": "` + id + `", "wgKey": "` + key + `"}`), Revision: store.revision}
	}
	believe := func() (cluster.Verdict, map[string]string) {
		view, err := store.Get(t.Context(), cluster.PrefixNodes)
		if err != nil {
			t.Fatal(err)
		}
		v, keys := c.State.Believe(cluster.NewListing(view)), map[string]string{}
		for _, p := range c.State.Peers {
			keys[p.ID] = p.WGKey
		}
		return v, keys
	}
	record("a", "A")
	record("b", "B")
	believe()
	record("a", "B")
	for range 2 {
		v, keys := believe()
		if keys["b"] != "B" || keys["a"] != "" || len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "node a (a) says that it has the WireGuard key of node b") {
			t.Errorf("got keys %v, problems %v, want b's left to it", keys, v.Problems)
		}
	}
	record("b", "C")
	if v, keys := believe(); keys["b"] != "C" || keys["a"] != "B" || len(v.Problems) != 0 {
		t.Errorf("got keys %v, problems %v, want what each says", keys, v.Problems)
	}

	// of two new hosts with the same key neither has it, and no peer has this host's
	record("d", "D")
	record("e", "D")
	c.State.Self.WGKey = "own"
	record("f", "own")
	for range 2 {
		v, keys := believe()
		problems := strings.Join(v.Problems, "\n")
		if keys["d"]+keys["e"]+keys["f"] != "" || keys["a"] != "B" || len(v.Problems) != 2 ||
			!strings.Contains(problems, "node d (d) and node e (e) have the same WireGuard key, so that neither is reached by it") ||
			!strings.Contains(problems, "node f (f) says that it has the WireGuard key of this host") {
			t.Errorf("got keys %v, problems %v, want none for d, e and f", keys, v.Problems)
		}
	}
	record("e", "E")
	record("f", "F")
	if v, keys := believe(); keys["d"] != "D" || keys["e"] != "E" || keys["f"] != "F" || len(v.Problems) != 0 {
		t.Errorf("got keys %v, problems %v, want what each says", keys, v.Problems)
	}
}
