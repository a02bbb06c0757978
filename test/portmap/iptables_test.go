package portmap

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// mapped is a call of portmap for c1 or its neighbour.
func (n natNet) mapped(verb string, c *host.Container, keys string, mappings ...string) host.Call {
	address := natC1v4
	if c == n.neighbour {
		address = "10.1.0.6/24"
	}
	return c.Call(verb, "portmap", natConfig("blue", keys, natResult(c, address), strings.Join(mappings, ", ")))
}

// withReference is the call by the reference's plugin.
func (n natNet) withReference(call host.Call) host.Call {
	call.Plugin = filepath.Join(n.Dirs().Reference, call.Plugin)
	return call
}

// TestPortmapNerdctl: nerdctl learns from chain CNI-HOSTPORT-DNAT which host ports are
// taken; up to 1.7 from the first port of each rule.
func TestPortmapNerdctl(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	call := n.mapped("ADD", n.c1, "", natMapping("tcp", "", 49153, 80), natMapping("tcp", "", 49154, 443))
	call.Args = "IgnoreUnknown=1;NERDCTL_CNI_DHCP_HOSTNAME=c1"
	n.Must(call)
	rules := n.MustRun("iptables", "-t", "nat", "-S", "CNI-HOSTPORT-DNAT")
	for version, pattern := range map[string]string{"1.7.7": `--dports (\d+)`, "2.0": `--dports ((?:,?\d+)+)`} {
		var used []string
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(rules, -1) {
			used = append(used, strings.Split(match[1], ",")...)
		}
		slices.Sort(used)
		if want := []string{"49153", "49154"}; !slices.Equal(used, want) {
			t.Errorf("nerdctl %s: got %q used of\n%s\nwant %q, so that the next is 49155", version, used, rules, want)
		}
	}
	chain := regexp.MustCompile(`CNI-DN-[0-9a-f]{21}`).FindString(rules)
	for _, want := range []string{"--dport 49153 ", "--dport 49154 "} {
		if got := n.MustRun("iptables", "-t", "nat", "-S", chain); !strings.Contains(got, want) {
			t.Errorf("chain %s: got\n%s\nwant %q in it", chain, got, want)
		}
	}
	n.portmapDel(t, "blue", "")
	if rules := n.MustRun("iptables", "-t", "nat", "-S", "CNI-HOSTPORT-DNAT"); strings.Contains(rules, "--dports") {
		t.Errorf("after DEL: got\n%s\nwant no port", rules)
	}
}

// TestPortmapSwitchedBack: the reference plugin's DEL clears up after our ADD.
func TestPortmapSwitchedBack(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	const keys = `"backend": "iptables"`
	mapping := natMapping("tcp", "", 8080, 80)
	n.Must(n.mapped("ADD", n.c1, keys, mapping))
	n.Must(n.withReference(n.mapped("DEL", n.c1, keys, mapping)))
	if rules := n.MustRun("iptables-save", "-t", "nat"); strings.Contains(rules, "CNI-DN-") || strings.Contains(rules, "10.1.0.5") {
		t.Errorf("got\n%s\nwant nothing of c1", rules)
	}
}

// TestPortmapBesideTheReferences: what the reference plugin mapped for a container stands
// against another one only where it overlaps, and as long as anybody has the address.
func TestPortmapBesideTheReferences(t *testing.T) {
	t.Parallel()
	for _, theirs := range host.NATBackends {
		for _, ours := range host.NATBackends {
			t.Run(theirs+", ours "+ours, func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				n.neighbour.Serve("tcp", ":80")
				n.MustRun("ip", "address", "add", "192.0.2.9/24", "dev", "br1")
				reference := n.withReference(n.mapped("ADD", n.neighbour, fmt.Sprintf(`"backend": %q`, theirs), natMapping("tcp", "192.0.2.2", 8080, 80)))
				n.Must(reference)
				keys := fmt.Sprintf(`"backend": %q`, ours)
				n.Must(n.mapped("ADD", n.c1, keys, natMapping("tcp", "192.0.2.9", 8080, 80)))
				for to, want := range map[string]string{"192.0.2.2:8080": "c2", "192.0.2.9:8080": "c1"} {
					if reply, err := n.Outside.Request("tcp", to); err != nil || reply.Server != want {
						t.Errorf("%s: got %v, %v, want %s", to, reply, err, want)
					}
				}
				n.Must(n.mapped("DEL", n.c1, keys))

				taken := n.mapped("ADD", n.c1, keys, natMapping("tcp", "", 8080, 80))
				err := n.Exec(taken).Err()
				if host.CodeOf(err) != 102 || !strings.Contains(err.Error(), "container c2") || !strings.Contains(err.Error(), "10.1.0.6") {
					t.Fatalf("while c2 is there: got %v, want code 102 that names it and its address", err)
				}
				_, command, ok := strings.Cut(err.Error(), "if it is long gone: ")
				if !ok {
					t.Fatalf("got %v, want the command that deletes the rule", err)
				}
				n.MustRun("sh", "-ec", command)
				n.Must(taken)
				n.Must(n.mapped("DEL", n.c1, keys))
			})
		}
	}
}

