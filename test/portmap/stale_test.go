package portmap

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/test/host"
)

// ofC1 is what rules, elements and records tell of container c1.
func (n natNet) ofC1() string {
	return n.MustRun("sh", "-c", host.ListRuleset+` | grep -F c1/eth0; iptables-save -t nat | grep -F c1/eth0
		find /run/trestle/translations /run/trestle/hostports ! -type d 2>&-; true`)
}

// TestPortmapAfterABoot: the ruleset of before was saved and is loaded again, /run is
// empty. Whatever is asked first, nobody of before has a port.
func TestPortmapAfterABoot(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		for _, first := range []string{"ADD", "DEL", "GC", "restore"} {
			t.Run(backend+"/"+first, func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				keys := fmt.Sprintf(`"backend": %q`, backend)
				call := func(verb string, c *host.Container) host.Call {
					return n.mapped(verb, c, keys, natMapping("tcp", "", 8080, 80), natMapping("udp", "127.0.0.1", 8080, 80))
				}
				n.Must(call("ADD", n.c1))
				n.MustRun("sh", "-ec", fmt.Sprintf(host.SaveRuleset, "/run/saved"))
				n.MustRun("sh", "-ec", "rm -r /run/trestle; "+fmt.Sprintf(host.LoadRuleset, "/run/saved"))
				if n.ofC1() == "" {
					t.Fatal("got nothing of c1 loaded")
				}
				switch first {
				case "ADD":
					n.Must(call("ADD", n.neighbour))
					n.neighbour.Serve("tcp", ":80")
					if reply, err := n.Outside.Request("tcp", host.HostIPv4.Addr().String()+":8080"); err != nil || reply.Server != n.neighbour.ID {
						t.Errorf("got %v, %v, want %s", reply, err, n.neighbour.ID)
					}
					n.Must(call("DEL", n.neighbour))
				case "DEL":
					n.Must(call("DEL", n.c1))
				case "GC":
					n.collect(t)
				case "restore":
					n.Restore()
				}
				if got := n.ofC1(); got != "" {
					t.Errorf("got\n%s\nwant nothing of c1", got)
				}
			})
		}
	}
}

// TestPortmapNamespaceEnds: a container that ended without a DEL has no port any more,
// and its late DEL takes nothing from who has it then.
func TestPortmapNamespaceEnds(t *testing.T) {
	t.Parallel()
	host.NeedProofOfDeath(t)
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			call := func(verb string, c *host.Container) host.Call {
				return n.mapped(verb, c, fmt.Sprintf(`"backend": %q`, backend), natMapping("tcp", "", 8080, 80))
			}
			short := n.Container("short")
			n.Must(call("ADD", short))
			if err := n.Exec(call("ADD", n.neighbour)).Err(); host.CodeOf(err) != 102 {
				t.Errorf("beside the living one: got %v, want code 102", err)
			}
			short.Remove()
			var err error
			host.Await(t, "the kernel has ended the namespace", func() bool {
				err = n.Exec(call("ADD", n.neighbour)).Err()
				return host.CodeOf(err) != 102
			})
			if err != nil {
				t.Fatal(err)
			}
			n.Must(call("DEL", short))
			n.Must(call("CHECK", n.neighbour))
			n.neighbour.Serve("tcp", ":80")
			if reply, err := n.Outside.Request("tcp", host.HostIPv4.Addr().String()+":8080"); err != nil || reply.Server != n.neighbour.ID {
				t.Errorf("got %v, %v, want %s", reply, err, n.neighbour.ID)
			}
			n.Must(call("DEL", n.neighbour))
		})
	}
}

// TestPortmapKilledBeforeReserving: the record of an ADD that was killed claims a port
// that another has by now. restore brings back all the others.
func TestPortmapKilledBeforeReserving(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			call := func(verb string, c *host.Container) host.Call {
				return n.mapped(verb, c, fmt.Sprintf(`"backend": %q`, backend), natMapping("tcp", "", 8080, 80))
			}
			killed := call("ADD", n.c1)
			killed.Strace = &host.Strace{Syscalls: "symlinkat", Inject: []string{"symlinkat:signal=KILL:when=1"}}
			if n.Exec(killed).Trace.Injected == 0 || n.ofC1() == "" {
				t.Fatal("got no ADD killed behind its record")
			}
			n.Must(call("ADD", n.neighbour))
			n.neighbour.Serve("tcp", ":80")
			for _, lost := range []string{"true", "nft flush ruleset"} {
				n.MustRun("sh", "-c", lost)
				told := n.MustRun(n.Dirs().Trestle+"/trestle", "restore")
				if want := fmt.Sprintf("blue/%s/eth0: mapping tcp 0.0.0.0:8080 to 10.1.0.5:80: blue/%s/eth0 has the port", n.c1.ID, n.neighbour.ID); !strings.Contains(told, want) {
					t.Errorf("restore after %s: got %q, want %q", lost, told, want)
				}
				if reply, err := n.Outside.Request("tcp", host.HostIPv4.Addr().String()+":8080"); err != nil || reply.Server != n.neighbour.ID {
					t.Errorf("restore after %s: got %v, %v, want %s", lost, reply, err, n.neighbour.ID)
				}
			}
			n.Must(call("DEL", n.c1))
			n.Must(call("CHECK", n.neighbour))
			n.Must(call("DEL", n.neighbour))
		})
	}
}

