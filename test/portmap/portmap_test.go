package portmap

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// portmapAdd maps ports of c1, which must work.
func (n natNet) portmapAdd(t *testing.T, network, keys string, mappings ...string) {
	t.Helper()
	config := natConfig(network, keys, natResult(n.c1, natC1v4, natC1v6), strings.Join(mappings, ", "))
	if err := n.Exec(n.c1.Call("ADD", "portmap", config)).Err(); err != nil {
		t.Fatalf("ADD: %v", err)
	}
}

// portmapDel unmaps what c1 has by the network, as a runtime does that knows
// nothing any more.
func (n natNet) portmapDel(t *testing.T, network, keys string) {
	t.Helper()
	call := n.c1.Call("DEL", "portmap", natConfig(network, keys, "", ""))
	call.NetNS = ""
	if err := n.Exec(call).Err(); err != nil {
		t.Fatalf("DEL: %v", err)
	}
}

func TestPortmapPassesTheResultOn(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	prev := strings.TrimSuffix(natResult(n.c1, natC1v4), "}") + `, "unknown": {"kept": [1, 2.50]}}`
	for name, mappings := range map[string]string{"with mappings": natMapping("tcp", "", 8080, 80), "without": ""} {
		t.Run(name, func(t *testing.T) {
			answer := n.Exec(n.c1.Call("ADD", "portmap", natConfig("blue", "", prev, mappings)))
			if err := answer.Err(); err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := json.Unmarshal([]byte(answer.Stdout), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(prev), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("result: -want +got\n%s", diff)
			}
		})
	}
}

// TestPortmapRefuses is what users get wrong: an error that says so, and nothing done.
func TestPortmapRefuses(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	before := n.Dump()
	result := natResult(n.c1, natC1v4)
	for _, tt := range []struct {
		name, keys, result, mappings string
		code                         uint
		says                         []string
	}{
		{"host port too high", "", result, natMapping("tcp", "", 65536, 80), 7, []string{"portMappings[0].hostPort", "65536", "1 to 65535"}},
		{"host port 0", "", result, natMapping("tcp", "", 0, 80), 7, []string{"portMappings[0].hostPort", "0 is not a port"}},
		{"container port too high", "", result, natMapping("tcp", "", 80, 70000), 7, []string{"portMappings[0].containerPort", "70000"}},
		{"container port negative", "", result, natMapping("tcp", "", 80, -1), 7, []string{"portMappings[0].containerPort", "-1"}},
		{"protocol without ports", "", result, natMapping("icmp", "", 80, 80), 7, []string{"portMappings[0].protocol", "icmp", "tcp, udp or sctp"}},
		{"no address", "", result, natMapping("tcp", "localhost", 80, 80), 7, []string{"portMappings[0].hostIP", "localhost"}},
		{"multicast", "", result, natMapping("tcp", "224.0.0.1", 80, 80), 7, []string{"portMappings[0].hostIP", "224.0.0.1"}},
		{"the second one", "", result, natMapping("tcp", "", 80, 80) + "," + natMapping("tcp", "x", 81, 80), 7, []string{"portMappings[1].hostIP"}},
		{"::1", "", result, natMapping("tcp", "::1", 80, 80), 2, []string{"portMappings[0].hostIP", "::1", "127.0.0.1"}},
		{"link-local", "", natResult(n.c1, natC1v6), natMapping("tcp", "fe80::1", 80, 80), 2, []string{"portMappings[0].hostIP", "fe80::1", "forwards"}},
		{"IPv6 to an IPv4 container", "", result, natMapping("tcp", "2001:db8::2", 80, 80), 7, []string{"portMappings[0].hostIP", "10.1.0.5"}},
		{"a container without addresses", "", natResult(n.c1), natMapping("tcp", "", 80, 80), 7, []string{"portMappings[0]", "80/tcp", "no address", "ipam"}},
		{"one port to two", "", result, natMapping("tcp", "", 80, 80) + "," + natMapping("tcp", "", 80, 81), 7, []string{"portMappings[1].hostPort", "portMappings[0]"}},
		{"nothing before it", "", "", natMapping("tcp", "", 80, 80), 7, []string{"prevResult"}},
		{"unknown backend", `"backend": "ipfw"`, result, "", 7, []string{"backend", "ipfw", "nftables"}},
		{"mark bit", `"markMasqBit": 32`, result, "", 7, []string{"markMasqBit", "32"}},
		{"mark bit and chain", `"markMasqBit": 1, "externalSetMarkChain": "X"`, result, "", 7, []string{"markMasqBit", "externalSetMarkChain"}},
		{"conditions of iptables with nftables", `"backend": "nftables", "conditionsV4": ["-s", "10.0.0.0/8"]`, result, "", 2, []string{"conditionsV4", "nftables", "iptables"}},
		{"conditions of nftables", `"conditionsV6": ["ip6", "saddr", "fd00::/8"]`, result, "", 2, []string{"conditionsV6", "ip6 saddr"}},
		{"somebody's chain with nftables", `"backend": "nftables", "externalSetMarkChain": "X"`, result, "", 2, []string{"externalSetMarkChain", "nftables"}},
		{"a list that is none", "", result, `7`, 6, []string{"portMappings"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := n.Exec(n.c1.Call("ADD", "portmap", natConfig("blue", tt.keys, tt.result, tt.mappings))).Err()
			if host.CodeOf(err) != tt.code {
				t.Fatalf("got %v, want code %d", err, tt.code)
			}
			for _, says := range tt.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("got %q, want it to say %q", err, says)
				}
			}
		})
	}
	n.collect(t)
	n.AssertUnchanged(before)
}

