package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func prefixes(all ...string) (list []netip.Prefix) {
	for _, s := range all {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

var (
	dual = Self{
		Subnets: prefixes("10.40.1.0/24", "fd40:0:0:1::/64"), Pools: prefixes("10.40.0.0/16", "fd40::/48"),
		Underlay: prefixes("192.0.2.1/24", "2001:db8::1/64"), Uplink: "eth0", MTU: 1500, MAC: MAC("a"),
		Backend: VXLAN, VNI: 7243, Port: 8473,
	}
	near = Peer{
		Name: "near", Underlay: prefixes("192.0.2.2/24", "2001:db8::2/64"), Subnets: prefixes("10.40.2.0/24", "fd40:0:0:2::/64"),
		MTU: 1500, MAC: "02:00:00:00:00:02",
	}
	far = Peer{
		Name: "far", Underlay: prefixes("198.51.100.3/24"), Subnets: prefixes("10.40.3.0/24", "fd40:0:0:3::/64"),
		MTU: 1400, MAC: "02:00:00:00:00:03",
	}
)

// TestPlan: the states as text, a golden file in the source.
func TestPlan(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		self  func(*Self)
		peers []Peer
		want  string
	}{
		{"alone", func(*Self) {}, nil, `
			tunnel VNI 7243 port 8473 MTU 1450 from 192.0.2.1 addresses 10.40.1.0/32 fd40:0:0:1::/128
			10.40.0.0/16 unreachable
			fd40::/48 unreachable`},
		{"vxlan", func(*Self) {}, []Peer{near, far}, `
			tunnel VNI 7243 port 8473 MTU 1450 from 192.0.2.1 addresses 10.40.1.0/32 fd40:0:0:1::/128
			10.40.0.0/16 unreachable
			10.40.2.0/24 by trestle-vx, MTU 1450 via fe80::ff:fe00:2
			10.40.3.0/24 by trestle-vx, MTU 1350 via fe80::ff:fe00:3
			fd40::/48 unreachable
			fd40:0:0:2::/64 by trestle-vx, MTU 1450 via fe80::ff:fe00:2
			fd40:0:0:3::/64 by trestle-vx, MTU 1350 via fe80::ff:fe00:3
			02:00:00:00:00:02 at 192.0.2.2
			02:00:00:00:00:03 at 198.51.100.3
			fe80::ff:fe00:2 is 02:00:00:00:00:02
			fe80::ff:fe00:3 is 02:00:00:00:00:03
			peers 192.0.2.2 198.51.100.3`},
		{"auto", func(s *Self) { s.Backend = Auto }, []Peer{near, far}, `
			tunnel VNI 7243 port 8473 MTU 1450 from 192.0.2.1 addresses 10.40.1.0/32 fd40:0:0:1::/128
			10.40.0.0/16 unreachable
			10.40.2.0/24 via 192.0.2.2
			10.40.3.0/24 by trestle-vx, MTU 1350 via fe80::ff:fe00:3
			fd40::/48 unreachable
			fd40:0:0:2::/64 via 2001:db8::2
			fd40:0:0:3::/64 by trestle-vx, MTU 1350 via fe80::ff:fe00:3
			02:00:00:00:00:03 at 198.51.100.3
			fe80::ff:fe00:3 is 02:00:00:00:00:03
			peers 198.51.100.3`},
		{"host-gw", func(s *Self) { s.Backend = HostGW }, []Peer{near, far}, `
			10.40.0.0/16 unreachable
			10.40.2.0/24 via 192.0.2.2
			fd40::/48 unreachable
			fd40:0:0:2::/64 via 2001:db8::2
			peer far (198.51.100.3/24) cannot be reached: no address on one link`},
		{"IPv4 over an IPv6 underlay", func(s *Self) { s.Backend, s.Underlay = Auto, s.Underlay[1:] }, []Peer{{
			Name: "six", Underlay: prefixes("2001:db8::9/64"), Subnets: prefixes("10.40.9.0/24"), MTU: 1280,
		}}, `
			tunnel VNI 7243 port 8473 MTU 1430 from 2001:db8::1 addresses 10.40.1.0/32 fd40:0:0:1::/128
			10.40.0.0/16 unreachable
			10.40.9.0/24 via 2001:db8::9
			fd40::/48 unreachable`},
		{"no IPv6", func(s *Self) {
			s.NoIPv6, s.Subnets, s.Pools, s.Underlay = true, s.Subnets[:1], s.Pools[:1], s.Underlay[:1]
		}, []Peer{near}, `
			tunnel VNI 7243 port 8473 MTU 1450 from 192.0.2.1 addresses 10.40.1.0/32
			10.40.0.0/16 unreachable
			10.40.2.0/24 by trestle-vx, MTU 1450 via 10.40.2.0
			02:00:00:00:00:02 at 192.0.2.2
			10.40.2.0 is 02:00:00:00:00:02
			peers 192.0.2.2`},
		{"peers that nobody can reach", func(s *Self) { s.Pools = nil }, []Peer{
			{Name: "bare", Underlay: prefixes("192.0.2.7/24")},
			{Name: "no-mac", Underlay: prefixes("192.0.2.8/24"), Subnets: prefixes("10.40.8.0/24")},
			{Name: "six", Underlay: prefixes("2001:db8::9/64"), Subnets: prefixes("10.40.9.0/24"), MAC: "02:00:00:00:00:09"},
		}, `
			tunnel VNI 7243 port 8473 MTU 1450 from 192.0.2.1 addresses 10.40.1.0/32 fd40:0:0:1::/128
			peer no-mac (192.0.2.8/24) cannot be reached: its MAC "" is none
			peer six (2001:db8::9/64) cannot be reached: it has no address of the family of this host's 192.0.2.1`},
	} {
		self := dual
		test.self(&self)
		state, problems := Plan(self, test.peers)
		got := text(state)
		for _, p := range problems {
			p, _, _ = strings.Cut(p, " with this host's")
			got += p + "\n"
		}
		want := strings.ReplaceAll(strings.TrimSpace(test.want), "\t", "") + "\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// text is a state as TestPlan has it.
func text(s State) string {
	var b strings.Builder
	line := func(parts ...string) { b.WriteString(strings.Join(parts, " ") + "\n") }
	if t := s.Tunnel; t != nil {
		line("tunnel", fmt.Sprintf("VNI %d port %d MTU %d", t.VNI, t.Port, t.MTU), "from", t.Local.String(), "addresses", strings.ReplaceAll(join(t.Addresses), ",", ""))
	}
	for _, r := range s.Routes {
		if r.Kind == ByTunnel {
			line(r.String(), "via", r.Via.String())
		} else {
			line(r.String())
		}
	}
	for _, f := range s.Forwards {
		line(f.MAC, "at", f.Remote.String())
	}
	for _, n := range s.Neighbours {
		line(n.Addr.String(), "is", n.MAC)
	}
	if len(s.Peers) > 0 {
		line("peers", strings.ReplaceAll(join(s.Peers), ",", ""))
	}
	return b.String()
}

func TestMTU(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		self func(*Self)
		want int
	}{
		{"vxlan", func(*Self) {}, 1350},
		{"host-gw", func(s *Self) { s.Backend = HostGW }, 1400},
		{"IPv6 underlay", func(s *Self) { s.Underlay = s.Underlay[1:] }, 1330},
		{"own the smallest", func(s *Self) { s.MTU = 1300 }, 1250},
	} {
		self := dual
		test.self(&self)
		if got := MTU(self, []Peer{near, far, {Name: "unknown"}}); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

// TestDirectIsSymmetric: two hosts choose the same way to each other, whatever they
// have published.
func TestDirectIsSymmetric(t *testing.T) {
	t.Parallel()
	underlays := [][]netip.Prefix{
		prefixes("192.0.2.1/24"), prefixes("192.0.2.2/24"), prefixes("192.0.2.3/25"), prefixes("192.0.2.4/32"), prefixes("198.51.100.1/24"),
		prefixes("2001:db8::1/64"), prefixes("192.0.2.9/24", "2001:db8::9/64"), nil,
	}
	for _, a := range underlays {
		for _, b := range underlays {
			for _, is4 := range []bool{true, false} {
				_, there := onLink(a, b, is4)
				_, back := onLink(b, a, is4)
				if there != back {
					t.Errorf("%v to %v: %v, and back: %v", a, b, there, back)
				}
			}
		}
	}
}

func TestMACsAreUnicastAndStay(t *testing.T) {
	t.Parallel()
	if a, b := MAC("a"), MAC("b"); a == b || a != MAC("a") {
		t.Errorf("got %s and %s", a, b)
	}
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		if got := MAC(id); !strings.ContainsRune("26ae", rune(got[1])) {
			t.Errorf("%s is no local unicast address", got)
		}
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	want, _ := Plan(dual, []Peer{near, far})
	same := Found{State: want, TunnelUp: true}
	if c := Diff(want, same); !c.Empty() {
		t.Errorf("got %q for what is as it shall be", c.Strings())
	}
	moved := near
	moved.Underlay = prefixes("192.0.2.22/24")
	elsewhere, _ := Plan(dual, []Peer{moved, far})
	renumbered := dual
	renumbered.Underlay = prefixes("192.0.2.77/24")
	anew, _ := Plan(renumbered, []Peer{near, far})
	left, _ := Plan(dual, []Peer{near})
	direct := dual
	direct.Backend = Auto
	both, _ := Plan(direct, []Peer{near, far})
	for _, test := range []struct {
		name string
		want State
		have Found
		say  []string
	}{
		{"nothing there", left, Found{}, []string{
			"make trestle-vx, VNI 7243, port 8473, from 192.0.2.1", "add address 10.40.1.0/32 to trestle-vx", "add address fd40:0:0:1::/128 to trestle-vx",
			"add route 10.40.0.0/16 unreachable", "add route 10.40.2.0/24 by trestle-vx, MTU 1450", "add route fd40::/48 unreachable", "… and 1 more",
			"add forwarding entry {02:00:00:00:00:02 192.0.2.2}", "add neighbour {fe80::ff:fe00:2 02:00:00:00:00:02}",
			"let VXLAN in from 1 peers alone", "switch forwarding on",
		}},
		{"a peer's address changed", elsewhere, same, []string{
			"add forwarding entry {02:00:00:00:00:02 192.0.2.22}", "remove forwarding entry {02:00:00:00:00:02 192.0.2.2}", "let VXLAN in from 2 peers alone",
		}},
		{"our address changed", anew, same, []string{
			"remove trestle-vx", "make trestle-vx, VNI 7243, port 8473, from 192.0.2.77", "add address 10.40.1.0/32 to trestle-vx", "add address fd40:0:0:1::/128 to trestle-vx",
			"add route 10.40.2.0/24 by trestle-vx, MTU 1450", "add route 10.40.3.0/24 by trestle-vx, MTU 1350", "add route fd40:0:0:2::/64 by trestle-vx, MTU 1450", "… and 1 more",
			"add forwarding entry {02:00:00:00:00:02 192.0.2.2}", "add forwarding entry {02:00:00:00:00:03 198.51.100.3}",
			"add neighbour {fe80::ff:fe00:2 02:00:00:00:00:02}", "add neighbour {fe80::ff:fe00:3 02:00:00:00:00:03}",
		}},
		{"down", want, Found{State: want}, []string{"set trestle-vx: up, MTU 1450, MAC " + MAC("a")}},
		{"a foreign route", want, Found{State: without(want, "10.40.3.0/24"), TunnelUp: true, Foreign: map[netip.Prefix]string{prefixes("10.40.3.0/24")[0]: "static"}}, nil},
		{"from the tunnel to a direct route", both, same, []string{
			"add route 10.40.2.0/24 via 192.0.2.2", "add route fd40:0:0:2::/64 via 2001:db8::2",
			"remove forwarding entry {02:00:00:00:00:02 192.0.2.2}", "remove neighbour {fe80::ff:fe00:2 02:00:00:00:00:02}", "let VXLAN in from 1 peers alone",
		}},
	} {
		got := Diff(test.want, test.have).Strings()
		if diff := cmp.Diff(test.say, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func without(s State, dst string) State {
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r Route) bool { return r.Dst.String() == dst })
	return s
}