// TestPortmapAfterALeak: rules of the reference plugin for a container that is gone stand
// against nobody.
func TestPortmapAfterALeak(t *testing.T) {
	t.Parallel()
	for _, theirs := range host.NATBackends {
		for _, network := range []string{"there", "gone"} {
			t.Run(theirs+", its network "+network, func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				n.Must(n.withReference(n.mapped("ADD", n.neighbour, fmt.Sprintf(`"backend": %q`, theirs), natMapping("tcp", "", 8080, 80))))
				n.MustRun("ip", "link", "delete", "veth-c2") // its namespace goes some time after its last process
				n.neighbour.Remove()
				from := n.c1
				last := 5
				if network == "gone" {
					n.MustRun("ip", "link", "delete", "br1")
					from, last = n.other, 7
				}
				result := natResult(from, fmt.Sprintf("10.1.0.%d/24", last))
				if network == "gone" {
					result = natResult(from, natOtherv4)
				}
				n.Must(from.Call("ADD", "portmap", natConfig("blue", "", result, natMapping("tcp", "", 8080, 80))))
				if rules := n.MustRun("nft", "list", "ruleset"); strings.Contains(rules, "10.1.0.6") {
					t.Errorf("got\n%s\nwant nothing of c2", rules)
				}
				if network == "there" {
					n.sources(true, "")[0].ask(t, "tcp", 8080, "")
				}
			})
		}
	}
}

// TestPortmapMessagesDoNotGrow: to look for the reference's rules takes as long beside a
// hundred mappings of ours.
func TestPortmapMessagesDoNotGrow(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	count := func() int {
		call := n.mapped("ADD", n.c1, `"backend": "nftables"`, natMapping("tcp", "", 8080, 80))
		call.Strace = &host.Strace{Syscalls: "sendto,sendmsg,recvfrom,recvmsg"}
		answer := n.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		n.portmapDel(t, "blue", "")
		sum := 0
		for _, calls := range answer.Trace.Calls {
			sum += calls
		}
		return sum
	}
	count() // makes the table
	first := count()
	var many []string
	for i := range 100 {
		many = append(many, natMapping("tcp", "", 9000+i, 80))
	}
	n.Must(n.mapped("ADD", n.neighbour, `"backend": "nftables"`, many...))
	if got := count(); got != first {
		t.Errorf("beside 100 mappings: got %d messages, want %d as without", got, first)
	}
}

// TestPortmapServicesByIPVS: kube-proxy has services' addresses on an interface of the
// host, and a rule of iptables that keeps what is for them.
func TestPortmapServicesByIPVS(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	n.serveByIPVS()
	n.Must(n.mapped("ADD", n.c1, "", natMapping("tcp", "", 8080, 80)))
	for from, want := range map[*host.Namespace]map[string]string{
		n.neighbour.Namespace: {"10.96.0.1:8080": n.Name, "192.0.2.2:8080": "c1"},
		n.Outside:             {"192.0.2.2:8080": "c1"},
	} {
		for to, server := range want {
			if reply, err := from.Request("tcp", to); err != nil || reply.Server != server {
				t.Errorf("%s from %s: got %v, %v, want %s", to, from.Name, reply, err, server)
			}
		}
	}
	n.portmapDel(t, "blue", "")
}

