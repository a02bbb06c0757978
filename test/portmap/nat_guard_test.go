package portmap

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// natWatch counts what comes from elsewhere for 127.0.0.1 and gets through: to a
// service of the host, or through a mapping to a container.
const natWatch = `table ip watch {
	chain in { type filter hook input priority 0; iifname != "lo" ct state new ip daddr 127.0.0.0/8 counter comment "in"; }
	chain through { type filter hook forward priority 0; iifname != "lo" ct original ip daddr 127.0.0.0/8 counter comment "through"; }
}`

// TestNATLoopbackFromOutside: what a container of any bridge or another host sends to
// 127.0.0.1 of the host is never mapped and never reaches the host's own services,
// while the host's own clients reach both; also after a flush, and with "snat" off.
// Where somebody else lets loopback addresses be routed, it is still never mapped.
func TestNATLoopbackFromOutside(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		for _, snat := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/snat=%v", backend, snat), func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				n.portmapAdd(t, "blue", fmt.Sprintf(`"backend": %q, "snat": %v`, backend, snat), natMapping("tcp", "127.0.0.1", 8080, 80), natMapping("udp", "127.0.0.1", 8080, 80))
				for _, protocol := range []string{"tcp", "udp"} {
					n.Serve(protocol, "127.0.0.1:9090")
				}
				n.MustRun("nft", natWatch)
				for _, who := range []struct{ space, via string }{{"c2", "10.1.0.1"}, {"c3", "10.2.0.1"}, {"outside", "192.0.2.2"}} {
					for _, route := range []string{"del local 127.0.0.0/8 dev lo table local", "del local 127.0.0.1 dev lo table local", "add 127.0.0.0/8 via " + who.via} {
						n.space(who.space).MustRun("sh", "-c", "ip route "+route)
					}
				}
				n.askLoopback(t, snat)
				n.MustRun("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet")
				n.askMapped(t)
				n.MustRun("sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/all/route_localnet")
				n.MustRun("sh", "-c", "nft flush ruleset; iptables -t nat -F; iptables -F")
				n.MustRun("nft", natWatch)
				n.askLoopback(t, false)
			})
		}
	}
}

func (n natNet) space(name string) *host.Namespace {
	return map[string]*host.Namespace{"c2": n.neighbour.Namespace, "c3": n.other.Namespace, "outside": n.Outside}[name]
}

// askLoopback checks that nobody but the host itself is answered on 127.0.0.1. All ask at
// once, since what is dropped takes its time.
func (n natNet) askLoopback(t *testing.T, mapped bool) {
	t.Helper()
	var all sync.WaitGroup
	for _, protocol := range []string{"tcp", "udp"} {
		if _, err := n.Request(protocol, "127.0.0.1:9090"); err != nil {
			t.Errorf("the host's own service: %v", err)
		}
		if _, err := n.Expecting(mapped).Request(protocol, "127.0.0.1:8080"); (err == nil) != mapped {
			t.Errorf("the host itself to the mapped port: got %v, want an answer: %v", err, mapped)
		}
		for who, from := range natOutsiders {
			for _, port := range []int{8080, 9090} {
				all.Go(func() {
					if _, err := n.space(who).Briefly().RequestFrom(protocol, from, fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
						t.Errorf("%s to %s port %d: got an answer, want none", who, protocol, port)
					}
				})
			}
		}
	}
	all.Wait()
	if counters := n.MustRun("nft", "list", "table", "ip", "watch"); strings.Count(counters, "counter packets 0 ") != 2 {
		t.Errorf("got packets through\n%s", counters)
	}
}

var natOutsiders = map[string]string{"c2": "10.1.0.6:0", "c3": "10.2.0.7:0", "outside": "192.0.2.1:0"}

// askMapped checks that nobody from outside gets through to the container.
func (n natNet) askMapped(t *testing.T) {
	t.Helper()
	var all sync.WaitGroup
	for who, from := range natOutsiders {
		all.Go(func() {
			if reply, err := n.space(who).Briefly().RequestFrom("tcp", from, "127.0.0.1:8080"); err == nil {
				t.Errorf("%s to the mapped port with route_localnet: got an answer of %s, want none", who, reply.Server)
			}
		})
	}
	all.Wait()
	counters := n.MustRun("nft", "list", "chain", "ip", "watch", "through")
	if !strings.Contains(counters, "counter packets 0 ") {
		t.Errorf("got packets through\n%s", counters)
	}
}

// TestNATNeedsNoRouteLocalnet: a port mapped on 127.0.0.1 answers there, and no
// interface is let route loopback addresses for it.
func TestNATNeedsNoRouteLocalnet(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			n.portmapAdd(t, "blue", fmt.Sprintf(`"backend": %q`, backend), natMapping("tcp", "", 8080, 80))
			if reply, err := n.Request("tcp", "127.0.0.1:8080"); err != nil || reply.Server != "c1" {
				t.Errorf("got %v, %v, want an answer of c1", reply, err)
			}
			if got := n.MustRun("sh", "-c", "grep -l 1 /proc/sys/net/ipv4/conf/*/route_localnet; true"); got != "" {
				t.Errorf("got it set in\n%s", got)
			}
			n.portmapDel(t, "blue", "")
		})
	}
}

// TestNATForgetsUDPFlows: a client that asked before the mapping was there, or
// when it led elsewhere, is answered by the container at once.
func TestNATForgetsUDPFlows(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			keys := fmt.Sprintf(`"backend": %q`, backend)
			n.MustRun("iptables", "-A", "INPUT", "-p", "udp", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT") // has conntrack look on from the start
			// a slow machine's test takes longer than the 30 s of a flow
			natSysctl(t, n.Host, "net/netfilter/nf_conntrack_udp_timeout", "3600")
			n.neighbour.Serve("udp", ":80")
			ask := func(answered bool) (host.Reply, error) {
				return n.Outside.Expecting(answered).RequestFrom("udp", "192.0.2.1:5555", "192.0.2.2:8080")
			}
			if _, err := ask(false); err == nil {
				t.Fatal("before the mapping: got an answer, want none")
			}
			// A flow to the same port of another machine is none of ours.
			n.Outside.Serve("udp", ":8080")
			n.Outside.MustRun("ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.2")
			if _, err := n.other.RequestFrom("udp", "10.2.0.7:6666", "192.0.2.1:8080"); err != nil {
				t.Fatal(err)
			}
			n.portmapAdd(t, "blue", keys, natMapping("udp", "", 8080, 80))
			if reply, err := ask(true); err != nil || reply.Server != "c1" {
				t.Errorf("mapped to c1: got %v, %v, want c1", reply, err)
			}
			n.portmapDel(t, "blue", "")
			config := natConfig("blue", keys, natResult(n.neighbour, "10.1.0.6/24"), natMapping("udp", "", 8080, 80))
			if err := n.Exec(n.neighbour.Call("ADD", "portmap", config)).Err(); err != nil {
				t.Fatal(err)
			}
			if reply, err := ask(true); err != nil || reply.Server != "c2" {
				t.Errorf("mapped to c2: got %v, %v, want c2", reply, err)
			}
			if flows := n.MustRun("conntrack", "-L", "-p", "udp"); !strings.Contains(flows, "sport=6666") {
				t.Errorf("got flows\n%s\nwant that of another machine's port 8080 still", flows)
			}
		})
	}
}
