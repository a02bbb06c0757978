package firewall

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/test/host"
)

// walled is a host with networks that end in the firewall plugin. Network i has
// bridge br<i> and subnets 10.<i>.0.0/24 and fd0<i>::/64.
type walled struct {
	*host.Host
	t *testing.T
}

func newWalled(t *testing.T) walled {
	t.Helper()
	return walled{host.NewRouting(t), t}
}

// network has further keys for the firewall plugin.
func (w walled) network(i int, keys string) *host.Network {
	w.t.Helper()
	if keys != "" {
		keys = ", " + keys
	}
	return w.Network(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "n%[1]d", "plugins": [
		{"type": "bridge", "bridge": "br%[1]d", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {"type": "static"}},
		{"type": "firewall"%[2]s}]}`, i, keys))
}

// firewalled is a container on network i, not yet attached.
type firewalled struct {
	*host.Container
	attachment *libcni.RuntimeConf
	v4, v6     netip.Addr
}

func (w walled) container(i, number int) firewalled {
	w.t.Helper()
	c := w.Container(fmt.Sprintf("c%d-%d", i, number))
	f := firewalled{c, c.Attachment(), netip.AddrFrom4([4]byte{10, byte(i), 0, byte(number)}), netip.MustParseAddr(fmt.Sprintf("fd0%d::%d", i, number))}
	f.attachment.Args = [][2]string{{"IP", fmt.Sprintf("%s/24,%s/64", f.v4, f.v6)}, {"GATEWAY", fmt.Sprintf("10.%d.0.1,fd0%d::1", i, i)}}
	return f
}

func (w walled) add(n *host.Network, c firewalled) {
	w.t.Helper()
	if _, err := n.Add(c.attachment); err != nil {
		w.t.Fatalf("ADD of %s: %v", c.ID, err)
	}
}

func (w walled) del(n *host.Network, c firewalled) {
	w.t.Helper()
	if err := n.Del(c.attachment); err != nil {
		w.t.Errorf("DEL of %s: %v", c.ID, err)
	}
}

// reaches pings both addresses at once, since what is dropped takes its time.
func (w walled) reaches(from *host.Namespace, to firewalled, want bool) {
	w.t.Helper()
	var both sync.WaitGroup
	for _, address := range to.addresses() {
		both.Go(func() {
			if err := from.Expecting(want).Ping(address); (err == nil) != want {
				w.t.Errorf("%s reaches %s: got %v, want %v", from.Name, address, err == nil, want)
			}
		})
	}
	both.Wait()
}

func (w walled) bridgeNetfilter(on int) {
	for _, family := range []string{"iptables", "ip6tables"} {
		w.MustRun("sysctl", "-qw", fmt.Sprintf("net.bridge.bridge-nf-call-%s=%d", family, on))
	}
}

func TestFirewallSameBridge(t *testing.T) {
	t.Parallel()
	for _, netfilter := range []int{0, 1} {
		w := newWalled(t)
		w.bridgeNetfilter(netfilter)
		networks := []*host.Network{w.network(1, `"ingressPolicy": "same-bridge"`), w.network(2, `"ingressPolicy": "same-bridge"`), w.network(3, "")}
		a, b, c, d := w.container(1, 5), w.container(1, 6), w.container(2, 5), w.container(3, 5)
		w.add(networks[0], a)
		w.add(networks[0], b)
		w.add(networks[1], c)
		w.add(networks[2], d)
		w.reaches(a.Namespace, b, true)
		w.reaches(a.Namespace, c, false)
		w.reaches(c.Namespace, a, false)
		w.reaches(d.Namespace, a, true) // as with the reference plugin: its network has no policy
		w.reaches(w.Namespace, a, true)
		if err := a.Ping(host.OutsideIPv4.Addr()); err != nil {
			t.Error(err)
		}
		for _, x := range []struct {
			n *host.Network
			c firewalled
		}{{networks[0], a}, {networks[1], c}, {networks[2], d}} {
			if err := x.n.Check(x.c.attachment); err != nil {
				t.Errorf("CHECK of %s: %v", x.c.ID, err)
			}
		}
		w.del(networks[0], a)
		w.del(networks[1], c)
		w.del(networks[2], d)
		if got := w.Dump(); !strings.Contains(got, `element "br1" comment "n1/"`) || strings.Contains(got, `"br2"`) {
			t.Errorf("got %s, want br1 in the sets, and br2 gone with its last container", firewallLines(got))
		}
		w.del(networks[0], b)
		w.leftNothing()
	}
}

func TestFirewallIsolated(t *testing.T) {
	t.Parallel()
	for _, netfilter := range []int{0, 1} {
		w := newWalled(t)
		w.bridgeNetfilter(netfilter)
		isolated, other := w.network(1, `"ingressPolicy": "isolated"`), w.network(2, `"ingressPolicy": "same-bridge"`)
		a, b, c := w.container(1, 5), w.container(1, 6), w.container(2, 5)
		w.add(isolated, a)
		w.add(isolated, b)
		w.add(other, c)
		w.reaches(a.Namespace, b, false)
		w.reaches(b.Namespace, a, false)
		w.reaches(a.Namespace, c, false)
		w.reaches(c.Namespace, a, false)
		w.reaches(w.Namespace, a, true)
		if err := a.Ping(host.OutsideIPv4.Addr()); err != nil {
			t.Error(err)
		}
		for _, x := range []firewalled{a, b} {
			if err := isolated.Check(x.attachment); err != nil {
				t.Errorf("CHECK: %v", err)
			}
		}
		// not by way of the gateway either
		a.MustRun("ip", "route", "add", b.v4.String(), "via", "10.1.0.1")
		a.MustRun("ip", "-6", "route", "add", b.v6.String(), "via", "fd01::1")
		w.reaches(a.Namespace, b, false)
		w.del(isolated, b)
		w.del(other, c)
		w.reaches(w.Namespace, a, true)
		w.del(isolated, a)
		w.leftNothing()
	}
}

// TestFirewallIsolatedHasNeighbours: a network without a policy on the same bridge.
func TestFirewallIsolatedHasNeighbours(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.bridgeNetfilter(0) // else the whole bridge is isolated, as it is with the reference plugin
	isolated, open := w.network(1, `"ingressPolicy": "isolated"`), w.network(1, "")
	a, b, c := w.container(1, 5), w.container(1, 6), w.container(1, 7)
	w.add(isolated, a)
	w.add(open, b)
	w.add(open, c)
	w.reaches(b.Namespace, a, false)
	w.reaches(a.Namespace, b, false)
	w.reaches(b.Namespace, c, true)
	w.del(isolated, a)
	w.del(open, b)
	w.del(open, c)
	w.leftNothing()
}

// assertFirewall compares what the plugin may have made with an earlier dump.
func (w walled) assertFirewall(before string) {
	w.t.Helper()
	if diff := host.Diff(firewallLines(before), firewallLines(w.Dump())); diff != "" {
		w.t.Errorf("the firewall is not as it was (-before +after):\n%s", diff)
	}
}

// firewallLines are those of a dump that the plugin may have made.
func firewallLines(dump string) string {
	var lines []string
	for line := range strings.Lines(dump) {
		masquerade := strings.Contains(line, "/run/trestle/nat") || strings.Contains(line, "/run/trestle/bridge") || strings.Contains(line, "/run/trestle/bandwidth/lock") || strings.Contains(line, "/var/lib/cni")
		if strings.HasPrefix(line, "nft ") || strings.HasPrefix(line, "iptables ") || strings.HasPrefix(line, "file ") && !masquerade {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// takeIdleChains removes the chains of iptables that stay for good, where they let
// nobody through.
func (w walled) takeIdleChains() {
	w.t.Helper()
	w.MustRun("sh", "-ec", `
		take() {
			rules=$($1 -S CNI-FORWARD 2>/dev/null) || { $1 -X CNI-ADMIN 2>/dev/null || return 0; }
			[ "$rules" ] || return 0
			[ -z "$(echo "$rules" | grep -v -e ^-N -e 'admin overrides')" ] || return 0
			$1 -D FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
			$1 -F CNI-FORWARD; $1 -X CNI-FORWARD; $1 -X CNI-ADMIN
		}
		take iptables-nft; take ip6tables-nft
		grep -qs filter /proc/net/ip_tables_names && take iptables-legacy
		grep -qs filter /proc/net/ip6_tables_names && take ip6tables-legacy
		true`)
}

func (w walled) leftNothing() {
	w.t.Helper()
	w.takeIdleChains()
	left := firewallLines(w.Dump())
	for _, table := range []string{"ip", "ip6"} { // which programs of iptables leave empty
		for _, line := range []string{"nft table " + table + " filter {\n", "nft \tchain FORWARD {\n", "nft \t\ttype filter hook forward priority filter; policy accept;\n", "nft \t\ttype filter hook forward priority filter; policy drop;\n", "nft \t}\n", "nft }\n"} {
			left = strings.ReplaceAll(left, line, "")
		}
	}
	left = strings.ReplaceAll(left, "file /run/xtables.lock -rw------- \"\"\n", "")
	if left != "" {
		w.t.Errorf("got left:\n%s", left)
	}
}

// TestFirewallRunsNoProgram but iptables-restore, once for each family, where nobody has
// made iptables' table yet, so that it lets the container through when it begins to drop.
func TestFirewallRunsNoProgram(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	c := w.container(1, 5)
	w.add(w.network(1, `"backend": "nftables"`), c)
	before := w.Dump()
	programs := func(command, keys string) string {
		t.Helper()
		call := w.call(c, command, keys)
		call.Strace = &host.Strace{}
		answer := w.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatalf("%s %s: %v", command, keys, err)
		}
		if command == "ADD" && strings.TrimSpace(answer.Stdout) != firewallPrevResult(c) {
			t.Errorf("%s: got %s, want prevResult", keys, answer.Stdout)
		}
		var names []string
		for _, program := range answer.Trace.Execs[1:] { // behind the plugin
			names = append(names, filepath.Base(program))
		}
		return strings.Join(names, " ")
	}
	for i, keys := range []string{
		`"backend": "nftables"`, `"backend": "nftables", "ingressPolicy": "isolated"`,
		`"backend": ""`, `"ingressPolicy": "same-bridge"`, `"ingressPolicy": "isolated"`, `"ingressPolicy": "published", "internal": true`,
	} {
		for _, command := range []string{"ADD", "CHECK", "DEL", "DEL"} {
			want := ""
			if i == 2 && command == "ADD" {
				want = "iptables-nft-restore ip6tables-nft-restore"
			}
			if got := programs(command, keys); got != want {
				t.Errorf("%s %s: got programs %q, want %q", command, keys, got, want)
			}
		}
		if i < 2 {
			w.assertFirewall(before)
		}
	}
	w.takeIdleChains()
	w.MustRun("sh", "-ec", "nft delete table ip filter; nft delete table ip6 filter")
	w.assertFirewall(before)
	never := w.call(c, "ADD", `"backend": "nftables"`) // which leaves no record either
	never.ContainerID = "never"
	w.Must(never)
	w.assertFirewall(before)

	// the kernel cannot make the table, or nobody has the programs: nothing drops by them
	w.MustRun("sh", "-ec", `mkdir /run/unable; for p in iptables ip6tables; do ln -s /bin/false /run/unable/$p-nft-restore; done`)
	before = w.Dump()
	for _, path := range []string{"/run/unable:/usr/sbin:/usr/bin", "/nowhere"} {
		for _, command := range []string{"ADD", "CHECK", "DEL"} {
			call := w.call(c, command, "")
			call.Env = []string{"PATH=" + path}
			w.Must(call)
		}
		w.assertFirewall(before)
	}
}

// firewallPrevResult is what bridge answered for a container, as far as the
// firewall plugin looks at it.
func firewallPrevResult(c firewalled) string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "interfaces": [{"name": "br1"}, {"name": "veth1"}, {"name": "eth0", "sandbox": %q}],
		"ips": [{"address": "%s/24", "interface": 2}, {"address": "%s/64", "interface": 2}]}`, c.NetNS, c.v4, c.v6)
}