func TestPortmapTakenPort(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	n.portmapAdd(t, "blue", "", natMapping("tcp", "", 8080, 80), natMapping("udp", "192.0.2.2", 9090, 80))
	before := n.Dump()
	for _, tt := range []struct {
		name, keys, mapping string
		taken               bool
	}{
		{"the same", "", natMapping("tcp", "", 8080, 80), true},
		{"one address of all", "", natMapping("tcp", "192.0.2.2", 8080, 80), true},
		{"loopback of all", "", natMapping("tcp", "127.0.0.1", 8080, 80), true},
		{"all, where one is taken", "", natMapping("udp", "", 9090, 80), true},
		{"all of IPv4, where one is taken", "", natMapping("udp", "0.0.0.0", 9090, 80), true},
		{"the other backend", `"backend": "iptables"`, natMapping("tcp", "", 8080, 80), true},
		{"another protocol", "", natMapping("udp", "", 8080, 80), false},
		{"another port", "", natMapping("tcp", "", 8081, 80), false},
		{"another address", "", natMapping("udp", "127.0.0.1", 9090, 80), false},
		{"another family", "", natMapping("udp", "::", 9090, 80), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := natConfig("red", tt.keys, natResult(n.neighbour, "10.1.0.6/24", "fd00:1::6/64"), tt.mapping)
			err := n.Exec(n.neighbour.Call("ADD", "portmap", config)).Err()
			if tt.taken != (host.CodeOf(err) == 102) {
				t.Fatalf("got %v, want code 102: %v", err, tt.taken)
			}
			if tt.taken {
				for _, says := range []string{"container c1 of network blue", "10.1.0.5:80"} {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("got %q, want it to say %q", err, says)
					}
				}
			}
			if err := n.Exec(n.neighbour.Call("DEL", "portmap", natConfig("red", "", "", ""))).Err(); err != nil {
				t.Error(err)
			}
			n.AssertUnchanged(before, "link veth-c2", "neighbour", "nft table ip", "nft \tchain", "nft \t\ttype", "nft \t}", "nft }")
		})
	}
	t.Run("by the same container on another network", func(t *testing.T) {
		n.portmapAdd(t, "red", "", natMapping("tcp", "", 8080, 80), natMapping("tcp", "", 8888, 80))
		n.portmapDel(t, "red", "")
		if reply, err := n.Outside.Request("tcp", "192.0.2.2:8080"); err != nil || reply.Server != "c1" {
			t.Errorf("the port of network blue: got %v, %v, want c1", reply, err)
		}
	})
}

