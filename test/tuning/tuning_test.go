package tuning

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// tuned is a host with a container to tune: a bridge, and what its ADD answered.
type tuned struct {
	*host.Host
	c          *host.Container
	prevResult string
}

// newTuned attaches the container as the bridge plugin would.
func newTuned(t *testing.T) tuned {
	t.Helper()
	h := host.New(t)
	c, prevResult := h.AttachedContainer("c1")
	return tuned{h, c, prevResult}
}

// call is that of the tuning plugin in network n with further keys.
func (u tuned) call(command, keys string) host.Call {
	config := `{"cniVersion": "1.1.0", "name": "n", "type": "tuning"`
	if keys != "" {
		config += ", " + keys
	}
	if command == "ADD" || command == "CHECK" {
		config += `, "prevResult": ` + u.prevResult
	}
	return u.c.Call(command, "tuning", config+"}")
}

const everything = `"mac": "0a:58:0a:01:00:07", "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 77,
	"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.ipv4.conf.lo.rp_filter": "2"}`

const (
	whenTuned = "0a:58:0a:01:00:07 1400 77 ALLMULTI PROMISC 1 2"
	untuned   = "0a:58:0a:01:00:05 1500 1000 0 0"
)

// settings shows what everything changes.
func (u tuned) settings() string {
	show := `cd /sys/class/net/eth0; f=$(cat flags); s="$(cat address mtu tx_queue_len | tr '\n' ' ')"
		[ $((f & 0x200)) = 0 ] || s="${s}ALLMULTI "; [ $((f & 0x100)) = 0 ] || s="${s}PROMISC "
		echo "$s$(cat /proc/sys/net/ipv4/conf/eth0/arp_filter) $(cat /proc/sys/net/ipv4/conf/lo/rp_filter)"`
	return strings.TrimSpace(u.MustRun("ip", "netns", "exec", "c1", "sh", "-c", show))
}

func (u tuned) expect(t *testing.T, when, want string) {
	t.Helper()
	if got := u.settings(); got != want {
		t.Errorf("%s: got %s, want %s", when, got, want)
	}
}

func TestTuningLife(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before, inside := u.Dump(), u.c.Dump()
	u.expect(t, "before", untuned)
	u.Must(u.call("STATUS", everything))
	result, err := u.Exec(u.call("ADD", everything)).Result()
	if err != nil {
		t.Fatal(err)
	}
	if got := result.Interfaces[1]; got.Mac != "0a:58:0a:01:00:07" || got.Mtu != 1400 || result.Interfaces[0].Mac != "02:00:00:00:00:09" {
		t.Errorf("got %v, %v, want the new MAC and MTU of eth0 alone", result.Interfaces[0], got)
	}
	u.expect(t, "after ADD", whenTuned)
	u.Must(u.call("CHECK", everything))
	u.Must(u.call("DEL", "")) // the network was edited
	u.expect(t, "after DEL", untuned)
	u.Must(u.call("DEL", everything))
	u.AssertUnchanged(before)
	u.c.AssertUnchanged(inside)
}

// TestTuningAsReference: the same answer, the same settings.
func TestTuningAsReference(t *testing.T) {
	t.Parallel()
	for _, keys := range []string{"", everything, `"runtimeConfig": {"mac": "0a:58:0a:01:00:07"}`} {
		ours, theirs := newTuned(t), newTuned(t)
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0"} {
			call := ours.call("ADD", keys)
			call.Config = strings.ReplaceAll(call.Config, "1.1.0", version)
			call.Config = strings.ReplaceAll(call.Config, `{"address": "10.1.0.5/24"`, `{"version": "4", "address": "10.1.0.5/24"`)
			call.Config = strings.ReplaceAll(call.Config, `"mtu": 1500, `, "")
			got, err := ours.Exec(call).Result()
			call.Plugin = theirs.Reference("tuning")
			want, theirErr := theirs.Exec(call).Result()
			if diff := cmp.Diff(want, got); diff != "" || err != nil || theirErr != nil {
				t.Errorf("%s %s: got %v, want %v; the answer differs (-theirs +ours):\n%s", version, keys, err, theirErr, diff)
			}
			ours.expect(t, "tuned by ours", theirs.settings())
		}
	}
}