// call is that of the firewall plugin alone.
func (w walled) call(c firewalled, command, keys string) host.Call {
	config := `{"cniVersion": "1.1.0", "name": "n1", "type": "firewall"`
	if keys != "" {
		config += ", " + keys
	}
	if command == "ADD" || command == "CHECK" {
		config += `, "prevResult": ` + firewallPrevResult(c)
	}
	return c.Call(command, "firewall", config+"}")
}

// obstacles are the ways in which a host drops what it forwards by iptables.
var obstacles = []struct{ name, make string }{
	{"policy of iptables-nft", "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP"},
	{"policy of iptables-legacy", "iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP"},
	{"last rule of iptables-nft", "iptables-nft -A FORWARD -j REJECT; ip6tables-nft -A FORWARD -j DROP"},
	{"both variants", "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP; iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP"},
}

// TestFirewallBesideDocker: what a FORWARD chain would drop is let through.
func TestFirewallBesideDocker(t *testing.T) {
	t.Parallel()
	for _, obstacle := range obstacles {
		w := newWalled(t)
		w.MustRun("sh", "-ec", obstacle.make)
		before := firewallLines(w.Dump())
		network := w.network(1, "")
		without := w.Network(strings.Replace(string(network.List.Bytes), `"type": "firewall"`, `"type": "tuning"`, 1))
		a, b := w.container(1, 5), w.container(1, 6)
		w.add(without, a)
		if err := a.Briefly().Ping(host.OutsideIPv4.Addr()); err == nil {
			t.Errorf("%s: nothing is dropped; the test shows nothing", obstacle.name)
		}
		w.del(without, a)
		w.add(network, a)
		w.add(network, b)
		if err := a.Ping(host.OutsideIPv4.Addr()); err != nil {
			t.Errorf("%s: %v", obstacle.name, err)
		}
		if err := network.Check(a.attachment); err != nil {
			t.Errorf("%s: CHECK: %v", obstacle.name, err)
		}
		// a mapped port, as any NAT maps it
		w.MustRun("sh", "-ec", `nft add table ip maps; nft add chain ip maps pre '{ type nat hook prerouting priority dstnat; }'
			nft add rule ip maps pre iifname uplink0 tcp dport 8080 dnat to 10.1.0.5:80`)
		a.Serve("tcp", ":80")
		if _, err := w.Outside.Request("tcp", host.HostIPv4.Addr().String()+":8080"); err != nil {
			t.Errorf("%s: mapped port: %v", obstacle.name, err)
		}
		// but nothing that was not asked for
		w.Outside.MustRun("ip", "route", "add", "10.1.0.0/24", "via", host.HostIPv4.Addr().String())
		if _, err := w.Outside.Briefly().Request("tcp", "10.1.0.5:80"); err == nil {
			t.Errorf("%s: a port that is not mapped is open to the outside", obstacle.name)
		}
		w.MustRun("nft", "delete", "table", "ip", "maps")
		w.del(network, a)
		if err := b.Ping(host.OutsideIPv4.Addr()); err != nil {
			t.Errorf("%s: after the DEL of another: %v", obstacle.name, err)
		}
		w.del(network, b)
		w.takeIdleChains()
		if diff := host.Diff(before, firewallLines(w.Dump())); diff != "" {
			t.Errorf("%s: left (-before +after):\n%s", obstacle.name, diff)
		}
	}
}

