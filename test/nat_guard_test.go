package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

var natBackends = []string{"nftables", "iptables"}

// natWatch counts what comes from the bridge for 127.0.0.1 and gets through: to
// a service of the host, or through a mapping to a container.
const natWatch = `table ip watch {
	chain in { type filter hook input priority 0; iifname br1 ct state new ip daddr 127.0.0.1 counter comment "in"; }
	chain through { type filter hook forward priority 0; iifname br1 ct original ip daddr 127.0.0.1 counter comment "through"; }
}`

// TestNATLoopbackGuard: what a container sends to 127.0.0.1 of the host reaches
// neither the host's own services nor ports mapped there, and the host's own
// clients reach both. Without the guard it would.
func TestNATLoopbackGuard(t *testing.T) {
	t.Parallel()
	for _, backend := range natBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			n.mapPorts(t, fmt.Sprintf(`"backend": %q`, backend), natMapping("tcp", "127.0.0.1", 8080, 80))
			n.Serve("tcp", "127.0.0.1:9090")
			n.neighbour.MustRun("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
			n.neighbour.MustRun("ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
			n.neighbour.MustRun("ip", "route", "add", "127.0.0.0/8", "via", "10.1.0.1")
			n.MustRun("nft", natWatch)
			defer n.MustRun("nft", "delete table ip watch")
			for _, guarded := range []bool{true, false} {
				for _, port := range []int{8080, 9090} {
					if _, err := n.Request("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
						t.Errorf("the host itself: %v", err)
					}
					if _, err := n.neighbour.RequestFrom("tcp", "10.1.0.6:0", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
						t.Errorf("a container to port %d: got an answer, want none", port)
					}
				}
				counters := n.MustRun("nft", "list", "table", "ip", "watch")
				if got := strings.Count(counters, "counter packets 0 "); guarded && got != 2 || !guarded && got != 0 {
					t.Errorf("guarded: %v, got\n%s\nwant packets of neither kind, or of both", guarded, counters)
				}
				switch backend {
				case "nftables":
					n.MustRun("nft", "flush", "chain", "inet", "trestle", "loopback_guard")
				case "iptables":
					n.MustRun("iptables", "-t", "raw", "-F", "TRESTLE-LOOPBACK")
				}
			}
		})
	}
}

// TestNATRouteLocalnet: the setting is ours only as long as a mapping needs it,
// and not at all where it was on before.
func TestNATRouteLocalnet(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	const setting = "net/ipv4/conf/br1/route_localnet"
	for _, tt := range []struct{ name, before, hostIP, during string }{
		{"switched on and off", "0", "", "1"},
		{"on already", "1", "", "1"},
		{"not needed", "0", host.HostIPv4.Addr().String(), "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natSysctl(t, n.Host, setting, tt.before)
			n.portmapAdd(t, "blue", "", natMapping("tcp", tt.hostIP, 8080, 80))
			if got := strings.TrimSpace(n.MustRun("cat", "/proc/sys/"+setting)); got != tt.during {
				t.Errorf("while mapped: got %s, want %s", got, tt.during)
			}
			n.portmapDel(t, "blue", "")
			if got := strings.TrimSpace(n.MustRun("cat", "/proc/sys/"+setting)); got != tt.before {
				t.Errorf("afterwards: got %s, want %s", got, tt.before)
			}
		})
	}
}

// TestNATRouteLocalnetElsewhere: a container that the host has no interface to
// is no reason to let the default route's have loopback addresses.
func TestNATRouteLocalnetElsewhere(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	config := natConfig("blue", "", natResult(n.c1, "10.77.0.5/24"), natMapping("tcp", "", 8080, 80))
	if err := n.Exec(n.c1.Call("ADD", "portmap", config)).Err(); err != nil {
		t.Fatal(err)
	}
	if got := n.MustRun("cat", "/proc/sys/net/ipv4/conf/"+host.Uplink+"/route_localnet"); got != "0\n" {
		t.Errorf("got %q, want it 0", got)
	}
}

// TestNATForgetsUDPFlows: a client that asked before the mapping was there, or
// when it led elsewhere, is answered by the container at once.
func TestNATForgetsUDPFlows(t *testing.T) {
	t.Parallel()
	for _, backend := range natBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			keys := fmt.Sprintf(`"backend": %q`, backend)
			n.MustRun("iptables", "-A", "INPUT", "-p", "udp", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT") // has conntrack look on from the start
			n.neighbour.Serve("udp", ":80")
			ask := func() (host.Reply, error) {
				return n.Outside.RequestFrom("udp", "192.0.2.1:5555", "192.0.2.2:8080")
			}
			if _, err := ask(); err == nil {
				t.Fatal("before the mapping: got an answer, want none")
			}
			// A flow to the same port of another machine is none of ours.
			n.Outside.Serve("udp", ":8080")
			n.Outside.MustRun("ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.2")
			if _, err := n.other.RequestFrom("udp", "10.2.0.7:6666", "192.0.2.1:8080"); err != nil {
				t.Fatal(err)
			}
			n.portmapAdd(t, "blue", keys, natMapping("udp", "", 8080, 80))
			if reply, err := ask(); err != nil || reply.Server != "c1" {
				t.Errorf("mapped to c1: got %v, %v, want c1", reply, err)
			}
			n.portmapDel(t, "blue", "")
			config := natConfig("blue", keys, natResult(n.neighbour, "10.1.0.6/24"), natMapping("udp", "", 8080, 80))
			if err := n.Exec(n.neighbour.Call("ADD", "portmap", config)).Err(); err != nil {
				t.Fatal(err)
			}
			if reply, err := ask(); err != nil || reply.Server != "c2" {
				t.Errorf("mapped to c2: got %v, %v, want c2", reply, err)
			}
			if flows := n.MustRun("conntrack", "-L", "-p", "udp"); !strings.Contains(flows, "sport=6666") {
				t.Errorf("got flows\n%s\nwant that of another machine's port 8080 still", flows)
			}
		})
	}
}