// TestPortmapFollowsKubeProxy: a container may start before kube-proxy does, as after a reboot. What nftables maps of
// it goes to iptables with the next ADD that maps a port, GC or `trestle restore`; not so where nftables was asked for.
func TestPortmapFollowsKubeProxy(t *testing.T) {
	t.Parallel()
	for _, later := range []string{"ADD", "GC", "restore"} {
		for _, keys := range []string{"", `"backend": "nftables"`} {
			t.Run(strings.TrimSpace(later+" "+keys), func(t *testing.T) {
				t.Parallel()
				testFollowsKubeProxy(t, later, keys)
			})
		}
	}
}

func testFollowsKubeProxy(t *testing.T, later, keys string) {
	n := newNATNet(t, false)
	n.Must(n.mapped("ADD", n.c1, keys, natMapping("tcp", "", 8080, 80)))
	n.serveByIPVS()
	assert := func(when, ofService string) {
		t.Helper()
		for to, server := range map[string]string{"10.96.0.1:8080": ofService, "192.0.2.2:8080": "c1"} {
			if reply, err := n.neighbour.Request("tcp", to); err != nil || reply.Server != server {
				t.Errorf("%s, %s: got %v, %v, want %s", when, to, reply, err, server)
			}
		}
		if _, err := n.RequestFrom("tcp", "127.0.0.1:0", "127.0.0.1:8080"); err != nil {
			t.Errorf("%s, 127.0.0.1: %v", when, err)
		}
	}
	assert("before "+later, "c1")
	switch later {
	case "ADD":
		n.Must(n.mapped("ADD", n.neighbour, "", natMapping("tcp", "", 8081, 80)))
	case "GC":
		n.Must(host.Call{Plugin: "portmap", Command: "GC", Config: natConfig("blue", keys, "", "")})
	case "restore":
		n.MustRun(filepath.Join(n.Dirs().Trestle, "trestle"), "restore")
	}
	if keys != "" {
		assert("after "+later, "c1")
		return
	}
	n.MustRun("sh", "-c", host.ListRuleset) // until the elements are gone
	assert("after "+later, n.Name)
	n.Must(n.mapped("CHECK", n.c1, keys, natMapping("tcp", "", 8080, 80)))
	n.portmapDel(t, "blue", keys)
	if rules := n.MustRun("iptables-save", "-t", "nat"); strings.Contains(rules, "10.1.0.5:80") {
		t.Errorf("after DEL, a rule leads to c1:\n%s", rules)
	}
}

// TestPortmapReadsNoOthersByIPVS: where all ports are in iptables, an ADD does not look for others to move.
func TestPortmapReadsNoOthersByIPVS(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	n.serveByIPVS()
	n.Must(n.mapped("ADD", n.c1, "", natMapping("tcp", "", 8080, 80)))
	records := strings.Fields(n.MustRun("find", "/run", "-path", "*/translations/*", "-type", "f"))
	if len(records) == 0 {
		t.Fatal("got no record of c1")
	}
	call := n.mapped("ADD", n.neighbour, "", natMapping("tcp", "", 8081, 80))
	call.Strace = &host.Strace{Syscalls: "openat"}
	answer := n.Exec(call)
	if err := answer.Err(); err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		if strings.Contains(answer.Trace.Text, filepath.Base(record)) {
			t.Errorf("the record of c1, %s, was read", record)
		}
	}
}

// serveByIPVS makes what kube-proxy makes for a service 10.96.0.1:8080, which the host itself answers.
func (n natNet) serveByIPVS() {
	n.MustRun("sh", "-ec", `ip link add kube-ipvs0 type veth peer name ipvs1; ip address add 10.96.0.1/32 dev kube-ipvs0
		iptables -t nat -N KUBE-SERVICES; iptables -t nat -I PREROUTING -j KUBE-SERVICES; iptables -t nat -I OUTPUT -j KUBE-SERVICES
		iptables -t nat -A KUBE-SERVICES -d 10.96.0.1 -p tcp --dport 8080 -j ACCEPT`)
	n.Serve("tcp", "10.96.0.1:8080") // as IPVS would, behind the host's own input
}

