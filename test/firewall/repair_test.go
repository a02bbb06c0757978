package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// plugged makes the bridge and the ports that firewallPrevResult names, and more ports.
func (w walled) plugged(ports ...string) {
	w.t.Helper()
	w.MustRun("ip", "link", "add", "br1", "type", "bridge")
	for _, port := range append([]string{"veth1"}, ports...) {
		w.MustRun("sh", "-ec", fmt.Sprintf("ip link add %s type veth peer name %[1]sp; ip link set %[1]s master br1", port))
	}
}

// isolate is a call for the container on a port of its own.
func (w walled) isolate(c firewalled, command, port string) host.Call {
	call := w.call(c, command, `"ingressPolicy": "isolated"`)
	if command == "DEL" {
		call.Config = strings.TrimSuffix(call.Config, "}") + `, "prevResult": ` + firewallPrevResult(c) + "}"
	}
	call.Config = strings.ReplaceAll(call.Config, "veth1", port)
	return call
}

// withoutIPTables hides iptables' programs from the host.
func (w walled) withoutIPTables() {
	w.t.Helper()
	w.MustRun("sh", "-ec", `cd /usr/sbin; for p in *tables*-restore; do mount --bind /dev/null $p; done`)
}

// gc keeps the containers.
func (w walled) gc(valid ...firewalled) host.Call {
	var list []string
	for _, c := range valid {
		list = append(list, fmt.Sprintf(`{"containerID": %q, "ifname": "eth0"}`, c.ID))
	}
	return host.Call{Plugin: "firewall", Command: "GC", Config: `{"cniVersion": "1.1.0", "name": "n1", "type": "firewall", "cni.dev/valid-attachments": [` + strings.Join(list, ",") + "]}"}
}