// TestTuningSwitchOver: the DEL of either plugin restores what the ADD of the
// other changed, sysctls aside, which the reference plugin never restores.
func TestTuningSwitchOver(t *testing.T) {
	t.Parallel()
	const keys = `"mac": "0a:58:0a:01:00:07", "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 77`
	for _, dataDir := range []string{"", `, "dataDir": "/run/elsewhere"`} {
		for _, referenceAdds := range []bool{true, false} {
			u := newTuned(t)
			before := u.Dump()
			add, del := u.call("ADD", keys+dataDir), u.call("DEL", keys+dataDir)
			if referenceAdds {
				add.Plugin = u.Reference("tuning")
			} else {
				del.Plugin = u.Reference("tuning")
			}
			u.Must(add)
			u.expect(t, "after ADD", "0a:58:0a:01:00:07 1400 77 ALLMULTI PROMISC 0 0")
			u.Must(del)
			u.expect(t, "after DEL", untuned)
			ignore := []string{"file /run/trestle/tuning/"} // the record, of which the reference knows nothing, until GC
			var hostVeth []string
			if !referenceAdds { // it knows nothing of the host veth, which goes with the container
				hostVeth = []string{"link veth1 ", "sysctl net/ipv6/conf/veth1/mtu"}
			}
			u.AssertUnchanged(before, append(ignore, hostVeth...)...)
			u.Must(u.call("GC", `"cni.dev/valid-attachments": []`))
			u.AssertUnchanged(before, hostVeth...)
		}
	}
}

// TestTuningDelWithout: DEL needs neither the namespace's path nor the
// configuration of the ADD.
func TestTuningDelWithout(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before := u.Dump()
	u.Must(u.call("ADD", everything+`, "dataDir": "/run/elsewhere"`))
	blind := u.call("DEL", "")
	blind.NetNS = ""
	u.Must(blind)
	u.expect(t, "after a DEL without CNI_NETNS", untuned)
	u.AssertUnchanged(before)

	u.Must(u.call("ADD", everything))
	mistaken := u.call("DEL", `"mtu": "many", "sysctl": {"kernel.x": "1"}`)
	u.Must(mistaken)
	u.expect(t, "after a DEL with an unsound configuration", untuned)

	u.Must(u.call("ADD", everything))
	u.c.Remove()
	u.Must(u.call("DEL", everything))
	u.Must(blind)
	u.MustRun("sh", "-c", "! find /run/cni/tuning /run/trestle/tuning ! -type d | grep .")
}

// TestTuningIsUndone: an ADD that fails half way leaves nothing changed.
func TestTuningIsUndone(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before := u.Dump()
	call := u.call("ADD", everything)
	call.Config = strings.Replace(call.Config, `"net.ipv4.conf.lo.rp_filter": "2"`, `"net.ipv4.conf.lo.rp_filter": "x"`, 1)
	err := u.Exec(call).Err()
	if host.CodeOf(err) == 0 || !strings.Contains(err.Error(), "net/ipv4/conf/lo/rp_filter") {
		t.Errorf("got %v, want an error that names the sysctl", err)
	}
	u.expect(t, "after a failed ADD", untuned)
	u.AssertUnchanged(before)

	// the MAC, which comes after the sysctls, is refused by the device
	u.MustRun("ip", "netns", "exec", "c1", "ip", "link", "del", "eth0")
	u.MustRun("ip", "link", "add", "mv0", "link", "uplink0", "type", "macvlan", "mode", "passthru")
	u.MustRun("ip", "link", "set", "mv0", "name", "eth0", "netns", "c1")
	before = u.Dump()
	inside := u.c.Dump()
	if err := u.Exec(u.call("ADD", `"mtu": 9000, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}`)).Err(); err == nil {
		t.Errorf("got no error for an MTU above that of the macvlan's parent")
	}
	u.AssertUnchanged(before)
	u.c.AssertUnchanged(inside)
}

// TestTuningKilled: whatever an ADD is killed at, DEL restores what it changed.
func TestTuningKilled(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before, inside := u.Dump(), u.c.Dump()
	for _, syscall := range []string{"sendto", "openat", "write"} {
		for when, killed := 1, true; killed; when++ {
			add := u.call("ADD", everything)
			add.Strace = &host.Strace{Syscalls: syscall, Inject: []string{fmt.Sprintf("%s:signal=KILL:when=%d", syscall, when)}}
			killed = u.Exec(add).Trace.Injected > 0
			u.Must(u.call("DEL", ""))
			u.AssertUnchanged(before)
			u.c.AssertUnchanged(inside)
			if t.Failed() || when > 200 {
				t.Fatalf("killed at %s %d", syscall, when)
			}
		}
	}
}

// TestTuningAddAgain: what is restored is from before the first ADD.
func TestTuningAddAgain(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	u.Must(u.call("ADD", everything))
	u.Must(u.call("ADD", everything))
	u.expect(t, "after two ADDs", whenTuned)
	u.Must(u.call("DEL", ""))
	u.expect(t, "after DEL", untuned)
}

