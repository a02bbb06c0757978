package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// fleet is the view of a store with healthy hosts.
func fleet(t *testing.T, backend string, now time.Time, names ...string) (view cluster.View, nodes map[string]*cluster.Node, write func()) {
	t.Helper()
	view = cluster.View{Store: "s", Revision: 100, Keys: map[string]cluster.Value{}}
	put := func(key string, value any) {
		if err := putJSON(view, key, value); err != nil {
			t.Fatal(err)
		}
	}
	put(cluster.KeyConfig, map[string]any{
		"id": "c", "backend": backend, "networks": []any{map[string]any{"name": "pods", "ipv4": map[string]any{"pool": "10.40.0.0/16", "subnetLen": 24}}},
	})
	nodes = map[string]*cluster.Node{}
	for i, name := range names {
		o := cluster.Owned{Network: "pods", Subnet: netip.MustParsePrefix(fmt.Sprintf("10.40.%d.0/24", i)), Nonce: name}
		nodes[name] = &cluster.Node{
			ID: "id-" + name, Name: name, Underlay: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", 1+i))}, MTU: 1500,
			MAC: overlay.MAC(name), WGKey: strings.Repeat(string(rune('A'+i)), 43) + "=", Version: "2.0.0", Subnets: []cluster.Owned{o},
		}
		put(cluster.ClaimKey("pods", o.Subnet), map[string]string{"node": "id-" + name, "nonce": name})
		put(cluster.PrefixAlive+"id-"+name, alive{Since: now.Add(time.Duration(i) * time.Second)})
		value := view.Keys[cluster.PrefixAlive+"id-"+name]
		value.Revision = int64(i)
		view.Keys[cluster.PrefixAlive+"id-"+name] = value
	}
	return view, nodes, func() {
		for _, n := range nodes {
			put(cluster.PrefixNodes+n.ID, *n)
		}
	}
}