func (w walled) expectElements(when string, want ...string) {
	w.t.Helper()
	var got []string
	for line := range strings.Lines(w.Dump()) {
		if element, ok := strings.CutPrefix(strings.TrimSpace(line), "nft \t\telement "); ok {
			got = append(got, strings.ReplaceAll(element, `"`, ""))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		w.t.Errorf("%s: got elements\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Without its records, DEL and GC go by what the kernel says of owners.
func TestFirewallRecordsLost(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	a, b, c := w.container(1, 5), w.container(1, 6), w.container(1, 7)
	w.plugged("veth2", "veth3")
	w.withoutIPTables()
	w.Must(w.isolate(a, "ADD", "veth1"), w.isolate(b, "ADD", "veth2"), w.isolate(c, "ADD", "veth3"))
	bridges := []string{"br1 comment n1/", "br1 . br1 comment n1/", "br1 . br1 comment n1/"}
	port := func(c firewalled, name string) string { return name + " comment n1/" + c.ID + "/eth0" }
	w.expectElements("attached", append(bridges, port(a, "veth1"), port(b, "veth2"), port(c, "veth3"))...)

	w.MustRun("rm", "-r", "/run/trestle")
	w.Must(w.isolate(a, "DEL", "veth1"))
	w.expectElements("one is gone", append(bridges, port(b, "veth2"), port(c, "veth3"))...)
	blind := w.isolate(b, "DEL", "veth2")
	blind.Config, _, _ = strings.Cut(blind.Config, `, "prevResult"`)
	blind.Config += "}"
	w.Must(blind)
	w.expectElements("another, of which nothing tells", append(bridges, port(c, "veth3"))...)
	w.Must(w.gc(c))
	w.expectElements("GC that keeps the last", append(bridges, port(c, "veth3"))...)
	w.Must(w.gc())
	w.leftNothing()
	if got := w.MustRun("nft", "list", "ruleset"); got != "" {
		t.Errorf("got %s, want idle tables gone", got)
	}

	// one record of two, and what another network has is none of its business
	w.Must(w.isolate(a, "ADD", "veth1"), w.isolate(b, "ADD", "veth2"))
	other := w.isolate(c, "ADD", "veth3")
	other.Config = strings.Replace(other.Config, `"n1"`, `"n2"`, 1)
	w.Must(other)
	w.MustRun("sh", "-c", "rm $(grep -l "+a.ID+" /run/trestle/firewall/n1/*)")
	w.Must(w.gc(b))
	w.expectElements("GC after one record was lost", append(bridges, port(b, "veth2"), strings.Replace(port(c, "veth3"), "n1/", "n2/", 1))...)
	if links := w.MustRun("sh", "-c", "find /run/trestle/firewall.shared -xtype l"); links != "" {
		t.Errorf("got links to nowhere: %s", links)
	}
}

// What a ruleset has that was saved before a boot, or under an earlier release.
func TestFirewallStale(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	a := w.container(1, 5)
	w.plugged()
	w.Must(w.isolate(a, "ADD", "veth1"))
	w.MustRun("sh", "-ec", `
		nft add element inet trestle bridges '{ gone0 comment "n7/" }'
		nft add element bridge trestle isolated_ports '{ vethgone comment "n7/x/eth0" }'
		nft add table inet trestle_firewall
		nft add set inet trestle_firewall bridges '{ type ifname; }'
		nft add element inet trestle_firewall bridges '{ gone1 comment "n7/" }'
		nft add chain inet trestle_firewall forward '{ type filter hook forward priority filter; policy drop; }'`)
	list := w.gc()
	list.Config = strings.Replace(list.Config, "[]", "null", 1)
	w.Must(list)
	w.expectElements("GC without a list", "br1 comment n1/", "br1 . br1 comment n1/", "br1 . br1 comment n1/", "veth1 comment n1/"+a.ID+"/eth0")
	if tables := w.MustRun("nft", "list", "tables"); strings.Contains(tables, "trestle_firewall") {
		t.Errorf("got %s, want the earlier release's gone", tables)
	}
	// a set of the same name as an earlier release made it
	w.MustRun("sh", "-ec", `
		nft flush ruleset
		nft add table bridge trestle
		nft add set bridge trestle isolated_ports '{ type ifname; }'
		nft add element bridge trestle isolated_ports '{ veth1 comment "n1/`+a.ID+`/eth0" }'`)
	w.Must(w.isolate(a, "DEL", "veth1"), w.isolate(a, "ADD", "veth1"), w.isolate(a, "CHECK", "veth1"), w.isolate(a, "DEL", "veth1"))
	w.expectElements("DEL")
}

// A flush takes everybody's, and the next ADD makes everybody's again.
func TestFirewallAddAfterFlush(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "ACCEPT")
	a, b := w.container(1, 5), w.container(1, 6)
	w.plugged("veth2")
	w.Must(w.isolate(a, "ADD", "veth1"))
	w.MustRun("sh", "-ec", "nft flush ruleset; iptables -P FORWARD ACCEPT")
	w.Must(w.isolate(b, "ADD", "veth2"), w.isolate(a, "CHECK", "veth1"), w.isolate(b, "CHECK", "veth2"))
}

// What is out of reach at DEL is not a reason to fail, nor forgotten.
func TestFirewallOutOfReach(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("sh", "-ec", "iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP") // which nothing but its program changes
	before := w.Dump()
	c := w.container(1, 5)
	w.Must(w.call(c, "ADD", ""))
	del := w.call(c, "DEL", "")
	del.Env = []string{"PATH=/nowhere"}
	for range 2 {
		answer := w.Exec(del)
		if err := answer.Err(); err != nil || !strings.Contains(answer.Stderr, "iptables") || !strings.Contains(answer.Stderr, "no such program") || strings.Contains(answer.Stderr, "not found") {
			t.Errorf("DEL without iptables: got %v, %q, want that it says so", err, answer.Stderr)
		}
	}
	rules := func() string { return w.MustRun("iptables-legacy", "-S") }
	if got := rules(); !strings.Contains(got, "10.1.0.5/32") {
		t.Fatalf("got %s, want the rules left; the test shows nothing", got)
	}
	w.Restore()
	w.takeIdleChains()
	w.assertFirewall(before)

	// a record that was left serves nobody, whoever needs the same meanwhile
	w.Must(w.call(c, "ADD", ""))
	w.Exec(del)
	again := w.call(c, "ADD", "")
	again.ContainerID = "second"
	w.Must(again, w.gc(firewalled{Container: w.Container("second")}))
	if got := strings.Count(rules(), "10.1.0.5/32"); got != 2 {
		t.Errorf("got %d rules for the address, want those of its new holder", got)
	}
	w.Must(w.gc())
	w.takeIdleChains()
	w.assertFirewall(before)

	// the kernel has no nf_tables: nothing can be there
	same := `"ingressPolicy": "same-bridge", "backend": "nftables"`
	w.Must(w.call(c, "ADD", same))
	lacking := w.call(c, "DEL", "")
	lacking.Strace = &host.Strace{Syscalls: "socket", Inject: []string{"socket:error=EPROTONOSUPPORT"}}
	answer := w.Exec(lacking)
	if err := answer.Err(); err != nil || answer.Trace.Injected == 0 {
		t.Errorf("DEL without nf_tables: got %v, %d calls refused, want no error", err, answer.Trace.Injected)
	}
	w.Must(w.gc())
	w.assertFirewall(before)
	lacking = w.call(c, "ADD", same)
	lacking.Strace = &host.Strace{Syscalls: "socket", Inject: []string{"socket:error=EPROTONOSUPPORT"}}
	if err := w.Exec(lacking).Err(); host.CodeOf(err) != 2 || !strings.Contains(err.Error(), `ingressPolicy: "same-bridge" needs nf_tables`) {
		t.Errorf("ADD without nf_tables: got %v, want code 2 that says so", err)
	}
	w.assertFirewall(before)
}

// What lets a container through is there before it is needed.
func TestFirewallLater(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	network := w.network(1, "")
	a, b, c := w.container(1, 5), w.container(1, 6), w.container(1, 7)
	w.add(network, a) // nobody has used iptables yet
	expect := func(when string, want bool, all ...firewalled) {
		t.Helper()
		for _, c := range all {
			if err := c.Expecting(want).Ping(host.OutsideIPv4.Addr()); (err == nil) != want {
				t.Errorf("%s: %s gets through: %v, want %v", when, c.ID, err == nil, want)
			}
		}
	}
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	expect("a policy before any other ADD", true, a)
	w.add(network, b)
	expect("the next ADD", true, a, b)
	for _, change := range []string{
		"iptables -P FORWARD ACCEPT; iptables -A FORWARD -j REJECT",
		"iptables -F FORWARD; iptables -N MYFW; iptables -A MYFW -j DROP; iptables -A FORWARD -j MYFW; iptables -P FORWARD DROP",
	} {
		w.MustRun("sh", "-ec", change)
		if strings.Contains(change, "-F") { // and took ours along
			w.Restore()
		}
		expect(change, true, a, b)
	}
	w.MustRun("nft", "flush", "ruleset")
	w.Must(w.call(c, "STATUS", ""))
	w.MustRun("iptables", "-P", "FORWARD", "ACCEPT")
	w.Restore()
	w.add(network, c)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	expect("a policy later", true, a, b, c)
	for _, x := range []firewalled{a, b, c} {
		if err := network.Check(x.attachment); err != nil {
			t.Errorf("CHECK of %s: %v", x.ID, err)
		}
		w.del(network, x)
	}
	w.leftNothing()
}

// TestFirewallWhereIPTablesIsLegacy: a table that nobody has made yet is made in the variant
// that the host uses, since that one's policy it is that changes later.
func TestFirewallWhereIPTablesIsLegacy(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("sh", "-ec", `mkdir /run/legacy; cd /run/legacy
		for p in iptables ip6tables; do for s in "" -save -restore; do ln -s $(command -v $p-legacy$s) $p$s; done; done`)
	network, c := w.network(1, ""), w.container(1, 5)
	w.add(w.network(1, `"backend": "nftables"`), c) // for its links
	call := w.call(c, "ADD", "")
	call.Env = []string{"PATH=/run/legacy:/usr/sbin:/usr/bin:/sbin:/bin"}
	w.Must(call)
	if got := w.MustRun("sh", "-c", "nft list tables | grep filter; true"); got != "" {
		t.Errorf("got %s of the variant that the host does not use, want none", got)
	}
	w.MustRun("sh", "-ec", "iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP")
	w.MustRun("rm", "-r", "/run/legacy")
	for _, address := range []netip.Prefix{host.OutsideIPv4, host.OutsideIPv6} {
		if err := c.Ping(address.Addr()); err != nil {
			t.Errorf("after a policy of DROP: %v", err)
		}
	}
	w.del(network, c)
	w.leftNothing()
}

// Where only containers have iptables' programs, as kube-proxy's.
func TestFirewallTableWithoutPrograms(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	w.MustRun("iptables", "-P", "FORWARD", "ACCEPT")
	c := w.container(1, 5)
	call := w.call(c, "ADD", "")
	call.Env = []string{"PATH=/nowhere"}
	w.Must(call)
	w.MustRun("iptables", "-P", "FORWARD", "DROP")
	if err := w.Exec(call).Err(); err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("got %v, want the missing program named", err)
	}
}

// TestFirewallUnfilledWithoutPrograms: an ADD was killed between the making of a table and
// its rules, and then iptables was uninstalled. Nobody else's ADD fails by that; the table is
// filled when the program is back.
func TestFirewallUnfilledWithoutPrograms(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	first, second, third := w.container(1, 5), w.container(1, 6), w.container(1, 7)
	w.Must(w.call(first, "ADD", ""))
	const notes = "/run/trestle/firewall.unfilled-"
	w.MustRun("sh", "-ec", "nft flush chain ip filter CNI-FORWARD; nft flush chain ip filter FORWARD; touch "+notes+"iptables "+notes+"ip6tables")
	for _, keys := range []string{"", `"backend": "nftables", "ingressPolicy": "same-bridge"`} {
		call := w.call(second, "ADD", keys)
		call.Env = []string{"PATH=/nowhere"}
		w.Must(call)
	}
	if got := w.MustRun("sh", "-c", "ls "+notes+"*; true"); !strings.Contains(got, "unfilled-iptables") {
		t.Errorf("got the notes %q, want that of a table that could not be filled", got)
	}
	w.Must(w.call(third, "ADD", ""))
	if got := w.MustRun("iptables", "-S", "CNI-FORWARD"); !strings.Contains(got, "10.1.0.5/32") || !strings.Contains(got, "10.1.0.7/32") {
		t.Errorf("got %s, want everybody let through", got)
	}
	if got := w.MustRun("sh", "-c", "ls "+notes+"*; true"); got != "" {
		t.Errorf("got the notes %q left, want none", got)
	}
}

// TestFirewallIsNotLostNAT: the firewall's part of the table that NAT shares is no sign that
// NAT's records were lost, after which everything is looked through.
func TestFirewallIsNotLostNAT(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	c := w.container(1, 5)
	w.plugged()
	config := host.BridgeConfig(host.Object{"name": "n2", "ipMasq": true, "ipMasqBackend": "iptables", "ipam": host.Leases("10.8.0.0/24")})
	programs := func(c *host.Container, command string) []string {
		t.Helper()
		call := c.Call(command, "bridge", config)
		call.Strace = &host.Strace{}
		answer := w.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		return answer.Trace.Execs[1:]
	}
	cost := func() (names []string) {
		other := w.Container("other")
		defer other.Remove()
		return append(programs(other, "ADD"), programs(other, "DEL")...)
	}
	programs(w.Container("first"), "ADD")
	want := cost()
	w.Must(w.isolate(c, "ADD", "veth1"))
	if got := cost(); len(got) != len(want) {
		t.Errorf("beside the firewall's rules: got programs %q, want %q", got, want)
	}
}

// Nobody but root may hold up an ADD.
func TestFirewallLocks(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	c := w.container(1, 5)
	network := w.Network(strings.Replace(string(w.network(1, `"ingressPolicy": "isolated"`).List.Bytes), `"hairpinMode"`, `"macspoofchk": true, "hairpinMode"`, 1))
	w.add(network, c)
	w.MustRun("sh", "-c", `for f in $(find /run/trestle ! -path '*/nat*' ! -path '*/bridge*'); do
		setpriv --reuid=65534 --regid=65534 --clear-groups flock "$f" sleep 100 >/dev/null 2>&1 & done; sleep 1`)
	d := w.container(1, 6)
	w.add(network, d)
	w.del(network, d)
	w.del(network, c)
}

// The second container of a network costs what the tenth does, and nothing fails on
// its way: a failed transaction has a grace period.
func TestFirewallCosts(t *testing.T) {
	t.Parallel()
	w := newWalled(t)
	var ports []string
	for i := range 12 {
		ports = append(ports, fmt.Sprint("port", i))
	}
	w.plugged(ports...)
	var all []firewalled
	for i := range ports {
		all = append(all, w.container(1, 5+i))
	}
	cost := func(i int, command string) int {
		t.Helper()
		call := w.isolate(all[i], command, ports[i])
		call.Strace = &host.Strace{}
		answer := w.Exec(call)
		if answer.Err() != nil || len(answer.Trace.Execs) != 1 {
			t.Fatalf("%s: got %v, programs %q", command, answer.Err(), answer.Trace.Execs)
		}
		calls := 0
		for _, name := range []string{"sendto", "recvfrom", "openat", "unlinkat", "symlinkat", "getdents64", "mkdirat", "newfstatat"} {
			calls += answer.Trace.Calls[name]
		}
		return calls
	}
	w.Must(w.isolate(all[0], "ADD", ports[0]))
	var adds, dels []int
	for i := 1; i < len(ports); i++ {
		adds = append(adds, cost(i, "ADD"))
	}
	for i := len(ports) - 1; i > 0; i-- {
		dels = append(dels, cost(i, "DEL"))
	}
	if adds[0] != adds[len(adds)-1] || dels[1] != dels[len(dels)-2] {
		t.Errorf("got %v calls for ADD, %v for DEL, want the same whatever the number of containers", adds, dels)
	}
}