// TestTuningLeavesOthers: a sysctl that somebody has changed since is not ours
// to restore.
func TestTuningLeavesOthers(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	u.Must(u.call("ADD", everything))
	u.c.MustRun("sysctl", "-qw", "net.ipv4.conf.lo.rp_filter=1")
	u.Must(u.call("DEL", everything))
	u.expect(t, "after DEL", "0a:58:0a:01:00:05 1500 1000 0 1")
}

func TestTuningCheck(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, change, want string }{
		{"nothing", "true", ""},
		{"a packet capture", "ip link add link eth0 name m0 type macvlan", ""}, // counts as promiscuous
		{"mac", "ip link set eth0 address 0a:58:0a:01:00:08", "mac of eth0: want 0a:58:0a:01:00:07, have 0a:58:0a:01:00:08"},
		{"mtu", "ip link set eth0 mtu 1300", "mtu of eth0: want 1400, have 1300"},
		{"promisc", "ip link set eth0 promisc off", "promisc of eth0: want on, have off"},
		{"allmulti", "ip link set eth0 allmulticast off", "allmulti of eth0: want on, have off"},
		{"txQLen", "ip link set eth0 txqueuelen 5", "txQLen of eth0: want 77, have 5"},
		{"sysctl", "sysctl -qw net.ipv4.conf.eth0.arp_filter=0", "sysctl net/ipv4/conf/eth0/arp_filter of eth0: want 1, have 0"},
	} {
		u := newTuned(t)
		u.Must(u.call("ADD", everything))
		u.c.MustRun("sh", "-c", test.change)
		err := u.Exec(u.call("CHECK", everything)).Err()
		if (err == nil) != (test.want == "") || err != nil && (host.CodeOf(err) != 103 || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
	u := newTuned(t)
	u.c.MustRun("ip", "link", "set", "eth0", "promisc", "on")
	u.Must(u.call("CHECK", `"promisc": false`)) // which asks for nothing
}

// TestTuningFormOfTheKernel: a sysctl that the kernel shows in another form than it was written
// in is as CHECK expects it, and is restored; a value of somebody else is neither.
func TestTuningFormOfTheKernel(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ sysctl, value, shown, others string }{
		{"net.ipv4.ip_local_reserved_ports", "8080,80,81", "80-81,8080", "90"},
		{"net.ipv4.conf.all.arp_filter", "0x1", "1", "2"},
		{"net.ipv6.conf.IFNAME.stable_secret", "2001:DB8::1", "2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::2"},
	} {
		u := newTuned(t)
		name := strings.Replace(test.sysctl, "IFNAME", "eth0", 1)
		show := func() string {
			out, _ := u.c.Run(host.Command{Args: []string{"sysctl", "-n", name}}) // stable_secret cannot be read before it is set
			return strings.TrimSpace(out.Stdout)
		}
		before := show()
		keys := fmt.Sprintf(`"sysctl": {%q: %q}`, test.sysctl, test.value)
		u.Must(u.call("ADD", keys))
		if got := show(); got != test.shown {
			t.Fatalf("%s: got %q, want %q", name, got, test.shown)
		}
		u.Must(u.call("CHECK", keys))
		u.c.MustRun("sysctl", "-qw", name+"="+test.others)
		if err := u.Exec(u.call("CHECK", keys)).Err(); host.CodeOf(err) != 103 {
			t.Errorf("%s with another value: got %v, want code 103", name, err)
		}
		u.c.MustRun("sysctl", "-qw", name+"="+test.shown)
		u.Must(u.call("DEL", keys))
		if got := show(); before != "" && got != before {
			t.Errorf("%s after DEL: got %q, want %q", name, got, before)
		}
	}
}

func TestTuningGC(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before := u.Dump()
	u.Must(u.call("ADD", everything+`, "dataDir": "/run/elsewhere"`))
	other := u.call("GC", `"cni.dev/valid-attachments": []`)
	other.Config = strings.Replace(other.Config, `"name": "n"`, `"name": "other"`, 1)
	for _, keeps := range []host.Call{
		u.call("GC", ""), // nothing is known to be dead
		u.call("GC", `"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]`),
		other,
	} {
		u.Must(keeps)
		u.expect(t, "after a GC that keeps it", whenTuned)
	}
	u.Must(u.call("GC", `"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth1"}]`))
	u.expect(t, "after GC", untuned)
	u.AssertUnchanged(before)

	host.NeedProofOfDeath(t)
	u.Must(u.call("ADD", everything))
	u.c.Remove()
	u.MustRun("sh", "-c", "cd /run/cni/tuning && touch in-flight_eth0.json && touch -d -2min killed_eth0.json")
	host.Await(t, "GC leaves the record alone of an ADD which may be at work", func() bool { // the kernel takes its time to end a namespace
		u.Must(u.call("GC", "")) // it has lost its namespace
		return u.MustRun("ls", "/run/cni/tuning") == "in-flight_eth0.json\n"
	})
}