// TestFirewallAdmin: an administrator's chain comes first, and stays.
func TestFirewallAdmin(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	network := w.network(1, `"backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"`)
	c := w.container(1, 5)
	w.add(network, c)
	w.MustRun("iptables", "-A", "NOMAD-ADMIN", "-s", c.v4.String(), "-j", "DROP")
	if err := c.Briefly().Ping(host.OutsideIPv4.Addr()); err == nil {
		t.Errorf("the administrator's chain is not asked")
	}
	w.del(network, c)
	rules := w.MustRun("iptables", "-S")
	if !strings.Contains(rules, "-A NOMAD-ADMIN") || strings.Contains(rules, "-A CNI-FORWARD -s") {
		t.Errorf("got %s, want the administrator's rules kept", rules)
	}
	// who puts rules into the chain later is heard, as long as anybody uses iptables
	other := w.network(2, "")
	d := w.container(2, 5)
	w.add(other, d)
	if err := d.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Error(err)
	}
	w.MustRun("iptables", "-A", "CNI-ADMIN", "-d", host.OutsideIPv4.Addr().String(), "-j", "DROP")
	if err := d.Briefly().Ping(host.OutsideIPv4.Addr()); err == nil {
		t.Error("the administrator's rule has no effect")
	}
	w.del(other, d)
	w.MustRun("iptables", "-F", "CNI-ADMIN")
	gc := w.call(d, "GC", `"cni.dev/valid-attachments": []`)
	if err := w.Exec(gc).Err(); err != nil {
		t.Fatal(err)
	}
	if rules := w.MustRun("iptables", "-S"); strings.Contains(rules, "CNI-FORWARD") || !strings.Contains(rules, "-N CNI-ADMIN") {
		t.Errorf("got %s, want our chain gone, and the administrator's, though empty, kept", rules)
	}
	w.MustRun("iptables", "-A", "CNI-ADMIN", "-d", host.OutsideIPv4.Addr().String(), "-j", "DROP") // a script's
}