// TestPortmapAgain is ADD over what an ADD without DEL has left.
func TestPortmapAgain(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			n.makeKernelTables()
			empty := n.Dump()
			keys := fmt.Sprintf(`"backend": %q`, backend)
			n.portmapAdd(t, "blue", keys, natMapping("tcp", "", 8080, 80), natMapping("tcp", "", 8081, 80))
			once := n.Dump()
			n.portmapAdd(t, "blue", keys, natMapping("tcp", "", 8080, 80), natMapping("tcp", "", 8081, 80))
			n.AssertUnchanged(once, "neighbour")
			n.portmapAdd(t, "blue", keys, natMapping("tcp", "", 8081, 80))
			n.MustRun("sleep", "0.1") // an element goes within two ticks
			if reply, err := n.Outside.Briefly().Request("tcp", "192.0.2.2:8080"); err == nil {
				t.Errorf("a port that is not mapped any more: got %v, want no answer", reply)
			}
			if _, err := n.Outside.Request("tcp", "192.0.2.2:8081"); err != nil {
				t.Error(err)
			}
			n.portmapAdd(t, "blue", keys)
			n.portmapDel(t, "blue", "")
			n.collect(t)
			n.AssertUnchanged(empty, "neighbour", "link veth-c1")
		})
	}
}

// TestPortmapBackendChanged: DEL finds what ADD made by the other backend.
func TestPortmapBackendChanged(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	n.makeKernelTables()
	before := n.Dump()
	for _, backends := range [][2]string{{"nftables", "iptables"}, {"iptables", "nftables"}} {
		n.portmapAdd(t, "blue", fmt.Sprintf(`"backend": %q`, backends[0]), natMapping("tcp", "", 8080, 80))
		n.portmapDel(t, "blue", fmt.Sprintf(`"backend": %q`, backends[1]))
		n.collect(t)
		n.AssertUnchanged(before, "link veth-c1", "neighbour")
	}
}

// TestPortmapBackendChangedByAdd: of two entries in a list, or after the backend was
// edited, the later one's backend has the ports; 127.0.0.1 is answered all the while, and
// CHECK of either finds nothing amiss.
func TestPortmapBackendChangedByAdd(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	mapping := natMapping("tcp", "", 8080, 80)
	for _, backends := range [][]string{{"nftables", "iptables"}, {"iptables", "nftables"}} {
		for _, backend := range backends {
			n.portmapAdd(t, "blue", fmt.Sprintf(`"backend": %q`, backend), mapping)
			n.MustRun("sleep", "0.1") // an element goes within two ticks
			for from, namespace := range map[string]*host.Namespace{"127.0.0.1:8080": n.Namespace, "192.0.2.2:8080": n.Outside} {
				if _, err := namespace.Request("tcp", from); err != nil {
					t.Errorf("%s of %v: %v", backend, backends, err)
				}
			}
		}
		for _, backend := range backends {
			n.Must(n.mapped("CHECK", n.c1, fmt.Sprintf(`"backend": %q`, backend), mapping))
		}
		n.portmapDel(t, "blue", "")
	}
}

// TestPortmapKeysOfContainerd: go-cni sends its structs without names for JSON.
func TestPortmapKeysOfContainerd(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	n.portmapAdd(t, "blue", "", `{"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}`)
	if _, err := n.Outside.Request("tcp", "192.0.2.2:8080"); err != nil {
		t.Error(err)
	}
}

func TestPortmapCheckNoticesLoss(t *testing.T) {
	t.Parallel()
	for backend, losses := range map[string]map[string][]string{
		"nftables": {
			"the table":            {"nft", "flush", "ruleset"},
			"an element":           {"nft", "delete", "element", "inet", "trestle", "host_ports4", "{ tcp . 8080 }"},
			"the masquerade":       {"nft", "flush", "chain", "inet", "trestle", "mapped_postrouting"},
			"the jump":             {"nft", "flush", "chain", "inet", "trestle", "prerouting"},
			"the way of 127.0.0.1": {"nft", "flush", "chain", "inet", "trestle", "loopback_output"},
		},
		"iptables": {
			"the table":            {"iptables", "-t", "nat", "-F"},
			"the jump":             {"iptables", "-t", "nat", "-F", "PREROUTING"},
			"the way of 127.0.0.1": {"nft", "flush", "chain", "inet", "trestle", "loopback_input"},
		},
	} {
		for what, command := range losses {
			t.Run(backend+"/"+what, func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				keys := fmt.Sprintf(`"backend": %q`, backend)
				n.portmapAdd(t, "blue", keys, natMapping("tcp", "", 8080, 80))
				check := n.c1.Call("CHECK", "portmap", natConfig("blue", keys, natResult(n.c1, natC1v4, natC1v6), natMapping("tcp", "", 8080, 80)))
				if err := n.Exec(check).Err(); err != nil {
					t.Errorf("before: %v", err)
				}
				n.MustRun(command...)
				if err := n.Exec(check).Err(); host.CodeOf(err) != 103 || !strings.Contains(err.Error(), "want") {
					t.Errorf("after: got %v, want code 103 that says what is wanted", err)
				}
				n.portmapDel(t, "blue", "")
			})
		}
	}
}