func TestTuningSaysWhy(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	before := u.Dump()
	without := u.call("ADD", everything)
	without.Config, _, _ = strings.Cut(without.Config, `, "prevResult"`)
	without.Config += "}"
	for _, test := range []struct {
		name string
		call host.Call
		code uint
		want string
	}{
		{"no prevResult", without, 7, "prevResult: missing"},
		{"unknown sysctl", u.call("ADD", `"sysctl": {"net.core.none": "1"}`), 7, "the container has no net/core/none"},
		{"a directory of sysctls", u.call("ADD", `"sysctl": {"net.ipv4": "1"}`), 7, "the container has no net/ipv4"},
		{"a value that the kernel refuses", u.call("ADD", `"mtu": 1400, "sysctl": {"net.ipv4.ip_forward": "yes"}`), 7, `sysctl: net/ipv4/ip_forward: the kernel does not take "yes"`},
		{"an mtu that the kernel refuses", u.call("ADD", `"promisc": true, "mtu": 65536`), 7, `mtu: the kernel does not take "65536"`},
		{"the MAC of another kind of link", u.call("ADD", `"mac": "0a:58:0a:01:00:07:00:01"`), 7, "has 8 octets, and that of eth0"},
		{"sysctl outside net", u.call("ADD", `"sysctl": {"kernel.panic": "1"}`), 7, "kernel.panic"},
		{"STATUS", u.call("STATUS", `"sysctl": {"kernel.panic": "1"}`), 7, "kernel.panic"},
		{"CHECK", u.call("CHECK", `"mtu": 1400`), 103, "want 1400, have 1500"},
	} {
		err := u.Exec(test.call).Err()
		if host.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want code %d and %q", test.name, err, test.code, test.want)
		}
	}
	u.AssertUnchanged(before)

	u.MustRun("sh", "-c", "mkdir -p /etc/cni/tuning && echo '^net.core.somaxconn$' >/etc/cni/tuning/allowlist.conf")
	for _, command := range []string{"ADD", "STATUS"} {
		err := u.Exec(u.call(command, everything)).Err()
		if host.CodeOf(err) != 7 || !strings.Contains(err.Error(), "/etc/cni/tuning/allowlist.conf") {
			t.Errorf("%s: got %v, want a refusal that names the allow-list", command, err)
		}
	}
	u.expect(t, "after a refused ADD", untuned)
	u.Must(u.call("ADD", `"sysctl": {"net.core.somaxconn": "512"}`))
}

// TestTuningWithoutTheInterface: settings that went with the interface are no misspelt names.
func TestTuningWithoutTheInterface(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	u.MustRun("ip", "-n", "c1", "link", "del", "eth0")
	err := u.Exec(u.call("ADD", `"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}`)).Err()
	if err == nil || strings.Contains(err.Error(), "correct the name") || !strings.Contains(err.Error(), "look up eth0") {
		t.Errorf("got %v, want it to say that eth0 is gone", err)
	}
}

// TestTuningPassesThrough: without a change the answer is prevResult to the letter.
func TestTuningPassesThrough(t *testing.T) {
	t.Parallel()
	u := newTuned(t)
	for _, keys := range []string{"", `"sysctl": {"net.core.somaxconn": "512"}`, `"mac": "0a:58:0a:01:00:05"`} {
		if got := u.Must(u.call("ADD", keys)).Stdout; strings.TrimSpace(got) != u.prevResult {
			t.Errorf("%s: got %s, want prevResult", keys, got)
		}
	}
}

// TestTuningInPodmansNetwork: the list that podman writes, with the address and
// MAC that it asks for.
func TestTuningInPodmansNetwork(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	network := h.Network(`{"cniVersion": "0.4.0", "name": "n", "plugins": [
		{"type": "bridge", "bridge": "cni-podman1", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {"type": "static"}},
		{"type": "tuning"}]}`)
	c := h.Container("c1")
	a := c.Attachment()
	a.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "x"}, {"IP", "10.1.0.9/24"}, {"MAC", "0a:58:0a:01:00:99"}}
	result, err := network.Add(a)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.MustRun("cat", "/proc/net/dev"); !strings.Contains(got, "eth0") || result.Interfaces[2].Mac != "0a:58:0a:01:00:99" {
		t.Errorf("got %v, want the MAC of CNI_ARGS", result.Interfaces[2])
	}
	if err := network.Check(a); err != nil {
		t.Error(err)
	}
	if err := network.Del(a); err != nil {
		t.Error(err)
	}
}
