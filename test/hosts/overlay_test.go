package hosts

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/overlay"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

func prefixes(all ...string) (list []netip.Prefix) {
	for _, s := range all {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// selfOf is a host of a network with both families, the n-th.
func selfOf(h *lab.Host, n string, backend overlay.Backend) overlay.Self {
	return overlay.Self{
		Subnets: prefixes("10.40."+n+".0/24", "fd40:0:0:"+n+"::/64"), Pools: prefixes("10.40.0.0/16", "fd40::/48"),
		Underlay: []netip.Prefix{netip.PrefixFrom(h.IPv4, 24), netip.PrefixFrom(h.IPv6, 64)}, Uplink: "eth0", MTU: 1500,
		MAC: overlay.MAC(h.Name), Backend: backend, VNI: 7243, Port: 8473,
	}
}

func peerOf(s overlay.Self, name string) overlay.Peer {
	return overlay.Peer{Name: name, Underlay: s.Underlay, Subnets: s.Subnets, MTU: s.MTU, MAC: s.MAC}
}

// bring applies a plan, and fails unless nothing is left to do.
func bring(t *testing.T, h *lab.Host, self overlay.Self, peers ...overlay.Peer) {
	t.Helper()
	want, problems := overlay.Plan(self, peers)
	err := h.Do(func() error {
		kernel, err := overlay.Open("/run/trestle/node/nft")
		if err != nil {
			return err
		}
		defer func() { _ = kernel.Close() }() // the test ends with it
		have, err := kernel.Observe(want)
		if err != nil {
			return err
		}
		if err := kernel.Apply(overlay.Diff(want, have)); err != nil {
			return err
		}
		if have, err = kernel.Observe(want); err != nil {
			return err
		}
		if left := overlay.Diff(want, have); !left.Empty() {
			t.Errorf("%s: applied, and there is left to do: %q", h.Name, left.Strings())
		}
		return nil
	})
	if err != nil || len(problems) > 0 {
		t.Errorf("%s: %v, %q", h.Name, err, problems)
	}
}

// TestOverlay: two hosts reach each other's subnets in each way and both families, and
// what was made for it goes without a trace.
func TestOverlay(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	a, b := l.Host("a"), l.Host("b")
	before := a.Dump()
	for _, h := range []*lab.Host{a, b} {
		n := map[string]string{"a": "1", "b": "2"}[h.Name]
		h.MustRun("ip", "address", "add", "10.40."+n+".1/32", "dev", "lo")
		h.MustRun("ip", "address", "add", "fd40:0:0:"+n+"::1/128", "dev", "lo", "nodad")
	}
	six := func(s overlay.Self) overlay.Self { s.Underlay = s.Underlay[1:]; return s }
	quiet := func(s overlay.Self) overlay.Self { s.NoTxChecksum = true; return s }
	noIPv6 := func(s overlay.Self) overlay.Self {
		s.NoIPv6, s.Subnets, s.Pools = true, s.Subnets[:1], s.Pools[:1]
		return s
	}
	for _, way := range []struct {
		name    string
		backend overlay.Backend
		with    func(overlay.Self) overlay.Self
		route   string // of a, to b
	}{
		{"vxlan", overlay.VXLAN, nil, "dev trestle-vx"},
		{"vxlan without checksums", overlay.VXLAN, quiet, "dev trestle-vx"},
		{"vxlan over IPv6", overlay.VXLAN, six, "dev trestle-vx"},
		{"vxlan without IPv6", overlay.VXLAN, noIPv6, "via 10.40.2.0 dev trestle-vx"},
		{"host-gw", overlay.HostGW, nil, "via " + b.IPv4.String() + " dev eth0"},
		{"host-gw over IPv6", overlay.HostGW, six, "via inet6 " + b.IPv6.String() + " dev eth0"},
		{"auto", overlay.Auto, nil, "via " + b.IPv4.String() + " dev eth0"},
	} {
		selfA, selfB := selfOf(a, "1", way.backend), selfOf(b, "2", way.backend)
		if way.with != nil {
			selfA, selfB = way.with(selfA), way.with(selfB)
		}
		bring(t, a, selfA, peerOf(selfB, "b"))
		bring(t, b, selfB, peerOf(selfA, "a"))
		if got := a.MustRun("ip", "route", "get", "10.40.2.1"); !strings.Contains(got, way.route) {
			t.Errorf("%s: got route %s, want %s", way.name, got, way.route)
		}
		for _, s := range selfB.Subnets {
			eventually(t, func() error { return a.Briefly().Ping(s.Addr().Next()) }) // the kernel takes addresses of IPv6 some time later
		}
		// a subnet that nobody has does not leave by the default route
		if err := a.Briefly().Ping(netip.MustParseAddr("10.40.77.1")); err == nil || !strings.Contains(a.MustRun("ip", "route", "show", "10.40.0.0/16"), "unreachable") {
			t.Errorf("%s: got %v for a subnet that nobody has, want it unreachable", way.name, err)
		}
	}
	a.MustRun("ip", "address", "del", "10.40.1.1/32", "dev", "lo")
	a.MustRun("ip", "address", "del", "fd40:0:0:1::1/128", "dev", "lo")
	remove(t, a)
	a.AssertUnchanged(before, "sysctl net/ipv4/ip_forward", "sysctl net/ipv6/conf", "sysctl net/ipv4/conf", "file /run/trestle/node/nft")
}

// eventually asks until there is no error, for half a minute.
func eventually(t *testing.T, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not after 30 s: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func remove(t *testing.T, h *lab.Host) {
	t.Helper()
	err := h.Do(func() error {
		kernel, err := overlay.Open("/run/trestle/node/nft")
		if err != nil {
			return err
		}
		defer func() { _ = kernel.Close() }() // the test ends with it
		return kernel.Remove(overlay.MAC(h.Name))
	})
	if err != nil {
		t.Error(err)
	}
}

// TestOverlayLeavesOthersAlone: a tunnel of somebody else's with the same VNI and port,
// a device with our name, and a route to a peer's subnet are named, and stay.
func TestOverlayLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	h := l.Host("a")
	peer := selfOf(&lab.Host{Name: "b", IPv4: netip.MustParseAddr("203.0.113.77"), IPv6: netip.MustParseAddr("2001:db8:1::77")}, "2", overlay.VXLAN)
	want, _ := overlay.Plan(selfOf(h, "1", overlay.VXLAN), []overlay.Peer{peerOf(peer, "b")})
	apply := func() (have overlay.Found, err error) {
		err = h.Do(func() error {
			kernel, err := overlay.Open("/run/trestle/node/nft")
			if err != nil {
				return err
			}
			defer func() { _ = kernel.Close() }() // the test ends with it
			if have, err = kernel.Observe(want); err != nil {
				return err
			}
			return kernel.Apply(overlay.Diff(want, have))
		})
		return have, err
	}
	for _, other := range []struct{ name, make, show, want, undo string }{
		{"flannel's VNI", "ip link add flannel.1 type vxlan id 7243 dstport 8473 dev eth0 nolearning", "ip -d link show flannel.1", "flannel.1 has VNI 7243 on port 8473", "ip link del flannel.1"},
		{"the VNI of a device of any name", "ip link add some0 type vxlan id 7243 dstport 8473 group 239.1.1.1 dev eth0; ip link set some0 up", "ip -d link show some0", "some0 has VNI 7243 on port 8473", "ip link del some0"},
		{"Cilium's port", "ip link add cilium_vxlan type vxlan external dstport 8473; ip link set cilium_vxlan up", "ip -d link show cilium_vxlan", "cilium_vxlan has port 8473 for all VNIs; set another", "ip link del cilium_vxlan"},
		{"a port with group policies", "ip link add policy0 type vxlan id 5 gbp dstport 8473 dev eth0; ip link set policy0 up", "ip -d link show policy0", "policy0 has port 8473 for packets with group policies", "ip link del policy0"},
		{"Docker's VNI, in a namespace of its own", "ip netns add sandbox; ip link add vx-1 type vxlan id 7243 dstport 8473; ip link set vx-1 netns sandbox; ip -n sandbox link set vx-1 up", "ip -d -n sandbox link show vx-1", "a device that was moved from here to another namespace", "ip netns del sandbox"},
		{"a device of our name", "ip link add trestle-vx type bridge", "ip -d link show trestle-vx", "trestle-vx is a device of type bridge that Trestle did not make", "ip link del trestle-vx"},
	} {
		h.MustRun("sh", "-c", other.make)
		before := h.MustRun("sh", "-c", other.show)
		if _, err := apply(); err == nil || !strings.Contains(err.Error(), other.want) {
			t.Errorf("%s: got %v, want %q in it", other.name, err, other.want)
		}
		if after := h.MustRun("sh", "-c", other.show); after != before {
			t.Errorf("%s: it was\n%s\nand is\n%s", other.name, before, after)
		}
		h.MustRun("sh", "-c", other.undo+"; ip link del trestle-vx 2>/dev/null; true") // ours may be there, and down
	}
	var socket net.PacketConn
	listen := func() (err error) { socket, err = net.ListenPacket("udp", ":8473"); return err }
	// the kernel takes its time over the namespace that Docker's device was in
	host.Await(t, "nobody has the port any more", func() bool { return h.Do(listen) == nil })
	if _, err := apply(); err == nil || !strings.Contains(err.Error(), "port 8473 is that of a program (ss -lunp)") {
		t.Errorf("a program's port: got %v, want that said", err)
	}
	if err := socket.Close(); err != nil {
		t.Error(err)
	}
	h.MustRun("ip", "route", "add", "10.40.2.0/24", "via", lab.SwitchIPv4.Addr().String(), "proto", "static")
	have, err := apply()
	if err != nil || have.Foreign[prefixes("10.40.2.0/24")[0]] != "static" {
		t.Errorf("got %v, %v, want the static route named", have.Foreign, err)
	}
	if got := h.MustRun("ip", "route", "show", "10.40.2.0/24"); !strings.Contains(got, "proto static") || strings.Count(got, "\n") != 1 {
		t.Errorf("got %s, want the static route alone", got)
	}
	if got := h.MustRun("ip", "-6", "route", "show", "fd40:0:0:2::/64"); !strings.Contains(got, "trestle-vx") {
		t.Errorf("got %q, want the other family's route all the same", got)
	}
	h.MustRun("ip", "address", "add", "10.40.200.1/24", "dev", "eth0")
	err = h.Do(func() error {
		kernel, err := overlay.Open("/run/trestle/node/nft")
		if err != nil {
			return err
		}
		defer func() { _ = kernel.Close() }() // the test ends with it
		found, err := kernel.Overlaps(prefixes("10.40.0.0/16", "fd40::/48"), "tn-pods")
		if len(found) != 2 || !strings.Contains(found[0].What, "the address 10.40.200.1/24 of eth0") {
			t.Errorf("got overlaps %v, want eth0's address and the static route", found)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestEvents: what may concern the way to other hosts is an event, a default route and another's
// route in a pool included; what a container's coming and going changes is none.
func TestEvents(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	h := l.Host("a")
	ctx, stop := context.WithCancel(t.Context())
	seen := make(chan string, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- h.Do(func() error {
			pools := func() []netip.Prefix {
				return []netip.Prefix{netip.MustParsePrefix("10.40.0.0/16"), netip.MustParsePrefix("fd40::/48")}
			}
			return overlay.Events(ctx, overlay.Interest{Uplink: "eth0", Pools: pools}, func(what string) {
				if what != "address" { // of IPv6, which the kernel has looked for duplicates of
					seen <- what
				}
			})
		})
	}()
	next := func() string {
		select {
		case what := <-seen:
			return what
		case <-time.After(lab.Patience):
			return "nothing"
		}
	}
	if got := next(); got != "start" {
		t.Fatalf("got %s, want start", got)
	}
	const none = ""
	for _, test := range []struct{ name, do, want string }{
		{"a container", "ip link add v0 type veth peer name v1; ip address add 192.0.2.9/24 dev v0; ip link set v0 up; ip link set v1 up; ip link del v0", none},
		{"another's route", "ip route add 192.0.2.0/24 via 203.0.113.1; ip route replace 192.0.2.0/24 via 203.0.113.2; ip route del 192.0.2.0/24", none},
		{"another's route comes into a pool", "ip route add 10.40.9.0/24 via 203.0.113.1", none},
		{"and goes", "ip route del 10.40.9.0/24", "route"},
		{"the same in IPv6", "ip -6 route add fd40:0:0:9::/64 via 2001:db8:1::1; ip -6 route del fd40:0:0:9::/64", "route"},
		{"a route of ours comes", "ip route add 10.40.2.0/24 via 203.0.113.1 proto 116", none},
		{"and is replaced", "ip route replace 10.40.2.0/24 via 203.0.113.2 proto static", "route"},
		{"the default route goes", "ip route del default", "route"},
		{"and comes", "ip route add default via 203.0.113.1", "route"},
		{"forwarding of another link", "sysctl -qw net.ipv4.conf.lo.forwarding=1", none},
		{"forwarding", "sysctl -qw net.ipv4.ip_forward=1", "forwarding"},
		{"the uplink gets another name", "ip link set eth0 down; ip link set eth0 name up0", "link"},
	} {
		h.MustRun("sh", "-c", test.do)
		if test.want == none {
			time.Sleep(200 * time.Millisecond) // the kernel tells at once
		} else if got := next(); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
		var more []string
		for settled := false; !settled; {
			select {
			case what := <-seen:
				more = append(more, what)
			case <-time.After(100 * time.Millisecond):
				settled = true
			}
		}
		if test.want == none && len(more) > 0 {
			t.Errorf("%s: got %v, want no event", test.name, more)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