// TestLoadedAgain: what nft prints of our tables, and loads again, is the same, in
// whatever bytes; so is what an older layout becomes, in one transaction.
func TestLoadedAgain(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	network := h.Network(`{"cniVersion": "1.1.0", "name": "n", "plugins": [
		{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "macspoofchk": true,
		 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]}},
		{"type": "portmap", "capabilities": {"portMappings": true}},
		{"type": "firewall", "ingressPolicy": "isolated"}]}`)
	a, b := h.Container("c1").Attachment(), h.Container("c2").Attachment()
	a.CapabilityArgs["portMappings"] = []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
	b.CapabilityArgs["portMappings"] = []any{map[string]any{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}}
	if _, err := network.Add(a); err != nil {
		t.Fatal(err)
	}
	list := func() string { return h.MustRun("nft", "list", "ruleset") }
	ours := func() string {
		return h.MustRun("sh", "-ec", "nft list table inet trestle; nft list table bridge trestle")
	}
	saved := ours()
	h.MustRun("sh", "-ec", "nft list ruleset >/run/saved; nft flush ruleset; nft -f /run/saved")
	if got := ours(); got != saved {
		t.Errorf("loaded: got\n%s\nwant what was saved:\n%s", got, saved)
	}
	whole := list() // of which iptables' tables look otherwise than its programs made them
	if err := network.Check(a); err != nil {
		t.Errorf("CHECK of what was loaded: %v", err)
	}
	h.Restore()
	if got := list(); got != whole {
		t.Errorf("got\n%s\nwant it left unchanged:\n%s", got, whole)
	}

	// an older layout: other rules, a chain at another priority, a set that is no more
	h.MustRun("sh", "-ec", `
		nft flush chain inet trestle host_ports
		nft add rule inet trestle host_ports dnat ip to meta l4proto . ip daddr . th dport map @address_ports4
		nft flush chain inet trestle mapped_postrouting; nft delete chain inet trestle mapped_postrouting
		nft add chain inet trestle mapped_postrouting '{ type nat hook postrouting priority 90; }'
		nft add set inet trestle loopback_bridges '{ type ifname; }'
		nft add chain inet trestle loopback_guard '{ type filter hook prerouting priority raw; }'
		nft add rule inet trestle loopback_guard iifname @loopback_bridges drop`)
	if _, err := network.Add(b); err != nil {
		t.Fatal(err)
	}
	if err := network.Check(a); err != nil {
		t.Errorf("CHECK after an ADD over an older layout: %v", err)
	}
	if got := list(); strings.Contains(got, "loopback_guard") || strings.Contains(got, "loopback_bridges") || strings.Contains(got, "priority 90") {
		t.Errorf("got\n%s\nwant nothing of the older layout", got)
	}
	for _, x := range []*libcni.RuntimeConf{b, a} {
		if err := network.Del(x); err != nil {
			t.Error(err)
		}
	}
}

// TestPortmapLeaseKeepsPort: /run/trestle was lost, and the container is not bridge's, so
// that no link is known to be its. Its lease says that it is alive: it keeps its port, and
// DEL finds it. After the lease nobody does.
func TestPortmapLeaseKeepsPort(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			call := func(verb string, c *host.Container, port int) host.Call {
				return n.mapped(verb, c, fmt.Sprintf(`"backend": %q`, backend), natMapping("tcp", "", port, 80))
			}
			lease := `{"cniVersion": "1.0.0", "name": "blue", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}`
			for _, leased := range []bool{true, false} {
				if leased {
					n.Must(n.c1.Call("ADD", "host-local", lease))
				}
				n.Must(call("ADD", n.c1, 8080))
				n.MustRun("rm", "-r", "/run/trestle")
				n.Must(call("ADD", n.neighbour, 8081))
				if got := strings.Contains(n.ofC1(), "c1/eth0"); got != leased {
					t.Errorf("leased %v: got ports of c1 kept %v\n%s", leased, got, n.ofC1())
				}
				err := n.Exec(call("ADD", n.neighbour, 8080)).Err()
				if leased && host.CodeOf(err) != 102 || !leased && err != nil {
					t.Errorf("leased %v: the same port for another: got %v", leased, err)
				}
				n.Must(call("DEL", n.c1, 8080), call("DEL", n.neighbour, 8081))
				if got := n.ofC1(); got != "" {
					t.Errorf("DEL left\n%s", got)
				}
				if leased {
					n.Must(n.c1.Call("DEL", "host-local", lease))
				}
			}
		})
	}
}