// TestPortmapStatusTellsOfExemptions that nftables' rules are not bound by.
func TestPortmapStatusTellsOfExemptions(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	status := func(backend string) string {
		answer := n.Exec(host.Call{Plugin: "portmap", Command: "STATUS", Config: natConfig("blue", fmt.Sprintf(`"backend": %q`, backend), "", "")})
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		return answer.Stderr
	}
	if got := status("nftables"); got != "" {
		t.Errorf("without exemptions: got %q, want nothing", got)
	}
	n.MustRun("iptables", "-t", "nat", "-I", "POSTROUTING", "-m", "policy", "--dir", "out", "--pol", "ipsec", "-j", "ACCEPT")
	if got := status("nftables"); !strings.Contains(got, "POSTROUTING") || !strings.Contains(got, `"iptables"`) {
		t.Errorf("with one: got %q, want the chain and the backend that is bound by it", got)
	}
	if got := status("iptables"); got != "" {
		t.Errorf("backend iptables: got %q, want nothing", got)
	}
}

// TestPortmapDelWithoutPrograms: a DEL that cannot reach rules says so, leaves them to GC,
// and lets the chain of plugins go on.
func TestPortmapDelWithoutPrograms(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			path := "PATH=" + alternativeIPTables(t, n, variant)
			add := n.mapped("ADD", n.c1, `"backend": "iptables"`, natMapping("tcp", "", 8080, 80))
			add.Env = []string{path}
			n.Must(add)
			del := n.mapped("DEL", n.c1, "")
			del.Env = []string{"PATH=/nonexistent"}
			answer := n.Exec(del)
			if err := answer.Err(); err != nil {
				t.Fatalf("DEL: %v", err)
			}
			left := variant == "iptables-legacy" // which only a program can change
			if got := answer.Stderr; strings.Contains(got, "left for GC") != left || strings.Contains(got, "not found") {
				t.Errorf("DEL said %q; want it to tell what is left: %v", got, left)
			}
			gc := host.Call{Plugin: "portmap", Command: "GC", Config: natConfig("blue", `"cni.dev/valid-attachments": []`, "", ""), Env: []string{path}}
			n.Must(gc)
			if got := n.MustRun("sh", "-c", variant+"-save -t nat; ls /run/trestle/translations /run/trestle/hostports"); strings.Contains(got, "CNI-") || strings.Contains(got, "8080") {
				t.Errorf("after GC: got\n%s\nwant nothing", got)
			}
		})
	}
}

// TestPortmapPrograms: for each family one program to look and one to change, beside
// others' mappings as well, and none where there is nothing to do.
func TestPortmapPrograms(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	const keys = `"backend": "iptables"`
	n.Must(n.mapped("ADD", n.neighbour, keys, natMapping("tcp", "", 9090, 80)))
	for _, step := range []struct {
		verb string
		want []string
	}{
		{"ADD", []string{"iptables-save", "iptables-restore"}},
		{"ADD", []string{"iptables-save"}},
		{"CHECK", []string{"iptables-save"}},
		{"DEL", []string{"iptables-save", "iptables-restore"}},
		{"DEL", nil},
	} {
		call := n.mapped(step.verb, n.c1, keys, natMapping("tcp", "", 8080, 80))
		call.Strace = &host.Strace{Syscalls: "execve"}
		answer := n.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatalf("%s: %v", step.verb, err)
		}
		var got []string
		for _, program := range answer.Trace.Execs[1:] { // behind the plugin
			got = append(got, strings.Replace(filepath.Base(program), "-nft", "", 1))
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: got programs %q, want %q", step.verb, got, step.want)
		}
	}
}

// TestPortmapSpeltTwice: one port in two spellings is mapped once, and every DEL is fine.
func TestPortmapSpeltTwice(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			keys := fmt.Sprintf(`"backend": %q`, backend)
			n.Must(n.mapped("ADD", n.c1, keys, natMapping("tcp", "", 8080, 80), natMapping("tcp", "0.0.0.0", 8080, 80)))
			n.sources(true, "")[0].ask(t, "tcp", 8080, "")
			for range 2 {
				n.Must(n.mapped("DEL", n.c1, keys))
			}
			n.Must(n.mapped("ADD", n.neighbour, keys, natMapping("tcp", "", 8080, 80)))
		})
	}
}