// TestFirewallSwitchOver: either plugin's DEL removes what the other's ADD made
// in iptables. What it made for the policy, the reference plugin never removes.
func TestFirewallSwitchOver(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"nft", "legacy"} {
		for _, referenceAdds := range []bool{true, false} {
			w := newWalled(t)
			if variant == "legacy" {
				w.MustRun("sh", "-ec", "for p in iptables ip6tables; do for s in '' -save -restore; do ln -sf $(command -v $p-legacy$s) /run/$p$s; done; done")
			}
			w.MustRun("sh", "-ec", fmt.Sprintf("iptables-%[1]s -P FORWARD DROP; ip6tables-%[1]s -P FORWARD DROP", variant))
			c, other := w.container(1, 5), w.container(1, 6)
			w.add(w.network(1, ""), other)
			add, del := w.call(c, "ADD", ""), w.call(c, "DEL", "")
			for _, call := range []*host.Call{&add, &del} {
				call.Env = []string{"PATH=/run:/usr/sbin:/usr/bin:/sbin:/bin"}
			}
			del.Config = strings.TrimSuffix(del.Config, "}") + `, "prevResult": ` + firewallPrevResult(c) + "}"
			if referenceAdds {
				add.Plugin = w.Reference("firewall")
			} else {
				del.Plugin = w.Reference("firewall")
			}
			for _, call := range []*host.Call{&add, &del} { // which knows no such version
				if call.Plugin != "firewall" {
					call.Config = strings.ReplaceAll(call.Config, "1.1.0", "1.0.0")
				}
				if err := w.Exec(*call).Err(); err != nil {
					t.Fatalf("%s by %s: %v", call.Command, call.Plugin, err)
				}
				rules := w.MustRun("iptables-"+variant, "-S") + w.MustRun("ip6tables-"+variant, "-S")
				for _, address := range []string{"10.1.0.5/32", "fd01::5/128"} {
					if got := strings.Count(rules, " "+address+" "); got != map[string]int{"ADD": 2, "DEL": 0}[call.Command] {
						t.Errorf("%s: after %s by %s: got %d rules for %s:\n%s", variant, call.Command, call.Plugin, got, address, rules)
					}
				}
			}
			if rules := w.MustRun("iptables-"+variant, "-S"); !strings.Contains(rules, " 10.1.0.6/32 ") {
				t.Errorf("got %s, want the other container's rules kept", rules)
			}
		}
	}
}

