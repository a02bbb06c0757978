package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

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

// TestPlan: planned states as text.
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

// text is a state in TestPlan's format.
func text(s State) string {
	var b strings.Builder
	line := func(parts ...string) { b.WriteString(strings.Join(parts, " ") + "\n") }
	if t := s.Tunnel; t != nil {
		line("tunnel", fmt.Sprintf("VNI %d port %d MTU %d", t.VNI, t.Port, t.MTU), "from", t.Local.String(), "addresses", strings.ReplaceAll(join(t.Addresses), ",", ""))
	}
	if w := s.WireGuard; w != nil {
		line("wireguard", fmt.Sprintf("port %d MTU %d", w.Port, w.MTU), "addresses", strings.ReplaceAll(join(w.Addresses), ",", ""))
		for _, p := range w.Peers {
			line("peer", p.String(), "keepalive", p.Keepalive.String())
		}
	}
	for _, r := range s.Routes {
		if r.Kind == ByTunnel {
			line(r.String(), "via", r.Via.String())
		} else {
			line(r.String())
		}
	}
	for _, f := range s.FDB {
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

// WireGuard keys, whose private halves nobody has.
const keyA, keyB, keyC = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=", "Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=", "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI="

func encrypted(s Self) Self {
	s.Backend, s.Key = WireGuardOnly, keyA
	return s
}

func keyed(p Peer, key string) Peer {
	p.Key = key
	return p
}

func TestPlanWireGuard(t *testing.T) {
	t.Parallel()
	behind := keyed(far, keyC)
	behind.NAT = true
	six := Peer{Name: "six", Underlay: prefixes("2001:db8::9/64"), Subnets: prefixes("10.40.9.0/24"), MTU: 1500, Key: keyC}
	for _, test := range []struct {
		name  string
		self  func(*Self)
		peers []Peer
		want  string
	}{
		{"a peer, and one behind NAT", func(*Self) {}, []Peer{keyed(near, keyB), behind}, `
			wireguard port 8473 MTU 1440 addresses 10.40.1.0/32 fd40:0:0:1::/128
			peer ` + keyB + ` with 10.40.2.0/24, fd40:0:0:2::/64 at 192.0.2.2:8473 keepalive 0s
			peer ` + keyC + ` with 10.40.3.0/24, fd40:0:0:3::/64 keepalive 0s
			10.40.0.0/16 unreachable
			10.40.2.0/24 by trestle-wg, MTU 1440
			10.40.3.0/24 by trestle-wg, MTU 1340
			fd40::/48 unreachable
			fd40:0:0:2::/64 by trestle-wg, MTU 1440
			fd40:0:0:3::/64 by trestle-wg, MTU 1340`},
		{"behind NAT itself", func(s *Self) { s.NAT = true }, []Peer{keyed(near, keyB), behind}, `
			wireguard port 8473 MTU 1440 addresses 10.40.1.0/32 fd40:0:0:1::/128
			peer ` + keyB + ` with 10.40.2.0/24, fd40:0:0:2::/64 at 192.0.2.2:8473 keepalive 25s
			10.40.0.0/16 unreachable
			10.40.2.0/24 by trestle-wg, MTU 1440
			fd40::/48 unreachable
			fd40:0:0:2::/64 by trestle-wg, MTU 1440
			peer far (198.51.100.3/24) cannot be reached: it is behind NAT, and so is this host: neither can send to the other first`},
		{"each family where it is", func(*Self) {}, []Peer{six}, `
			wireguard port 8473 MTU 1440 addresses 10.40.1.0/32 fd40:0:0:1::/128
			peer ` + keyC + ` with 10.40.9.0/24 at [2001:db8::9]:8473 keepalive 0s
			10.40.0.0/16 unreachable
			10.40.9.0/24 by trestle-wg, MTU 1420
			fd40::/48 unreachable`},
		{"peers that nobody can reach", func(s *Self) { s.Pools, s.Underlay = nil, s.Underlay[:1] }, []Peer{
			near, keyed(near, "none"), keyed(far, keyA), six,
		}, `
			wireguard port 8473 MTU 1440 addresses 10.40.1.0/32 fd40:0:0:1::/128
			peer near (192.0.2.2/24, 2001:db8::2/64) cannot be reached: no WireGuard key of its own is known: its trestle-node is of an older release, another host has the same, or, in a list of hosts, its "wgKey" is missing
			peer near (192.0.2.2/24, 2001:db8::2/64) cannot be reached: its WireGuard key "none" is none
			peer far (198.51.100.3/24) cannot be reached: its WireGuard key is that of this host, too; was a disk copied? (trestle node reset-id)
			peer six (2001:db8::9/64) cannot be reached: it has no address of the family of this host's 192.0.2.1/24`},
	} {
		self := encrypted(dual)
		test.self(&self)
		state, problems := Plan(self, test.peers)
		got := text(state) + strings.Join(append(problems, ""), "\n")
		want := strings.ReplaceAll(strings.TrimSpace(test.want), "\t", "") + "\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestDiffWireGuard: peers are compared by their keys, and an endpoint to which a peer has roamed
// stays until the peer publishes another, or does not answer there.
func TestDiffWireGuard(t *testing.T) {
	t.Parallel()
	plan := func(peers ...Peer) State {
		s, _ := Plan(encrypted(dual), peers)
		return s
	}
	a, b := keyed(near, keyB), keyed(far, keyC)
	want := plan(a, b)
	published := map[string]netip.AddrPort{keyB: netip.MustParseAddrPort("192.0.2.2:8473"), keyC: netip.MustParseAddrPort("198.51.100.3:8473")}
	found := func(change func(*WireGuard), e Endpoints) Found {
		s := plan(a, b)
		change(s.WireGuard)
		return Found{State: s, WireGuardUp: true, Endpoints: e}
	}
	roamed := func(w *WireGuard) { w.Peers[0].Endpoint = netip.MustParseAddrPort("203.0.113.9:40000") }
	moved := a
	moved.Underlay = prefixes("192.0.2.22/24")
	behind := moved
	behind.NAT = true
	nothing := func(*WireGuard) {}
	for _, test := range []struct {
		name string
		want State
		have Found
		say  []string
	}{
		{"as it shall be", want, found(nothing, Endpoints{}), nil},
		{"nothing there", plan(a), Found{}, []string{
			"make trestle-wg, port 8473, key " + keyA, "add address 10.40.1.0/32 to trestle-wg", "add address fd40:0:0:1::/128 to trestle-wg",
			"set peer " + keyB + " with 10.40.2.0/24, fd40:0:0:2::/64 at 192.0.2.2:8473 of trestle-wg",
			"add route 10.40.0.0/16 unreachable", "add route 10.40.2.0/24 by trestle-wg, MTU 1440", "add route fd40::/48 unreachable", "… and 1 more",
			"switch forwarding on",
		}},
		{"roamed", want, found(roamed, Endpoints{Published: published}), nil},
		{"roamed, and the agent is new", want, found(roamed, Endpoints{}), nil},
		{"roamed, and says where to", plan(moved, b), found(roamed, Endpoints{Published: published}), []string{
			"set peer " + keyB + " with 10.40.2.0/24, fd40:0:0:2::/64 at 192.0.2.22:8473 of trestle-wg",
		}},
		{"behind NAT, and says something", plan(behind, b), found(roamed, Endpoints{Published: published}), nil},
		{"roamed, and silent", want, found(roamed, Endpoints{Published: published, Silent: map[string]bool{keyB: true}}), []string{
			"set peer " + keyB + " with 10.40.2.0/24, fd40:0:0:2::/64 at 192.0.2.2:8473 of trestle-wg",
		}},
		{"roamed, with a subnet less", want, found(func(w *WireGuard) { roamed(w); w.Peers[0].Allowed = w.Peers[0].Allowed[:1] }, Endpoints{Published: published}), []string{
			"set peer " + keyB + " with 10.40.2.0/24, fd40:0:0:2::/64 of trestle-wg",
		}},
		{"another key", want, found(func(w *WireGuard) { w.Peers[1].Key = "former" }, Endpoints{}), []string{
			"set peer " + keyC + " with 10.40.3.0/24, fd40:0:0:3::/64 at 198.51.100.3:8473 of trestle-wg", "remove peer former of trestle-wg",
		}},
		{"another port", want, found(func(w *WireGuard) { w.Port = 1 }, Endpoints{}), []string{"set trestle-wg: up, port 8473, MTU 1440, key " + keyA}},
	} {
		got := Diff(test.want, test.have).Strings()
		if diff := cmp.Diff(test.say, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	vxlan, _ := Plan(dual, []Peer{near})
	over := Diff(vxlan, found(nothing, Endpoints{}))
	if !over.RemoveWireGuard || over.Make == nil || len(over.DelPeers) > 0 {
		t.Errorf("from WireGuard to VXLAN: got %q, want one device in the other's place", over.Strings())
	}
	back := Diff(want, Found{State: vxlan, TunnelUp: true})
	if back.Remove == nil || !back.MakeWireGuard || len(back.AddRoutes) != 4 {
		t.Errorf("from VXLAN to WireGuard: got %q, want one device in the other's place, and four routes", back.Strings())
	}
}

// TestSighting: a peer is silent if it was sent something three minutes ago and did not answer; the
// time before that does not count.
func TestSighting(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	s := sighting{received: 10, sent: 10}.next(10, 10, at(0)).next(10, 10, at(60)) // no traffic
	s = s.next(10, 20, at(61))
	if s.isSilent(at(63)) || !s.isSilent(at(64)) {
		t.Errorf("asked after an hour: silent after two minutes %v, after three %v; want false, true", s.isSilent(at(63)), s.isSilent(at(64)))
	}
	if s = s.next(11, 30, at(70)); s.isSilent(at(80)) {
		t.Error("it has answered, and is silent all the same")
	}
	if s = s.next(11, 0, at(81)); s.isSilent(at(90)) { // the device was created again
		t.Error("the device was made anew, and a peer is silent")
	}
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
		{"wireguard", func(s *Self) { *s = encrypted(*s) }, 1340},
		{"wireguard over IPv6", func(s *Self) { *s = encrypted(*s); s.Underlay = s.Underlay[1:] }, 1320},
	} {
		self := dual
		test.self(&self)
		if got := MTU(self, []Peer{near, far, {Name: "unknown"}}); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

// TestMTUOfOnePeer: one host's small MTU leaves the others the least MTU of IPv6.
func TestMTUOfOnePeer(t *testing.T) {
	t.Parallel()
	if got := MTU(dual, []Peer{{Name: "small", MTU: 600}}); got != 1280 {
		t.Errorf("got %d with a peer that takes 600, want 1280", got)
	}
	own := dual
	own.MTU = 1000
	if got := MTU(own, []Peer{{Name: "small", MTU: 600}}); got != 950 {
		t.Errorf("got %d with 1000 of its own and a peer that takes 600, want 950", got)
	}
}

// TestDirectIsSymmetric: two hosts choose the same way to each other, with any published addresses.
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
			"add forwarding entry 02:00:00:00:00:02 at 192.0.2.2", "add neighbour fe80::ff:fe00:2 with 02:00:00:00:00:02",
			"let VXLAN in from 1 peers alone", "switch forwarding on",
		}},
		{"a peer's address changed", elsewhere, same, []string{
			"add forwarding entry 02:00:00:00:00:02 at 192.0.2.22", "remove forwarding entry 02:00:00:00:00:02 at 192.0.2.2", "let VXLAN in from 2 peers alone",
		}},
		{"our address changed", anew, same, []string{
			"remove trestle-vx", "make trestle-vx, VNI 7243, port 8473, from 192.0.2.77", "add address 10.40.1.0/32 to trestle-vx", "add address fd40:0:0:1::/128 to trestle-vx",
			"add route 10.40.2.0/24 by trestle-vx, MTU 1450", "add route 10.40.3.0/24 by trestle-vx, MTU 1350", "add route fd40:0:0:2::/64 by trestle-vx, MTU 1450", "… and 1 more",
			"add forwarding entry 02:00:00:00:00:02 at 192.0.2.2", "add forwarding entry 02:00:00:00:00:03 at 198.51.100.3",
			"add neighbour fe80::ff:fe00:2 with 02:00:00:00:00:02", "add neighbour fe80::ff:fe00:3 with 02:00:00:00:00:03",
		}},
		{"down", want, Found{State: want}, []string{"set trestle-vx: up, MTU 1450, MAC " + MAC("a")}},
		{"a foreign route", want, Found{State: without(want, "10.40.3.0/24"), TunnelUp: true, Foreign: map[netip.Prefix]string{prefixes("10.40.3.0/24")[0]: "static"}}, nil},
		{"from the tunnel to a direct route", both, same, []string{
			"add route 10.40.2.0/24 via 192.0.2.2", "add route fd40:0:0:2::/64 via 2001:db8::2",
			"remove forwarding entry 02:00:00:00:00:02 at 192.0.2.2", "remove neighbour fe80::ff:fe00:2 with 02:00:00:00:00:02", "let VXLAN in from 1 peers alone",
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