func TestPortmapGCAndStatus(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	before := n.Dump()
	n.portmapAdd(t, "blue", "", natMapping("tcp", "", 8080, 80))
	gc := host.Call{Plugin: "portmap", Command: "GC"}
	for _, step := range []struct {
		list string
		kept bool
	}{
		{`"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]`, true},
		{`"cni.dev/attachments": [{"containerID": "c1", "ifname": "eth0"}]`, true},
		{`"x": "no list, so nothing is known to be dead"`, true},
		{`"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth1"}]`, false},
	} {
		gc.Config = natConfig("red", `"cni.dev/valid-attachments": []`, "", "")
		if err := n.Exec(gc).Err(); err != nil {
			t.Error(err)
		}
		gc.Config = natConfig("blue", step.list, "", "")
		if err := n.Exec(gc).Err(); err != nil {
			t.Error(err)
		}
		if !step.kept {
			n.MustRun("sleep", "0.1") // an element goes within two ticks
		}
		_, err := n.Outside.Expecting(step.kept).Request("tcp", "192.0.2.2:8080")
		if step.kept != (err == nil) {
			t.Errorf("GC with %s: got %v, want the port kept: %v", step.list, err, step.kept)
		}
	}
	n.collect(t)
	n.AssertUnchanged(before, "link veth-c1", "neighbour")
	for _, backend := range []string{"", "nftables", "iptables"} {
		status := host.Call{Plugin: "portmap", Command: "STATUS", Config: natConfig("blue", fmt.Sprintf(`"backend": %q`, backend), "", "")}
		if err := n.Exec(status).Err(); err != nil {
			t.Errorf("STATUS with backend %q: %v", backend, err)
		}
	}
	// Nothing answers for iptables where its programs are not to be found.
	status := host.Call{Plugin: "portmap", Command: "STATUS", Config: natConfig("blue", `"backend": "iptables"`, "", ""), Env: []string{"PATH=/nowhere"}}
	if err := n.Exec(status).Err(); host.CodeOf(err) != 50 {
		t.Errorf("STATUS without iptables: got %v, want code 50", err)
	}
}

// TestPortmapStatusOfAuto: what an ADD would take is tested, though the configuration does
// not name it.
func TestPortmapStatusOfAuto(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	n.MustRun("sh", "-ec", `mkdir /run/broken; cd /run/broken; for s in '' -save -restore; do ln -s /bin/false iptables$s; done`)
	bridge := host.BridgeConfig(object{"capabilities": object{"portMappings": true}, "ipMasq": false, "ipam": nil})
	without := host.BridgeConfig(object{"ipMasq": false, "ipam": nil})
	for _, step := range []struct {
		name, prepare, plugin, config string
		code                          uint
	}{
		{"nftables", "true", "portmap", natConfig("blue", "", "", ""), 0},
		{"nftables, by bridge", "true", "bridge", bridge, 0},
		{"nerdctl", "true", "portmap", natConfig("blue", `"nerdctlID": "x"`, "", ""), 50},
		{"kube-proxy by IPVS", "ip link add kube-ipvs0 type bridge", "portmap", natConfig("blue", "", "", ""), 50},
		{"kube-proxy by IPVS, by bridge", "true", "bridge", bridge, 50},
		{"no ports", "true", "bridge", without, 0},
	} {
		n.MustRun("sh", "-ec", step.prepare)
		status := host.Call{Plugin: step.plugin, Command: "STATUS", Config: step.config}
		if err := n.Exec(status).Err(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		status.Env = []string{"PATH=/run/broken:/usr/sbin:/usr/bin"}
		if err := n.Exec(status).Err(); host.CodeOf(err) != step.code || err != nil && !strings.Contains(err.Error(), "iptables") {
			t.Errorf("%s, iptables being broken: got %v, want code %d", step.name, err, step.code)
		}
	}
}
