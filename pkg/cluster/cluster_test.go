package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

func TestParseConfig(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, config, want string }{
		{"fine", modelConfig, ""},
		{"no networks", `{"id": "x"}`, "name one with a pool"},
		{"no pool", `{"networks": [{"name": "a"}]}`, "network a: no pool"},
		{"pool too small", `{"networks": [{"name": "a", "ipv4": {"pool": "10.0.0.0/24", "subnetLen": 24}}]}`, "subnetLen: 24 must be more than the pool's 24"},
		{"subnet too small", `{"networks": [{"name": "a", "ipv4": {"pool": "10.0.0.0/24", "subnetLen": 31}}]}`, "at most 30"},
		{"host bits", `{"networks": [{"name": "a", "ipv4": {"pool": "10.0.0.1/24", "subnetLen": 28}}]}`, "10.0.0.0/24 is the prefix"},
		{"family", `{"networks": [{"name": "a", "ipv6": {"pool": "10.0.0.0/24", "subnetLen": 28}}]}`, "of the other family"},
		{"too many", `{"networks": [{"name": "a", "ipv6": {"pool": "fd00::/16", "subnetLen": 64}}]}`, "2^32 is the most"},
		{"overlap", `{"networks": [{"name": "a", "ipv4": {"pool": "10.0.0.0/16", "subnetLen": 24}}, {"name": "b", "ipv4": {"pool": "10.0.8.0/21", "subnetLen": 24}}]}`, "pool 10.0.8.0/21 overlaps 10.0.0.0/16 of network a: ipv4"},
		{"twice", `{"networks": [{"name": "a", "ipv4": {"pool": "10.0.0.0/16", "subnetLen": 24}}, {"name": "a", "ipv4": {"pool": "10.1.0.0/16", "subnetLen": 24}}]}`, "network a is there twice"},
		{"name", `{"networks": [{"name": "A network", "ipv4": {"pool": "10.0.0.0/16", "subnetLen": 24}}]}`, "1 to 12 lower case letters"},
		{"backend", `{"backend": "udp", "networks": []}`, `"udp" is none of`},
		{"mtu", `{"mtu": 900, "networks": []}`, "mtu: 900"},
		{"agent", `{"minAgent": "2.1", "networks": []}`, `minAgent: "2.1" is no release; write it like 2.1.0`},
		{"agent of no release", `{"minAgent": "2.1.0-rc1", "networks": []}`, `minAgent: "2.1.0-rc1" is no release`},
		{"no JSON", `{`, "config:"},
	} {
		_, err := cluster.ParseConfig([]byte(test.config))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q in it", test.name, err, test.want)
		}
	}
}

// withList is a configuration whose network has these keys as well.
func withList(keys string) []byte {
	return []byte(`{"networks": [{"name": "a", "ipv4": {"pool": "10.0.0.0/16", "subnetLen": 24}, ` + keys + `}]}`)
}

// TestParseConfigOfLists: keys that the agent decides, and what would break every list, is
// refused, with the field, the value and the way out.
func TestParseConfigOfLists(t *testing.T) {
	t.Parallel()
	const where = "config: network a: "
	for _, test := range []struct{ keys, want string }{
		{`"cniVersion": "0.4.0"`, ""},
		{`"cniVersion": "1.1.0", "plugins": {}`, ""},
		{`"plugins": {"firewall": {}, "tuning": null, "bandwidth": {"ingressRate": 1}}`, ""},
		{`"plugins": {"portmap": {"backend": "iptables"}, "bridge": {"ipv6LinkLocal": false, "ipam": {"statusWhenFull": "unavailable"}, "masquerade": {"randomFully": true}}}`, ""},
		{`"plugins": {"bridge": {"dns": {"name": 1}, "vlanTrunk": [{"type": 1}]}}`, ""}, // only paths of an entry are decided
		{`"cniVersion": "0.3.1"`, where + `cniVersion: "0.3.1" is none of 0.4.0, 1.0.0, 1.1.0; leave it out for 1.0.0`},
		{`"cniVersion": 1`, "config: networks: "},
		{`"plugins": ["portmap"]`, "config: networks: "},
		{`"plugins": {"portmap": "iptables"}`, "config: networks: "},
		{`"plugins": {"portmapp": {}}`, where + `plugins: "portmapp" is none of bridge, bandwidth, portmap, firewall, tuning; correct the name`},
		{`"plugins": {"portmap": {"type": "ptp"}}`, where + `plugins.portmap.type: "ptp" cannot be set here: the key in plugins is the type; remove this one`},
		{`"plugins": {"firewall": {"CniVersion": "1.1.0"}}`, `plugins.firewall.CniVersion: "1.1.0" cannot be set here: it is the whole list's; set cniVersion beside plugins`},
		{`"plugins": {"bridge": {"BRIDGE": "br0"}}`, `plugins.bridge.BRIDGE: "br0" cannot be set here: the bridge is tn-<network>`},
		{`"plugins": {"bridge": {"Vlan": 10}}`, `plugins.bridge.Vlan: 10 cannot be set here: each network has a bridge of its own`},
		{`"plugins": {"bridge": {"mtu": 1400}}`, "plugins.bridge.mtu: 1400 cannot be set here: the MTU is what the uplinks leave; set mtu beside networks"},
		{`"plugins": {"tuning": {"mtu": 1400}}`, "plugins.tuning.mtu: 1400"},
		{`"plugins": {"bridge": {"ipam": {"type": "dhcp"}}}`, `plugins.bridge.ipam.type: "dhcp"`},
		{`"plugins": {"bridge": {"ipam": {"ranges": []}}}`, `plugins.bridge.ipam.ranges: [] cannot be set here: each host has subnets of its own`},
		{`"plugins": {"bridge": {"ipam": {"dataDir": "/x"}}}`, `plugins.bridge.ipam.dataDir: "/x"`},
		{`"plugins": {"bridge": {"maſquerade": {"Exclude": ["10.0.0.0/8"]}}}`, `plugins.bridge.maſquerade.Exclude: ["10.0.0.0/8"]`}, // it folds to s
		{`"plugins": {"bridge": {"ipam": null}}`, `plugins.bridge.ipam: null is no object; write keys and values in braces, or remove it`},
		{`"plugins": {"bridge": {"masquerade": []}}`, `plugins.bridge.masquerade: [] is no object`},
		{`"plugins": {"portmap": {"capabilities": true}}`, `plugins.portmap.capabilities: true is no object`},
	} {
		_, err := cluster.ParseConfig(withList(test.keys))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q in it", test.keys, err, test.want)
		}
	}
}