// TestFirewallKeepsNewHolder: the late DEL of one container does not close the
// firewall to another that has its address by now.
func TestFirewallKeepsNewHolder(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	c := w.container(1, 5)
	first, second := w.call(c, "ADD", ""), w.call(c, "ADD", "")
	second.ContainerID = "second"
	late, reference := w.call(c, "DEL", ""), w.call(c, "DEL", "")
	reference.ContainerID = "of-the-reference-plugin"
	reference.Config = strings.TrimSuffix(reference.Config, "}") + `, "prevResult": ` + firewallPrevResult(c) + "}"
	for _, call := range []host.Call{first, second, late, reference} {
		if err := w.Exec(call).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(w.MustRun("iptables", "-S"), "10.1.0.5/32"); got != 2 {
		t.Errorf("got %d rules for the address, want its new holder's two", got)
	}
}

func TestFirewallDelWithout(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	c := w.container(1, 5)
	w.add(w.network(1, `"ingressPolicy": "isolated"`), c)
	blind := w.call(c, "DEL", `"backend": "no such", "ingressPolicy": 1`)
	blind.NetNS = ""
	for range 2 {
		if err := w.Exec(blind).Err(); err != nil {
			t.Fatal(err)
		}
	}
	w.takeIdleChains()
	if got := w.Dump(); strings.Contains(got, "set isolated") || strings.Contains(got, "CNI-") || strings.Contains(got, "trestle/firewall") {
		t.Errorf("got left:\n%s", firewallLines(got))
	}
}

// TestFirewallAddAgain: an ADD that no DEL has followed gives way, with whatever
// other rules it had.
func TestFirewallAddAgain(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	c := w.container(1, 5)
	w.add(w.network(1, ""), c)
	before := w.Dump()
	for _, keys := range []string{`"ingressPolicy": "isolated"`, `"ingressPolicy": "isolated"`, `"ingressPolicy": "same-bridge"`} {
		if err := w.Exec(w.call(c, "ADD", keys)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.Dump(); strings.Contains(got, "nft table bridge") || strings.Contains(got, `element "br1" . "br1" comment "n1/"`+"\nnft \t\telement") {
		t.Errorf("got %s, want nothing isolated any more", firewallLines(got))
	}
	if err := w.Exec(w.call(c, "ADD", "")).Err(); err != nil {
		t.Fatal(err)
	}
	w.assertFirewall(before)
}

func TestFirewallCheck(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	network := w.network(1, `"ingressPolicy": "isolated"`)
	c := w.container(1, 5)
	w.add(network, c)
	port := strings.TrimSpace(w.MustRun("ls", "/sys/class/net/br1/brif"))
	call := func(command string) error {
		call := w.call(c, command, `"ingressPolicy": "isolated"`)
		call.Config = strings.Replace(call.Config, "veth1", port, 1)
		return w.Exec(call).Err()
	}
	for _, test := range []struct{ name, change, want string }{
		{"nothing", "true", ""},
		{"flushed ruleset", "nft flush ruleset; iptables -P FORWARD DROP", "br1 in set bridges of nftables table inet trestle: want it, have none"},
		{"lost rules", "nft flush chain inet trestle forward", `rule "trestle firewall" in chain forward of nftables table inet trestle`},
		{"lost element", "nft flush set inet trestle isolated_bridges", "br1 in set isolated_bridges"},
		{"lost port", "nft flush set bridge trestle isolated_ports", "in set isolated_ports"},
		{"lost jump", "iptables -D FORWARD 1", "-j CNI-FORWARD"},
		{"lost rule", "iptables -D CNI-FORWARD -s 10.1.0.5/32 -j ACCEPT", "-s 10.1.0.5/32 -j ACCEPT"},
		{"lost record", "rm -r /run/trestle/firewall", "record of the firewall's rules"},
		{"a table that came later", "ip6tables-legacy -P FORWARD DROP", "of ip6tables-legacy"},
	} {
		w.MustRun("sh", "-ec", test.change)
		err := call("CHECK")
		if (err == nil) != (test.want == "") || err != nil && (host.CodeOf(err) != 103 || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		for _, command := range []string{"ADD", "CHECK"} {
			if err := call(command); err != nil {
				t.Fatalf("%s: %s: %v", test.name, command, err)
			}
		}
	}
}

// TestFirewallRestore: what "nft flush ruleset" took is made again from the records.
func TestFirewallRestore(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("sh", "-ec", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP") // first in the dump
	c := w.container(1, 5)
	w.add(w.network(1, ""), c)
	if err := w.Exec(w.call(c, "ADD", `"ingressPolicy": "isolated"`)).Err(); err != nil {
		t.Fatal(err)
	}
	before := w.Dump()
	w.MustRun("sh", "-ec", "nft delete table inet trestle; iptables -F FORWARD")
	w.Restore()
	w.assertFirewall(before)
}

// TestFirewallInRealLists: the lists that podman and nerdctl write.
func TestFirewallInRealLists(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	for name, list := range map[string]string{
		"podman": `{"cniVersion": "0.4.0", "name": "podman", "plugins": [
			{"type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {"type": "static", "addresses": [{"address": "10.88.0.2/16"}]}},
			{"type": "firewall", "backend": ""}, {"type": "tuning"}]}`,
		"nerdctl": `{"cniVersion": "1.0.0", "name": "nerdctl", "nerdctlID": "17f29b073143d8cd97b5bbe492bdeffec1c5fee55cc1fe2112c8b9335f8b6121", "nerdctlLabels": {"x": "y"}, "plugins": [
			{"type": "bridge", "bridge": "nerdctl0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {"type": "static", "addresses": [{"address": "10.4.0.2/24", "gateway": "10.4.0.1"}], "routes": [{"dst": "0.0.0.0/0"}]}},
			{"type": "firewall", "ingressPolicy": "same-bridge"}, {"type": "tuning"}]}`,
		"containerd": `{"cniVersion": "1.0.0", "name": "containerd", "plugins": [
			{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true, "ipam": {"type": "static", "addresses": [{"address": "10.5.0.2/24"}]}},
			{"type": "firewall"}, {"type": "bandwidth", "capabilities": {"bandwidth": true}}]}`,
	} {
		network, c := w.Network(list), w.Container(name)
		a := c.Attachment()
		a.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "p"}}
		if name == "containerd" {
			a.CapabilityArgs["bandwidth"] = map[string]uint64{"IngressRate": 1e6, "IngressBurst": 4294967295, "EgressRate": 1e6, "EgressBurst": 4294967295}
		}
		if _, err := network.Add(a); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := network.Check(a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for range 2 {
			if err := network.Del(a); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	w.leftNothing()
}

func TestFirewallGC(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	c := w.container(1, 5)
	w.add(w.network(1, ""), c)
	before := w.Dump()
	if err := w.Exec(w.call(c, "ADD", `"ingressPolicy": "isolated"`)).Err(); err != nil {
		t.Fatal(err)
	}
	attached := w.Dump()
	other := w.call(c, "GC", `"cni.dev/valid-attachments": []`)
	other.Config = strings.Replace(other.Config, `"name": "n1"`, `"name": "other"`, 1)
	keeps := w.call(c, "GC", fmt.Sprintf(`"cni.dev/attachments": [{"containerID": %q, "ifname": "eth0"}]`, c.ID))
	for _, call := range []host.Call{w.call(c, "GC", ""), other, keeps} {
		if err := w.Exec(call).Err(); err != nil {
			t.Fatal(err)
		}
		w.assertFirewall(attached)
	}
	if err := w.Exec(w.call(c, "GC", `"cni.dev/valid-attachments": []`)).Err(); err != nil {
		t.Fatal(err)
	}
	if got := w.Dump(); strings.Contains(got, "CNI-FORWARD") || strings.Contains(got, "set isolated") || strings.Contains(got, "trestle/firewall") {
		t.Errorf("got left:\n%s", host.Diff(before, got))
	}
}

// TestFirewallKilled: whatever an ADD is killed at, DEL leaves nothing.
func TestFirewallKilled(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	c := w.container(1, 5)
	w.add(w.network(1, `"backend": "nftables"`), c)
	del := w.call(c, "DEL", "")
	w.Must(w.call(c, "ADD", `"ingressPolicy": "isolated"`), del) // which leaves the lock
	before := w.Dump()
	const isolated, published = `"ingressPolicy": "isolated"`, `"ingressPolicy": "published", "internal": true`
	for _, x := range []struct{ syscall, keys string }{{"sendmsg", isolated}, {"openat", isolated}, {"sendto", published}, {"symlinkat", published}} {
		add, syscall := w.call(c, "ADD", x.keys), x.syscall
		kills := 0
		for when, killed := 1, true; killed; when++ {
			add.Strace = &host.Strace{Syscalls: syscall, Inject: []string{fmt.Sprintf("%s:signal=KILL:when=%d", syscall, when)}}
			if killed = w.Exec(add).Trace.Injected > 0; killed {
				kills++
			}
			if err := w.Exec(del).Err(); err != nil {
				t.Fatalf("killed at %s %d: %v", syscall, when, err)
			}
			w.assertFirewall(before)
			if t.Failed() || when > 200 {
				t.Fatalf("killed at %s %d", syscall, when)
			}
		}
		t.Logf("%s: killed at %d of %s", x.keys, kills, syscall)
	}
}

// TestFirewallKilledAtTable: an ADD that finds the table of iptables gone makes it, for all
// containers. Whatever it is killed at, those that were there before are let through by
// the next ADD.
func TestFirewallKilledAtTable(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	first, second, third := w.container(1, 5), w.container(1, 6), w.container(1, 7)
	network := w.network(1, "")
	for _, c := range []firewalled{first, second, third} {
		w.add(network, c)
	}
	w.Must(w.call(first, "ADD", ""))
	kills, unfilled := 0, 0
	for when, killed := 1, true; killed; when++ {
		w.MustRun("nft", "delete", "table", "ip", "filter")
		add := w.call(second, "ADD", "")
		add.Strace = &host.Strace{Syscalls: "openat", Inject: []string{fmt.Sprintf("openat:signal=KILL:when=%d", when)}}
		if killed = w.Exec(add).Trace.Injected > 0; killed {
			kills++
		}
		rules := func() string { return w.MustRun("sh", "-c", "iptables -S CNI-FORWARD 2>/dev/null || true") }
		if got := rules(); strings.Contains(got, "CNI-FORWARD") && !strings.Contains(got, "-d 10.1.0.5/32") {
			unfilled++
		}
		w.Must(w.call(third, "ADD", ""))
		if got := rules(); !strings.Contains(got, "-d 10.1.0.5/32") {
			t.Fatalf("killed at openat %d: the container that was there before is not let through:\n%s", when, got)
		}
		w.Must(w.call(third, "DEL", ""), w.call(second, "DEL", ""))
		if when > 200 {
			t.Fatal("no end")
		}
	}
	t.Logf("killed at %d of openat, of which %d left a table without rules", kills, unfilled)
}

// TestFirewallIsUndone: where one backend refuses, the other's rules go.
func TestFirewallIsUndone(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	c := w.container(1, 5)
	w.add(w.network(1, `"backend": "nftables"`), c)
	before := w.Dump()
	call := w.call(c, "ADD", `"ingressPolicy": "isolated"`)
	call.Env = []string{"PATH=/nowhere"}
	err := w.Exec(call).Err()
	if err == nil || !strings.Contains(err.Error(), "iptables-save") || strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v, want an error that names the program", err)
	}
	w.assertFirewall(before)
}

// TestFirewallAtOnce: many at once, and nothing twice or left, be it that the tables are
// there or that each of them finds none.
func TestFirewallAtOnce(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{"tables": "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP", "no tables": "true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testAtOnce(t, script)
		})
	}
}

func testAtOnce(t *testing.T, script string) {
	t.Helper()
	w := newWalled(t)
	w.MustRun("sh", "-ec", script)
	network := w.network(1, `"ingressPolicy": "isolated"`)
	var all []firewalled
	for i := range 8 {
		all = append(all, w.container(1, 5+i))
	}
	each := func(do func(firewalled) error) {
		errs := make(chan error)
		for _, c := range all {
			go func() { errs <- do(c) }()
		}
		for range all {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
	each(func(c firewalled) error { _, err := network.Add(c.attachment); return err })
	each(func(c firewalled) error { return network.Check(c.attachment) })
	if got := strings.Count(w.MustRun("iptables", "-S", "FORWARD"), "CNI-FORWARD"); got != 1 {
		t.Errorf("got %d jumps, want one", got)
	}
	each(func(c firewalled) error { return network.Del(c.attachment) })
	w.leftNothing()
}

func TestFirewallSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	c := w.container(1, 5)
	before := w.Dump()
	without := w.call(c, "ADD", "")
	without.Config, _, _ = strings.Cut(without.Config, `, "prevResult"`)
	without.Config += "}"
	macvlan := w.call(c, "ADD", `"ingressPolicy": "same-bridge"`)
	macvlan.Config = strings.Replace(macvlan.Config, `{"name": "br1"}, {"name": "veth1"}, `, "", 1)
	lost, chosen := w.call(c, "STATUS", `"backend": "iptables"`), w.call(c, "STATUS", `"iptablesAdminChainName": "X"`)
	lost.Env, chosen.Env = []string{"PATH=/nowhere"}, []string{"PATH=/nowhere"}
	for _, test := range []struct {
		name string
		call host.Call
		code uint
		want string
	}{
		{"no prevResult", without, 7, "prevResult: missing"},
		{"backend", w.call(c, "ADD", `"backend": "ufw"`), 7, `backend: unknown "ufw"`},
		{"policy", w.call(c, "ADD", `"ingressPolicy": "shut"`), 7, `ingressPolicy: unknown "shut"`},
		{"policy without a bridge", macvlan, 7, `ingressPolicy: "same-bridge" needs the name of a bridge`},
		{"no firewalld", w.call(c, "ADD", `"backend": "firewalld"`), 2, `backend: "firewalld" is asked for, but firewalld does not run`},
		{"STATUS without firewalld", w.call(c, "STATUS", `"backend": "firewalld"`), 50, "firewalld does not run"},
		{"STATUS without iptables", lost, 50, "iptables"},
		{"STATUS without iptables, but with a chain of it", chosen, 50, "iptables"},
		{"STATUS", w.call(c, "STATUS", `"ingressPolicy": "shut"`), 7, "shut"},
	} {
		err := w.Exec(test.call).Err()
		if host.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want code %d and %q", test.name, err, test.code, test.want)
		}
	}
	for _, keys := range []string{"", `"ingressPolicy": "isolated"`, `"backend": "iptables"`} {
		if err := w.Exec(w.call(c, "STATUS", keys)).Err(); err != nil {
			t.Errorf("STATUS %s: %v", keys, err)
		}
	}
	w.assertFirewall(before)
	banner := w.MustRun("sh", "-c", filepath.Join(w.Dirs().Trestle, "firewall")+" 2>&1")
	version, _ := strings.CutPrefix(strings.SplitN(banner, "\n", 2)[0], "CNI firewall plugin v")
	if major := strings.SplitN(version, ".", 2)[0]; !slices.Contains([]string{"2", "3"}, major) {
		t.Errorf("got banner %q, want a version above 1.7.1, which nerdctl asks for", banner)
	}
}

// TestFirewallStatus: where nobody asked for iptables, it is tested if an ADD would take it.
func TestFirewallStatus(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	c := w.container(1, 5)
	w.MustRun("sh", "-ec", `mkdir /run/broken; cd /run/broken
		for p in iptables ip6tables; do for s in -nft -nft-save -nft-restore; do ln -s /bin/false $p$s; done; done`)
	for _, step := range []struct {
		prepare, keys string
		code          uint
	}{
		{"true", "", 0}, // no table: nothing drops
		{"ip6tables -P FORWARD DROP", `"backend": "nftables"`, 0},
		{"true", "", 50},
	} {
		w.MustRun("sh", "-ec", step.prepare)
		status := w.call(c, "STATUS", step.keys)
		if err := w.Exec(status).Err(); err != nil {
			t.Errorf("STATUS, %s: %v", step.prepare, err)
		}
		status.Env = []string{"PATH=/run/broken:/usr/sbin:/usr/bin"}
		if err := w.Exec(status).Err(); host.CodeOf(err) != step.code || err != nil && !strings.Contains(err.Error(), "ip6tables-nft-save") {
			t.Errorf("STATUS with broken programs, %s, %s: got %v, want code %d", step.prepare, step.keys, err, step.code)
		}
	}
}

// TestFirewallRuleset is what an administrator sees.
func TestFirewallRuleset(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("sh", "-ec", "ip link add br1 type bridge; ip link add veth1 type veth peer name veth2; ip link set veth1 master br1")
	if err := w.Exec(w.call(w.container(1, 5), "ADD", `"backend": "nftables", "ingressPolicy": "isolated"`)).Err(); err != nil {
		t.Fatal(err)
	}
	const want = `table inet trestle {
	set bridges {
		type ifname
		flags timeout
		elements = { "br1" comment "n1/" }
	}

	set same_bridge {
		type ifname . ifname
		flags timeout
		elements = { "br1" . "br1" comment "n1/" }
	}

	set isolated_bridges {
		type ifname . ifname
		flags timeout
		elements = { "br1" . "br1" comment "n1/" }
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname . oifname @isolated_bridges drop comment "trestle firewall"
		iifname . oifname @same_bridge accept comment "trestle firewall"
		iifname @bridges oifname @bridges drop comment "trestle firewall"
	}
}
table bridge trestle {
	set isolated_ports {
		type ifname
		flags timeout
		elements = { "veth1" comment "n1/c1-5/eth0" }
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname @isolated_ports drop comment "trestle firewall"
		oifname @isolated_ports drop comment "trestle firewall"
	}
}
`
	if got := w.MustRun("nft", "list", "ruleset"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