// TestMasqueradeAfterABoot: of a ruleset that was saved before, the masquerade of a
// network goes with the first use, unless a container of it is there.
func TestMasqueradeAfterABoot(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		for _, alive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/alive=%v", backend, alive), func(t *testing.T) {
				t.Parallel()
				h := host.NewRouting(t)
				old := host.BridgeConfig(object{"name": "old", "bridge": "br1", "ipMasqBackend": backend})
				c1 := h.Container("c1")
				c1.MustAdd(old)
				h.MustRun("sh", "-ec", fmt.Sprintf(host.SaveRuleset, "/run/saved"))
				if !alive {
					c1.MustDel(old)
				}
				h.MustRun("sh", "-ec", "rm -r /run/trestle; "+fmt.Sprintf(host.LoadRuleset, "/run/saved"))
				h.Container("c2").MustAdd(host.BridgeConfig(object{"ipam": host.Leases("10.8.0.0/24"), "ipMasqBackend": backend}))
				rules := h.MustRun("sh", "-c", `nft list ruleset | grep -F '"old/'; iptables-save -t nat | grep -F '"old/'; true`)
				if got := rules != ""; got != alive {
					t.Errorf("got masquerade kept %v, want %v\n%s", got, alive, rules)
				}
			})
		}
	}
}

// TestPortmapRecordLost: one record was lost, and all others are there. DEL finds what it
// told of by the host ports that are asked for still, and takes nobody else's; without
// them GC does.
func TestPortmapRecordLost(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		for _, command := range []string{"DEL", "GC"} {
			t.Run(backend+"/"+command, func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				call := func(verb string, c *host.Container, port int) host.Call {
					return n.mapped(verb, c, fmt.Sprintf(`"backend": %q`, backend), natMapping("tcp", "", port, 80), natMapping("udp", "127.0.0.1", port, 80))
				}
				n.Must(call("ADD", n.neighbour, 8081))
				records := "/run/trestle/translations/blue"
				others := n.MustRun("ls", records)
				n.Must(call("ADD", n.c1, 8080))
				n.MustRun("sh", "-ec", "cd "+records+"; ls | grep -v "+strings.TrimSpace(others)+" | xargs rm")
				if command == "DEL" {
					n.Must(call("DEL", n.c1, 8080))
				} else {
					n.Must(host.Call{Plugin: "portmap", Command: "GC", Config: natConfig("blue", fmt.Sprintf(`"cni.dev/valid-attachments": [{"containerID": %q, "ifname": "eth0"}]`, n.neighbour.ID), "", "")})
				}
				got := n.MustRun("sh", "-c", host.ListRuleset+` | grep -F c1/eth0; iptables-save -t nat | grep -F c1/eth0; find /run/trestle/hostports -name '*-8080'; true`)
				if got != "" {
					t.Errorf("%s left\n%s", command, got)
				}
				n.Must(call("CHECK", n.neighbour, 8081), call("DEL", n.neighbour, 8081))
			})
		}
	}
}

// TestPortmapReservationLost: the record of a container's ports is there, and the reservation of
// one is not. DEL deletes all of them, and nothing of who has the port by now.
func TestPortmapReservationLost(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		for _, taken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/taken=%v", backend, taken), func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				call := func(verb string, c *host.Container, more ...string) host.Call {
					return n.mapped(verb, c, fmt.Sprintf(`"backend": %q`, backend), append(more, natMapping("tcp", "", 8080, 80))...)
				}
				udp := natMapping("udp", "127.0.0.1", 8080, 80)
				n.Must(call("ADD", n.c1, udp))
				n.MustRun("rm", "/run/trestle/hostports/tcp-8080/0.0.0.0")
				if taken {
					n.MustRun("sh", "-c", "nft flush ruleset; iptables -t nat -F")
					n.Must(call("ADD", n.neighbour))
				}
				n.Must(call("DEL", n.c1, udp))
				if got := n.ofC1(); !taken && got != "" {
					t.Errorf("got\n%s\nwant nothing of c1", got)
				}
				if taken {
					n.Must(call("CHECK", n.neighbour), call("DEL", n.neighbour))
				}
			})
		}
	}
}

// TestPortmapAddAgainSparesTheHolder: a container has ended without a DEL, and another one got its
// address and its host port. The first one is made anew, with another port: the port of the second
// stays.
func TestPortmapAddAgainSparesTheHolder(t *testing.T) {
	t.Parallel()
	host.NeedProofOfDeath(t)
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			call := func(verb string, c *host.Container, port int) host.Call {
				return n.mapped(verb, c, fmt.Sprintf(`"backend": %q`, backend), natMapping("tcp", "", port, 80))
			}
			first := n.Container("first")
			n.Must(call("ADD", first, 8080))
			first.Remove()
			host.Await(t, "the kernel has ended the namespace", func() bool {
				return host.CodeOf(n.Exec(call("ADD", n.c1, 8080)).Err()) != 102
			})
			n.Must(call("CHECK", n.c1, 8080))
			first = n.Container("first")
			n.Must(call("ADD", first, 8081), call("CHECK", n.c1, 8080))
			if reply, err := n.Outside.Request("tcp", host.HostIPv4.Addr().String()+":8080"); err != nil || reply.Server != n.c1.ID {
				t.Errorf("got %v, %v, want %s", reply, err, n.c1.ID)
			}
			n.Must(call("DEL", first, 8081), call("CHECK", n.c1, 8080), call("DEL", n.c1, 8080))
		})
	}
}