// TestListKeysStay: a configuration is written as it was read: a rate of more digits than a
// float64 has, keys of a newer release in a network and in its pool, and each key once, whatever its case.
func TestListKeysStay(t *testing.T) {
	t.Parallel()
	list := withList(`"CNIVersion": "1.1.0", "later": [1], "plugins": {"bandwidth": {"ingressRate": 9007199254740993}}`)
	c, err := cluster.ParseConfig([]byte(strings.Replace(string(list), `"subnetLen": 24`, `"subnetLen": 24, "later": {"x": 1.50}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	const want = `"networks":[{"cniVersion":"1.1.0","ipv4":{"later":{"x":1.50},"pool":"10.0.0.0/16","subnetLen":24},"later":[1],"name":"a","plugins":{"bandwidth":{"ingressRate":9007199254740993}}}]`
	if got := marshal(t, c); !strings.Contains(string(got), want) {
		t.Errorf("got %s, want %s in it", got, want)
	}
}

// TestBadListInStore: a configuration that comes from a store with a key that the agent decides
// changes nothing on a host that runs.
func TestBadListInStore(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a")
	before := marshal(t, hosts[0].State)
	value := store.keys[cluster.KeyConfig]
	value.Data = bytes.Replace(value.Data, []byte(`"name":`), []byte(`"plugins": {"bridge": {"mtu": 1}}, "name":`), 1)
	store.keys[cluster.KeyConfig] = value
	if err := hosts[0].reconcile(); err == nil || !strings.Contains(err.Error(), "plugins.bridge.mtu: 1 cannot be set here") {
		t.Errorf("got %v, want the key named", err)
	}
	if got := marshal(t, hosts[0].State); !bytes.Equal(got, before) {
		t.Errorf("got the state\n%s\nwant that of before\n%s", got, before)
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	for _, p := range []cluster.Pool{
		{Prefix: netip.MustParsePrefix("10.40.0.0/16"), SubnetLen: 24},
		{Prefix: netip.MustParsePrefix("fd40::/48"), SubnetLen: 64},
		{Prefix: netip.MustParsePrefix("fd40::/56"), SubnetLen: 72},
		{Prefix: netip.MustParsePrefix("fd40::/112"), SubnetLen: 120},
	} {
		seen := map[netip.Prefix]bool{}
		for i := range p.Size() {
			s := p.Subnet(i)
			if seen[s] || s != s.Masked() || s.Bits() != p.SubnetLen || !p.Prefix.Contains(s.Addr()) {
				t.Fatalf("%v: subnet %d is %s, twice or outside", p, i, s)
			}
			seen[s] = true
			if i == 1000 {
				break
			}
		}
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	pool := cluster.Pool{Prefix: netip.MustParsePrefix("10.0.0.0/28"), SubnetLen: 30} // four
	subnet := func(i int) netip.Prefix { return pool.Subnet(uint64(i)) }
	now := time.Unix(1e6, 0)
	ago := func(h int) time.Time { return now.Add(-time.Duration(h) * time.Hour) }
	for _, test := range []struct {
		name string
		wish cluster.Wish
		want netip.Prefix
		err  string
	}{
		{name: "the one that is left", wish: cluster.Wish{Taken: []netip.Prefix{subnet(0), subnet(1), subnet(3)}}, want: subnet(2)},
		{name: "one never used comes first", wish: cluster.Wish{
			Taken: []netip.Prefix{subnet(0), subnet(1)}, Released: []cluster.Tombstone{{Subnet: subnet(2), At: ago(100)}},
		}, want: subnet(3)},
		{name: "the oldest of those given up", wish: cluster.Wish{
			Taken: []netip.Prefix{subnet(0), subnet(1)}, Released: []cluster.Tombstone{{subnet(3), 8, ago(30)}, {subnet(2), 7, ago(40)}},
		}, want: subnet(2)},
		{name: "wider claims", wish: cluster.Wish{Taken: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/29"), subnet(2)}}, want: subnet(3)},
		{name: "full", wish: cluster.Wish{Taken: []netip.Prefix{pool.Prefix}}, err: "all 4 of length 30 are taken; release"},
		{name: "in quarantine", wish: cluster.Wish{
			Taken: []netip.Prefix{subnet(0), subnet(1), subnet(2)}, Released: []cluster.Tombstone{{subnet(3), 8, ago(1)}},
		}, err: "10.0.0.12/30 as the oldest at 1970-01-12T12:46:40Z"},
		{name: "in quarantine, and the clock was set back", wish: cluster.Wish{
			Taken: []netip.Prefix{subnet(0), subnet(1), subnet(2)}, Released: []cluster.Tombstone{{subnet(3), 8, ago(-23)}},
		}, err: "10.0.0.12/30 as the oldest"},
		{name: "a clock was a year ahead", wish: cluster.Wish{
			Taken: []netip.Prefix{subnet(0), subnet(1), subnet(2)}, Released: []cluster.Tombstone{{subnet(3), 8, ago(-9000)}},
		}, want: subnet(3)},
	} {
		test.wish.Now, test.wish.Quarantine, test.wish.Seed = now, 24*time.Hour, test.name
		got, err := pool.Choose(test.wish)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && (!errors.Is(err, cluster.ErrFull) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: got %s, %v, want %s, %q", test.name, got, err, test.want, test.err)
		}
	}
}

// TestHostsBeginApart: of a thousand hosts that choose without knowing of each other, few choose
// the same subnet.
func TestHostsBeginApart(t *testing.T) {
	t.Parallel()
	pool := cluster.Pool{Prefix: netip.MustParsePrefix("10.0.0.0/8"), SubnetLen: 24}
	chosen := map[netip.Prefix]bool{}
	for i := range 1000 {
		s, err := pool.Choose(cluster.Wish{Seed: fmt.Sprint("node", i)})
		if err != nil {
			t.Fatal(err)
		}
		chosen[s] = true
	}
	if len(chosen) < 970 { // 992.4 is the expected value for 65,536
		t.Errorf("got %d different subnets of 1000, want 970 at least", len(chosen))
	}
}

// TestUnknownFieldsStay: an older host keeps the keys of a newer release.
func TestUnknownFieldsStay(t *testing.T) {
	t.Parallel()
	const in = `{"id":"a","name":"n","underlay":["192.0.2.1/24"],"mtu":1500,"subnets":null,"later":"k","version":"9"}`
	n, err := cluster.ParseNode([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(n)
	if err != nil || !strings.Contains(string(out), `"later":"k"`) {
		t.Errorf("got %s, %v, want the unknown key kept", out, err)
	}
	c, err := cluster.ParseConfig([]byte(strings.Replace(modelConfig, "{", `{"later": [1], `, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if out, err = json.Marshal(c); err != nil || !strings.Contains(string(out), `"later":[1]`) {
		t.Errorf("got %s, %v, want the unknown key kept", out, err)
	}
}

// TestNodeEqual: a difference in any field makes two records differ.
func TestNodeEqual(t *testing.T) {
	t.Parallel()
	const record = `{"id": "a", "name": "a", "underlay": ["192.0.2.1/24"], "mtu": 1500, "mac": "m", "wgKey": "k", "nat": true,
		"subnets": [{"network": "n", "subnet": "10.0.0.0/24", "nonce": "x"}], "version": "2.0.0", "later": {"b": 1, "a": 2}}`
	parse := func(text string) cluster.Node {
		n, err := cluster.ParseNode([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := parse(record)
	if again := parse(strings.ReplaceAll(record, " ", "")); !n.Equal(again) || !again.Equal(n) {
		t.Errorf("got that %v and %v differ", n, again)
	}
	for i := range reflect.TypeOf(n).NumField() {
		if field := reflect.TypeOf(n).Field(i); field.IsExported() {
			other := n
			reflect.ValueOf(&other).Elem().Field(i).SetZero()
			if n.Equal(other) || other.Equal(n) {
				t.Errorf("%s: got that a record without it is the same", field.Name)
			}
		}
	}
	for _, other := range []string{strings.Replace(record, `"a": 2`, `"a": 3`, 1), strings.Replace(record, `, "later": {"b": 1, "a": 2}`, "", 1)} {
		if o := parse(other); n.Equal(o) || o.Equal(n) {
			t.Errorf("got that %s is the same", other)
		}
	}
}

// TestNodeRefusals: records with which nobody could reach the host, or that would cut off others.
func TestNodeRefusals(t *testing.T) {
	t.Parallel()
	for record, want := range map[string]string{
		`{"name": "a"}`:                                       "id: missing",
		`{"id": "a", "underlay": [""]}`:                       "underlay: an address is empty",
		`{"id": "a", "subnets": [{"subnet": "10.0.0.1/24"}]}`: `subnets: "10.0.0.1/24" is not a prefix`,
		`{"id": "a", "mtu": -5}`:                              "mtu: -5 is less than 576",
		`{"id": "a", "mtu": 60}`:                              "mtu: 60 is less than 576",
	} {
		if _, err := cluster.ParseNode([]byte(record)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", record, err, want)
		}
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "state.json")
	if s, err := cluster.ReadState(path); err != nil || s.ID != "" {
		t.Fatalf("got %v, %v for no file, want nothing", s, err)
	}
	for _, name := range []string{"a", "b"} {
		if err := cluster.SaveState(path, cluster.State{ID: name}); err != nil {
			t.Fatal(err)
		}
		if s, err := cluster.ReadState(path); err != nil || s.ID != name {
			t.Errorf("got %v, %v, want %s", s, err, name)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want the file alone", entries, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.ReadState(path); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("got %v for a truncated file, want the way out", err)
	}
}

// host is a member with a store in memory that never fails.
type plainHost struct {
	*cluster.Member
	store *memory
}

func newHost(store *memory, name string) *plainHost {
	nonces := 0
	return &plainHost{&cluster.Member{
		State: cluster.State{ID: "id-" + name, Name: name},
		Save:  func(cluster.State) error { return nil },
		Nonce: func() string { nonces++; return fmt.Sprint(name, nonces) },
		Now:   time.Now, Quarantine: time.Hour,
	}, store}
}

func (h *plainHost) reconcile() error {
	return h.Reconcile(context.Background(), h.store, cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, MTU: 1500})
}

func (h *plainHost) believe(t *testing.T) cluster.Verdict {
	t.Helper()
	view, err := h.store.Get(t.Context(), cluster.PrefixNodes, cluster.PrefixReleased)
	if err != nil {
		t.Fatal(err)
	}
	return h.State.Believe(cluster.NewListing(view))
}

func (h *plainHost) peers() (names []string) {
	for _, p := range h.State.Peers {
		names = append(names, p.Name)
	}
	return names
}

func newCluster(t *testing.T, names ...string) (*memory, []*plainHost) {
	t.Helper()
	store := newMemory()
	config, err := cluster.ParseConfig([]byte(modelConfig))
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Init(t.Context(), store, config); err != nil {
		t.Fatal(err)
	}
	var hosts []*plainHost
	for _, name := range names {
		h := newHost(store, name)
		if err := h.reconcile(); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	for _, h := range hosts {
		h.believe(t)
	}
	return store, hosts
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b")
	a, b := hosts[0], hosts[1]
	revision := store.revision
	if err := a.reconcile(); err != nil || store.revision != revision {
		t.Errorf("reconciled again: got %v and %d changes, want none", err, store.revision-revision)
	}
	if len(a.State.Claims) != 2 || len(b.State.Claims) != 2 {
		t.Errorf("got %v and %v, want one of each family", a.State.Claims, b.State.Claims)
	}
	twin := newHost(store, "a")
	twin.State.ID = "id-twin"
	if err := twin.reconcile(); !errors.Is(err, cluster.ErrName) || !strings.Contains(err.Error(), "id-a") {
		t.Errorf("the same name: got %v, want the holder named", err)
	}
	had := slices.Clone(a.State.Claims)
	a.State = cluster.State{ID: a.State.ID, Name: "a"}
	if err := a.reconcile(); err != nil || !slices.Equal(a.State.Claims, had) {
		t.Errorf("with its state lost: got %v, %v, want %v again", a.State.Claims, err, had)
	}
	store.keys = map[string]cluster.Value{}
	if err := a.reconcile(); !errors.Is(err, cluster.ErrNoConfig) || a.State.Suspect == "" || len(a.State.Claims) != 2 {
		t.Errorf("a wiped store: got %v, suspect %q, claims %v; want its own kept", err, a.State.Suspect, a.State.Claims)
	}
	if err := newHost(store, "c").reconcile(); !errors.Is(err, cluster.ErrNoConfig) || !strings.Contains(err.Error(), "cluster init") {
		t.Errorf("a new host: got %v, want the way out", err)
	}
}

// TestRenamed: the name that a host had before is free, even if the answer was lost; one that
// another host took meanwhile stays that one's.
func TestRenamed(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b")
	a := hosts[0]
	a.State.Name = "c"
	if err := a.reconcile(); err != nil {
		t.Fatal(err)
	}
	names := func() string {
		view, err := store.Get(t.Context(), cluster.PrefixNames)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for name, value := range view.Under(cluster.PrefixNames) {
			all = append(all, name+" is "+string(value.Data))
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	if got, want := names(), "b is id-b, c is id-a"; got != want {
		t.Errorf("renamed: got %s, want %s", got, want)
	}
	other := newHost(store, "a")
	other.State.ID = "id-other"
	if err := other.reconcile(); err != nil {
		t.Errorf("another host with the former name: %v", err)
	}
	a.State.Self.Name = "a" // the answer was lost
	if err := a.reconcile(); err != nil {
		t.Fatal(err)
	}
	if got, want := names(), "a is id-other, b is id-b, c is id-a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestFenced: a host that comes back after its subnets were released and claimed by another.
func TestFenced(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b")
	a, b := hosts[0], hosts[1]
	lost := a.State.Claims[0]
	if err := cluster.Release(t.Context(), store, a.State.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	if b.believe(t); len(b.peers()) != 0 {
		t.Errorf("after the release: got peers %v, want none", b.peers())
	}
	if err := cluster.Reserve(t.Context(), store, cluster.Owned{Network: "n", Subnet: lost.Subnet, Nonce: "r"}, "test"); err != nil {
		t.Fatal(err)
	}
	if err := a.reconcile(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.State.Lost, []cluster.Owned{lost}) || len(a.State.Claims) != 2 || slices.Contains(a.State.Claims, lost) {
		t.Errorf("got claims %v, lost %v, want %v lost and another claimed", a.State.Claims, a.State.Lost, lost)
	}
	if err := cluster.Release(t.Context(), store, "nobody", time.Now()); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("release of nobody: got %v", err)
	}
	if err := cluster.Unreserve(t.Context(), store, "n", b.State.Claims[0].Subnet); err == nil || !strings.Contains(err.Error(), "is not reserved") {
		t.Errorf("unreserve what a host has: got %v", err)
	}
}

// TestLeave: leaving can be repeated after the host was killed when the store had done it.
func TestLeave(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b")
	a, b := hosts[0], hosts[1]
	var disk cluster.State
	a.Save = func(s cluster.State) error { disk = s; return nil }
	if err := a.Leave(t.Context(), lossy{store}); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	if len(disk.Claims) != 0 || !disk.Leaving {
		t.Errorf("got %v on disk, want no claims, and leaving", disk)
	}
	if err := a.reconcile(); !errors.Is(err, cluster.ErrLeaving) {
		t.Errorf("reconcile: got %v, want that it is leaving", err)
	}
	if err := a.Leave(t.Context(), store); err != nil || !disk.Leaving || !disk.Told {
		t.Errorf("again: got %v, %+v on disk, want leaving, and the store told", err, disk)
	}
	if err := a.reconcile(); !errors.Is(err, cluster.ErrLeaving) {
		t.Errorf("reconcile with something left on the host: got %v, want that it is leaving", err)
	}
	if err := a.Leave(t.Context(), nil); err != nil { // the store is not asked again
		t.Error(err)
	}
	if err := a.EndLeave(); err != nil || disk.Leaving || disk.Told {
		t.Errorf("at the end: got %v, %+v on disk, want nothing of it", err, disk)
	}
	if b.believe(t); len(b.peers()) != 0 {
		t.Errorf("got peers %v after the leave, want none", b.peers())
	}
}

// TestLeaveThatCannotBeSaved: a host that cannot save that it is leaving stays, since a restart
// would not know of it.
func TestLeaveThatCannotBeSaved(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b")
	a := hosts[0]
	a.believe(t)
	full := errors.New("no space left on device")
	a.Save = func(cluster.State) error { return full }
	before := len(store.keys)
	if err := a.Leave(t.Context(), store); !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	if s := a.State; s.Leaving || len(s.Claims) != 2 || len(s.Peers) != 1 || len(store.keys) != before {
		t.Errorf("got state %+v, and %d keys of %d, want all as before", s, len(store.keys), before)
	}
	a.Save = func(cluster.State) error { return nil }
	if err := a.Leave(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	a.Save = func(cluster.State) error { return full }
	if err := a.EndLeave(); !errors.Is(err, full) || !a.State.Leaving || !a.State.Told {
		t.Errorf("at the end: got %v, state %+v, want that it is leaving still", err, a.State)
	}
	if err := a.reconcile(); !errors.Is(err, cluster.ErrLeaving) {
		t.Errorf("got %v, want %v rather than that it joins again", err, cluster.ErrLeaving)
	}
}

// lossy does transactions and loses the answers.
type lossy struct{ *memory }

func (l lossy) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	_, err := l.memory.Commit(ctx, txn)
	return false, errors.Join(errLost, err)
}

// TestLostAnswer: a subnet that a host was given without getting the answer is its own, even while
// claims are frozen.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	store, _ := newCluster(t)
	a := newHost(store, "a")
	if err := a.Reconcile(t.Context(), lossy{store}, cluster.Node{}); !errors.Is(err, errLost) || len(a.State.Claims) != 0 || len(a.State.Pending) != 2 {
		t.Fatalf("got %v, claims %v, pending %v", err, a.State.Claims, a.State.Pending)
	}
	asked := slices.Clone(a.State.Pending)
	if err := cluster.Freeze(t.Context(), store, "admin", "test"); err != nil {
		t.Fatal(err)
	}
	if err := a.reconcile(); err != nil || !slices.Equal(a.State.Claims, asked) {
		t.Errorf("got %v, %v, want %v", a.State.Claims, err, asked)
	}
	if err := newHost(store, "b").reconcile(); !errors.Is(err, cluster.ErrFrozen) || !strings.Contains(err.Error(), "frozen by admin: test") {
		t.Errorf("a new host: got %v, want that it is frozen, and by whom", err)
	}
}

// unsure loses the answers to the first transactions, and does them or not.
type unsure struct {
	*memory
	lost, asked int
	does        bool
}

func (u *unsure) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	if u.asked++; u.asked > u.lost {
		return u.memory.Commit(ctx, txn)
	}
	var err error
	if u.does {
		_, err = u.memory.Commit(ctx, txn)
	}
	return false, errors.Join(cluster.ErrUnsure, err)
}

// TestUnsure: a host that got no answer to a transaction reads whether it was done and goes on at
// once, but gives up if the store never answers; when it leaves as well.
func TestUnsure(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		lost  int
		does  bool
		asked int // for joining and leaving
		want  error
	}{
		{"done", 1, true, 1, nil},
		{"not done", 1, false, 2, nil},
		{"twice not done", 2, false, 3, nil},
		{"never", 100, false, 4, cluster.ErrUnsure},
	} {
		store, _ := newCluster(t)
		a, u := newHost(store, "a"), &unsure{memory: store, lost: test.lost, does: test.does}
		if err := a.Reconcile(t.Context(), u, cluster.Node{}); !errors.Is(err, test.want) || u.asked != test.asked {
			t.Errorf("%s: join: got %v after %d transactions, want %v after %d", test.name, err, u.asked, test.want, test.asked)
		}
		if test.want == nil && (len(a.State.Claims) != 2 || len(store.keys) != 5) {
			t.Errorf("%s: got claims %v and keys %v, want one of each family", test.name, a.State.Claims, store.keys)
		}
		if err := a.reconcile(); err != nil {
			t.Fatal(err)
		}
		u.asked = 0
		if err := a.Leave(t.Context(), u); !errors.Is(err, test.want) || u.asked != test.asked || a.State.Told != (test.want == nil) {
			t.Errorf("%s: leave: got %v after %d transactions, want %v after %d", test.name, err, u.asked, test.want, test.asked)
		}
	}
}

// TestBelieve: which peers are believed gone.
func TestBelieve(t *testing.T) {
	t.Parallel()
	all := []string{"b", "c", "d", "e"}
	for _, test := range []struct {
		name    string
		harm    func(*testing.T, *memory, []*plainHost)
		peers   []string
		missing int
		suspect string
		problem string
	}{
		{name: "nothing", harm: func(*testing.T, *memory, []*plainHost) {}, peers: all},
		{name: "left", harm: func(t *testing.T, s *memory, h []*plainHost) {
			if err := h[1].Leave(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}, peers: all[1:]},
		{name: "all left", harm: func(t *testing.T, s *memory, h []*plainHost) {
			for _, h := range h[1:] {
				if err := h.Leave(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{name: "a record deleted", harm: func(_ *testing.T, s *memory, _ []*plainHost) { delete(s.keys, "nodes/id-b") }, peers: all, missing: 1},
		{name: "three deleted", harm: func(_ *testing.T, s *memory, _ []*plainHost) {
			for _, name := range all[:3] {
				delete(s.keys, "nodes/id-"+name)
			}
		}, peers: all, missing: 3, suspect: "3 of 4 peers are gone"},
		{name: "unreadable", harm: func(_ *testing.T, s *memory, _ []*plainHost) {
			s.keys["nodes/id-b"] = cluster.Value{Data: []byte("{")}
		}, peers: all, missing: 1, problem: "node id-b cannot be read"},
		{name: "another has it", harm: func(t *testing.T, s *memory, h []*plainHost) {
			if err := cluster.Release(t.Context(), s, "id-b", time.Now()); err != nil {
				t.Fatal(err)
			}
			for _, o := range h[1].State.Claims {
				delete(s.keys, cluster.PrefixReleased+strings.TrimPrefix(cluster.ClaimKey("n", o.Subnet), cluster.PrefixClaims))
			}
			put(s, "f", "192.0.2.6/24", h[1].State.Claims[0].Subnet.String(), h[1].State.Claims[1].Subnet.String())
		}, peers: []string{"c", "d", "e", "f"}},
		{name: "mine", harm: func(_ *testing.T, s *memory, h []*plainHost) {
			put(s, "f", "192.0.2.6/24", h[0].State.Claims[0].Subnet.String())
		}, peers: append(slices.Clone(all), "f"), problem: "which is this host's"},
		{name: "two have it", harm: func(_ *testing.T, s *memory, h []*plainHost) {
			put(s, "f", "192.0.2.6/24", h[1].State.Claims[0].Subnet.String())
		}, peers: append(slices.Clone(all), "f"), problem: "which is node id-b's"},
	} {
		store, hosts := newCluster(t, "a", "b", "c", "d", "e")
		test.harm(t, store, hosts)
		v := hosts[0].believe(t)
		s := hosts[0].State
		if !slices.Equal(hosts[0].peers(), test.peers) || len(v.Missing) != test.missing || !strings.Contains(s.Suspect, test.suspect) || (s.Suspect == "") != (test.suspect == "") {
			t.Errorf("%s: got peers %v, missing %v, suspect %q; want %v, %d, %q", test.name, hosts[0].peers(), v.Missing, s.Suspect, test.peers, test.missing, test.suspect)
		}
		if !strings.Contains(strings.Join(v.Problems, "\n"), test.problem) || (len(v.Problems) == 0) != (test.problem == "") {
			t.Errorf("%s: got problems %q, want %q", test.name, v.Problems, test.problem)
		}
	}
}

func put(s *memory, name, underlay string, subnets ...string) {
	n := cluster.Node{ID: "id-" + name, Name: name, Underlay: []netip.Prefix{netip.MustParsePrefix(underlay)}}
	for _, subnet := range subnets {
		n.Subnets = append(n.Subnets, cluster.Owned{Network: "n", Subnet: netip.MustParsePrefix(subnet), Nonce: name})
	}
	data, err := json.Marshal(n)
	if err != nil {
		panic(err)
	}
	s.keys["nodes/"+n.ID] = cluster.Value{Data: data}
}

// TestSuspectEnds: suspicion ends when all peers are listed again, or when an administrator accepts.
func TestSuspectEnds(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b", "c", "d")
	saved := store.clone()
	for _, name := range []string{"b", "c", "d"} {
		delete(store.keys, "nodes/id-"+name)
	}
	a := hosts[0]
	if a.believe(t); a.State.Suspect == "" {
		t.Fatal("all peers gone at once, and nothing is suspected")
	}
	if err := hosts[1].Leave(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if a.believe(t); len(a.peers()) != 3 {
		t.Errorf("got peers %v, want that nobody goes meanwhile", a.peers())
	}
	for _, name := range []string{"b", "c", "d"} {
		store.keys["nodes/id-"+name] = saved.keys["nodes/id-"+name]
	}
	if a.believe(t); a.State.Suspect != "" {
		t.Errorf("everybody is there again: got suspect %q", a.State.Suspect)
	}
	delete(store.keys, "nodes/id-c")
	view, err := store.Get(t.Context(), cluster.PrefixNodes)
	if err != nil {
		t.Fatal(err)
	}
	if a.State.Accept(cluster.NewListing(view)); !slices.Equal(a.peers(), []string{"b", "d"}) {
		t.Errorf("accepted: got peers %v, want b and d", a.peers())
	}
}

// free is a subnet that none of the hosts has.
func free(hosts []*plainHost) string {
	for i := range 8 {
		subnet := fmt.Sprintf("10.0.0.%d/27", 32*i)
		if !slices.ContainsFunc(hosts, func(h *plainHost) bool { return slices.Contains(subnetsOf(h.State.Claims), subnet) }) {
			return subnet
		}
	}
	return ""
}

// TestRestore: one host restores a store that was wiped, and nobody claims a new subnet until the
// administrator thaws it.
func TestRestore(t *testing.T) {
	t.Parallel()
	store, hosts := newCluster(t, "a", "b", "c")
	config := store.keys[cluster.KeyConfig]
	config.Data = bytes.Replace(config.Data, []byte(`"ipv4":{`), []byte(`"ipv4":{"later":1,`), 1)
	store.keys[cluster.KeyConfig] = config
	before := store.clone()
	for _, prefix := range []string{free(hosts), hosts[1].State.Claims[0].Subnet.String()} { // b has taken what was kept for it
		o := cluster.Owned{Network: "n", Subnet: netip.MustParsePrefix(prefix), Nonce: "r"}
		delete(store.keys, cluster.ClaimKey("n", o.Subnet))
		if err := cluster.Reserve(t.Context(), store, o, "mine"); err != nil {
			t.Fatal(err)
		}
	}
	if err := hosts[0].reconcile(); err != nil {
		t.Fatal(err)
	}
	if got := hosts[0].State.Unreserved(); len(got) != 1 || got[0].Subnet.String() != free(hosts) || got[0].Reserved != "mine" {
		t.Errorf("got %v, want what was reserved and nobody has", got)
	}
	store.keys, store.id = map[string]cluster.Value{}, "2"
	if err := cluster.Restore(t.Context(), store, hosts[0].State); err != nil {
		t.Fatal(err)
	}
	for key, value := range before.keys {
		if got := store.keys[key]; !bytes.Equal(got.Data, value.Data) {
			t.Errorf("%s: got %s, want %s", key, got.Data, value.Data)
		}
	}
	for _, h := range hosts {
		had := slices.Clone(h.State.Claims)
		if err := h.reconcile(); err != nil || !slices.Equal(h.State.Claims, had) || len(h.State.Lost) > 0 {
			t.Errorf("%s: got %v, %v, want %v", h.State.Name, h.State.Claims, err, had)
		}
	}
	joiner := newHost(store, "j")
	if err := joiner.reconcile(); !errors.Is(err, cluster.ErrFrozen) {
		t.Errorf("a new host: got %v, want frozen", err)
	}
	if err := errors.Join(cluster.Thaw(t.Context(), store), joiner.reconcile()); err != nil {
		t.Error(err)
	}
}

func TestSetConfig(t *testing.T) {
	t.Parallel()
	store, _ := newCluster(t, "a")
	smaller, err := cluster.ParseConfig([]byte(`{"networks": [{"name": "m", "ipv4": {"pool": "10.0.0.0/24", "subnetLen": 27}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.SetConfig(t.Context(), store, smaller); err == nil || !strings.Contains(err.Error(), "in no pool of the new configuration: n 10.0.0.") {
		t.Errorf("a network that hosts are in: got %v, want it named", err)
	}
	more, err := cluster.ParseConfig([]byte(strings.Replace(modelConfig, `"networks": [`, `"networks": [{"name": "m", "ipv4": {"pool": "10.9.0.0/24", "subnetLen": 27}},`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.SetConfig(t.Context(), store, more); err != nil {
		t.Error(err)
	}
	if err := cluster.Init(t.Context(), store, more); err == nil || !strings.Contains(err.Error(), "config set") {
		t.Errorf("init again: got %v", err)
	}
}

// atOnce answers each host's first Get with the store before any of them joined.
type atOnce struct {
	*memory
	before  *memory
	asked   map[string]bool
	commits int
}

func (a *atOnce) Get(ctx context.Context, keys ...string) (cluster.View, error) {
	if who := strings.Join(keys, " "); !a.asked[who] {
		a.asked[who] = true
		return a.before.Get(ctx, keys...)
	}
	return a.memory.Get(ctx, keys...)
}

func (a *atOnce) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	a.commits++
	return a.memory.Commit(ctx, txn)
}

// TestManyAtOnce: hosts that join at the same moment, without seeing each other, need hardly more
// than one transaction each.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const hosts = 200
	store := newMemory()
	config, err := cluster.ParseConfig([]byte(`{"id": "c", "networks": [{"name": "n", "ipv4": {"pool": "10.0.0.0/12", "subnetLen": 22}}]}`)) // 1,024
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Init(t.Context(), store, config); err != nil {
		t.Fatal(err)
	}
	busy := &atOnce{memory: store, before: store.clone(), asked: map[string]bool{}}
	taken := map[netip.Prefix]string{}
	for i := range hosts {
		h := newHost(store, fmt.Sprint("h", i))
		if err := h.Reconcile(t.Context(), busy, cluster.Node{}); err != nil {
			t.Fatal(err)
		}
		for _, o := range h.State.Claims {
			if taken[o.Subnet] != "" {
				t.Errorf("%s and %s have %s", taken[o.Subnet], h.State.Name, o.Subnet)
			}
			taken[o.Subnet] = h.State.Name
		}
	}
	if len(taken) != hosts || busy.commits > hosts*3/2 {
		t.Errorf("got %d subnets by %d transactions, want %d by half as many more at most", len(taken), busy.commits, hosts)
	}
}