// TestMesh: for each kind of problem in the store, the finding names the hosts and the way out.
func TestMesh(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type world struct {
		view  cluster.View
		nodes map[string]*cluster.Node
	}
	drop := func(key string) func(world) { return func(w world) { delete(w.view.Keys, key) } }
	set := func(key, data string) func(world) {
		return func(w world) { w.view.Keys[key] = cluster.Value{Data: []byte(data), Revision: 1} }
	}
	on := func(do func(a, b, c *cluster.Node)) func(world) {
		return func(w world) { do(w.nodes["a"], w.nodes["b"], w.nodes["c"]) }
	}
	for _, test := range []struct {
		name, backend string
		harm          func(world) // the records are written after it
		after         func(world)
		problem, note string
		ways          string
	}{
		{name: "well", ways: "map[vxlan:6]"},
		{name: "on one link", backend: "auto", ways: "map[direct:6]"},
		{name: "two links", backend: "auto", harm: on(func(_, _, c *cluster.Node) { c.Underlay = []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")} }), ways: "map[direct:2 vxlan:4]"},
		{
			name: "a host is down", harm: drop("alive/id-b"), ways: "map[vxlan:6]",
			problem: "b: down, or cut off from the store, since 2026-01-02T03:00:00Z at the earliest; its subnets stay its own; if it is not coming back: trestle cluster release --node-is-dead b",
		},
		{name: "a record that cannot be read", after: set("nodes/id-b", `{"id": `), problem: "id-b: its record cannot be read: ", ways: "map[vxlan:2]"},
		{name: "one subnet twice", harm: on(func(a, b, _ *cluster.Node) { b.Subnets = a.Subnets }), problem: "a, b: both say that they have 10.40.0.0/24"},
		{
			name: "one within another", harm: on(func(a, _, _ *cluster.Node) { a.Subnets[0].Subnet = netip.MustParsePrefix("10.40.0.0/20") }),
			problem: "a, c: both say that they have 10.40.2.0/24 (10.40.0.0/20)",
		},
		{name: "a claim of nobody's", after: drop("nodes/id-c"), problem: "id-c: it has claimed 10.40.2.0/24 of pods, and its record does not say so", ways: "map[vxlan:2]"},
		{name: "outside the pools", harm: on(func(a, _, _ *cluster.Node) { a.Subnets[0].Subnet = netip.MustParsePrefix("10.41.0.0/24") }), problem: "a: it has subnets that are in no pool: pods 10.41.0.0/24", ways: "map[vxlan:6]"},
		{name: "one key", backend: "wireguard", harm: on(func(a, b, _ *cluster.Node) { b.WGKey = a.WGKey }), problem: "a, b: they have the same WireGuard key, AAAA"},
		{name: "one address", harm: on(func(a, b, _ *cluster.Node) { b.Underlay = a.Underlay }), problem: "a, b: they have the same address, 192.0.2.1", ways: "map[vxlan:6]"},
		{name: "not on one link", backend: "host-gw", harm: on(func(_, _, c *cluster.Node) { c.Underlay = []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")} }), problem: "a: peer c (198.51.100.1/24) cannot be reached: no address on one link", ways: "map[direct:2 none:4]"},
		{name: "behind NAT, both", backend: "wireguard", harm: on(func(a, b, _ *cluster.Node) { a.NAT, b.NAT = true, true }), problem: "neither can send to the other first", ways: "map[none:2 wireguard:4]"},
		{name: "one family each", harm: on(func(a, _, _ *cluster.Node) { a.Underlay = []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")} }), problem: "a: peer b (192.0.2.2/24) cannot be reached: it has no address of the family", ways: "map[none:4 vxlan:2]"},
		{name: "MTU", harm: on(func(a, _, _ *cluster.Node) { a.MTU = 9000 }), note: "uplinks have several MTUs: 1500 (b, c), 9000 (a)", ways: "map[vxlan:6]"},
		{name: "releases", harm: on(func(a, _, _ *cluster.Node) { a.Version = "1.9.0" }), note: "hosts run several releases of trestle-node: 1.9.0 (a), 2.0.0 (b, c)", ways: "map[vxlan:6]"},
		{name: "too old", harm: func(w world) {
			w.nodes["a"].Version = "2.1.0"
			value := w.view.Keys[cluster.KeyConfig]
			value.Data = []byte(strings.Replace(string(value.Data), "{", `{"minAgent": "2.1.0", `, 1))
			w.view.Keys[cluster.KeyConfig] = value
		}, problem: `c: its trestle-node, 2.0.0, is older than "minAgent", 2.1.0`, ways: "map[vxlan:6]"},
		{name: "a clock behind, as the store heard", harm: func(w world) {
			w.view.Keys["alive/id-c"] = cluster.Value{Data: []byte(`{"since": "2026-01-02T02:04:05Z"}`), Revision: 9}
		}, note: "b, c: their clocks differ by 1h0m1s at least; synchronise", ways: "map[vxlan:6]"},
		{name: "a clock ahead", harm: set("alive/id-c", `{"since": "2026-01-02T04:04:05Z"}`), note: "c: its clock is ahead of this host's by 1h0m0s at least", ways: "map[vxlan:6]"},
		{name: "frozen", harm: set("frozen", `{}`), problem: "no host gets a new subnet", ways: "map[vxlan:6]"},
		{name: "no configuration", harm: drop("config"), problem: "no configuration of this cluster; trestle cluster init", ways: "map[]"},
	} {
		view, nodes, write := fleet(t, test.backend, now, "a", "b", "c")
		w := world{view, nodes}
		if test.harm != nil {
			test.harm(w)
		}
		write()
		if test.after != nil {
			test.after(w)
		}
		got := surveyMesh(view, map[string]time.Time{"id-b": now.Truncate(time.Hour)}, now)
		if got.fine() != (test.problem == "") || !strings.Contains(got.String(), test.problem) || !strings.Contains(got.String(), test.note) {
			t.Errorf("%s: got\n%swant problem %q, note %q", test.name, got, test.problem, test.note)
		}
		if test.ways != "" && fmt.Sprint(got.Ways) != test.ways {
			t.Errorf("%s: got ways %v, want %s", test.name, got.Ways, test.ways)
		}
		if test.name == "well" && len(got.Notes) != 0 {
			t.Errorf("%s: got notes %v, want none", test.name, got.Notes)
		}
	}
}

// TestProbe: the address that is pinged for each way, and the answers which show that the peer got
// the packet.
func TestProbe(t *testing.T) {
	t.Parallel()
	s := hosts.Status{Subnets: []hosts.Subnet{{Subnet: netip.MustParsePrefix("10.40.1.0/24")}, {Subnet: netip.MustParsePrefix("fd40:0:0:1::/64")}}}
	p := hosts.Peer{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}}
	for _, subnet := range []string{"10.40.2.0/24", "fd40:0:0:2::/64", "10.41.2.0/24"} { // the last is another network's
		p.Subnets = append(p.Subnets, hosts.Subnet{Subnet: netip.MustParsePrefix(subnet)})
	}
	for way, want := range map[string]string{
		hosts.Tunnel: "[10.40.2.0 fd40:0:0:2::]",
		hosts.Direct: "[10.40.2.1 fd40:0:0:2::1]",
		hosts.None:   "[invalid IP]",
	} {
		p.Way = way
		var got []netip.Addr
		for _, q := range probesOf(s, p) {
			if got = append(got, q.target); q.from.IsValid() {
				t.Errorf("%s: got %s from %s, which this host has not", way, q.target, q.from)
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: got %s, want %s", way, got, want)
		}
	}
	p.Way, s.Subnets = hosts.Tunnel, s.Subnets[:1]
	if got := probesOf(s, p); len(got) != 1 || !got[0].target.Is4() {
		t.Errorf("from a host of IPv4 alone: got %v, want no probe of IPv6", got)
	}
	for said, want := range map[string]bool{
		"From 192.0.2.2 icmp_seq=1 Destination Host Unreachable\n":                   true,
		"From 2001:db8::2 icmp_seq=1 Destination unreachable: No route\n":            true,
		"From 192.0.2.20 icmp_seq=1 Destination Host Unreachable\n":                  false,
		"From 192.0.2.1 icmp_seq=1 Destination Host Unreachable\n":                   false,
		"From 192.0.2.2 icmp_seq=1 Frag needed and DF set (mtu = 1400)\n":            false,
		"1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n": false,
	} {
		if got := refusedBy(p, said); got != want {
			t.Errorf("%q: got %v, want %v", said, got, want)
		}
	}
}
