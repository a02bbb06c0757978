package bandwidth

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// limited is a host with a container on a bridge, ready for the bandwidth plugin.
type limited struct {
	*host.Host
	c          *host.Container
	network    *host.Network // bridge alone
	prevResult string
}

var (
	limitedHost      = netip.MustParseAddr("10.1.0.1")
	limitedContainer = netip.MustParseAddr("10.1.0.5")
)

func newLimited(t *testing.T) limited {
	t.Helper()
	h := host.NewRouting(t)
	c := h.Container("c1")
	network := h.Network(`{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "br0", "isGateway": true,
		"ipam": {"type": "static", "addresses": [{"address": "10.1.0.5/24"}]}}]}`)
	result, err := network.Add(c.Attachment())
	if err != nil {
		t.Fatal(err)
	}
	versioned, err := result.GetAsVersion("1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(versioned)
	if err != nil {
		t.Fatal(err)
	}
	return limited{h, c, network, string(text)}
}

func (l limited) call(command, keys string) host.Call {
	config := `{"cniVersion": "1.0.0", "name": "n", "type": "bandwidth"`
	if command == "GC" || command == "STATUS" {
		config = strings.Replace(config, "1.0.0", "1.1.0", 1)
	}
	if keys != "" {
		config += ", " + keys
	}
	if command == "ADD" || command == "CHECK" {
		config += `, "prevResult": ` + l.prevResult
	}
	return l.c.Call(command, "bandwidth", config+"}")
}

const (
	bothLimits = `"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 4000000, "egressBurst": 400000`
	tinyLimits = `"ingressRate": 80000, "ingressBurst": 8000, "egressRate": 80000, "egressBurst": 8000`
)

// queues shows what bandwidth makes: queues, and filters where there is one.
func (l limited) queues() string {
	show := `tc qdisc show | grep -v "noqueue\|fq_codel\|pfifo" | sort
		for i in $(ls /sys/class/net); do tc filter show dev $i ingress; done`
	return volatile.ReplaceAllString(l.MustRun("sh", "-c", show), "")
}

// volatile are what numbers the kernel gave.
var volatile = regexp.MustCompile(`veth\w+|index \d+ |fh \S+|ref \d+ bind \d+`)

func TestBandwidthLife(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.Must(l.call("STATUS", bothLimits))
	result, err := l.Exec(l.call("ADD", tinyLimits)).Result()
	if err != nil {
		t.Fatal(err)
	}
	device := result.Interfaces[len(result.Interfaces)-1]
	if len(result.Interfaces) != 4 || !strings.HasPrefix(device.Name, "bwp") || device.Sandbox != "" {
		t.Fatalf("got interfaces %v, want the ifb after the bridge's three", result.Interfaces)
	}
	link := l.MustRun("ip", "link", "show", device.Name)
	if !strings.Contains(link, "alias trestle:n/c1/eth0") || !strings.Contains(link, device.Mac) {
		t.Errorf("got %s, want the owner's alias and %s", link, device.Mac)
	}
	l.Must(l.call("CHECK", tinyLimits))

	// far more at once than the buckets hold
	for _, from := range []*host.Namespace{l.Namespace, l.c.Namespace} {
		to := map[string]string{"host": limitedContainer.String(), "c1": limitedHost.String()}[from.Name]
		if _, err := from.Run(host.Command{Args: []string{"ping", "-nq", "-c100", "-i0.001", "-W1", "-s1000", to}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, dev := range []string{result.Interfaces[1].Name, device.Name} {
		if got := l.MustRun("tc", "-s", "qdisc", "show", "dev", dev, "root"); strings.Contains(got, "dropped 0,") || !strings.Contains(got, "tbf") {
			t.Errorf("%s: got %s, want packets dropped", dev, got)
		}
	}

	blind := l.call("DEL", `"ingressRate": "x"`) // edited since
	blind.NetNS = ""
	l.Must(blind)
	l.Must(blind)
	if err := l.network.Del(l.c.Attachment()); err != nil {
		t.Error(err)
	}
	after := l.Dump()
	if strings.Contains(after, "link bwp") || strings.Contains(l.queues(), "tbf") {
		t.Errorf("got %s\n%s, want no ifb and no queue", after, l.queues())
	}
}

// TestBandwidthAsReference: the same queues and filters, and the same answer but
// for the MAC of the ifb, which is ours.
func TestBandwidthAsReference(t *testing.T) {
	t.Parallel()
	for _, keys := range []string{
		bothLimits,
		`"ingressRate": 8000000, "ingressBurst": 800000`,
		`"runtimeConfig": {"bandwidth": {"EgressRate": 100000000, "EgressBurst": 4294967295}}`,
		`"ingressRate": 40000000000, "ingressBurst": 8000000000`,
		`"ingressRate": 0, "ingressBurst": 0`,
	} {
		ours, theirs := newLimited(t), newLimited(t)
		got, err := ours.Exec(ours.call("ADD", keys)).Result()
		call := theirs.call("ADD", keys)
		call.Plugin = theirs.Reference("bandwidth")
		want, theirErr := theirs.Exec(call).Result()
		if err != nil || theirErr != nil {
			t.Fatalf("%s: got %v, want %v", keys, err, theirErr)
		}
		for i := range want.Interfaces {
			want.Interfaces[i].Mac, got.Interfaces[i].Mac = "", ""
			if i == 1 {
				want.Interfaces[i].Name, got.Interfaces[i].Name = "", "" // the host veths have their own
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the answer differs (-theirs +ours):\n%s", keys, diff)
		}
		// the reference plugin redirects twice over, which does nothing more
		if diff := cmp.Diff(actionsOnce(theirs.queues()), actionsOnce(ours.queues())); diff != "" {
			t.Errorf("%s: queues differ (-theirs +ours):\n%s", keys, diff)
		}
		ours.Must(ours.call("CHECK", keys))
	}
}

func actionsOnce(queues string) string {
	once, _, _ := strings.Cut(queues, "action order 2")
	return strings.Join(strings.Fields(once), " ")
}

// TestBandwidthSwitchOver: either plugin's DEL deletes what the other's ADD made.
func TestBandwidthSwitchOver(t *testing.T) {
	t.Parallel()
	for _, referenceAdds := range []bool{true, false} {
		for _, withResult := range []bool{true, false} {
			l := newLimited(t)
			add, del := l.call("ADD", bothLimits), l.call("DEL", bothLimits)
			if referenceAdds {
				add.Plugin = l.Reference("bandwidth")
			} else {
				del.Plugin = l.Reference("bandwidth")
			}
			result := l.Must(add).Stdout
			if withResult {
				del.Config = strings.TrimSuffix(del.Config, "}") + `, "prevResult": ` + result + "}"
			}
			if referenceAdds {
				check := l.call("CHECK", bothLimits)
				l.Must(check)
			}
			l.Must(del)
			if got := l.Dump(); strings.Contains(got, "link bwp") {
				t.Errorf("reference adds: %v, prevResult: %v: the ifb is left", referenceAdds, withResult)
			}
		}
	}
}

// TestBandwidthTwoInterfaces of one container on one network, which the
// reference plugin cannot tell apart.
func TestBandwidthTwoInterfaces(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	network := l.Network(`{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "br0", "isGateway": true,
		"ipam": {"type": "static"}}, {"type": "bandwidth", "egressRate": 4000000, "egressBurst": 400000}]}`)
	var attached []*libcni.RuntimeConf
	for i := range 2 {
		a := l.c.Attachment()
		a.IfName = fmt.Sprint("net", i)
		a.Args = [][2]string{{"IP", fmt.Sprintf("10.1.0.1%d/24", i)}}
		if _, err := network.Add(a); err != nil {
			t.Fatal(err)
		}
		attached = append(attached, a)
	}
	for i, a := range attached {
		if err := network.Check(a); err != nil {
			t.Error(err)
		}
		if err := network.Del(a); err != nil {
			t.Error(err)
		}
		if got, want := strings.Count(l.Dump(), "\nlink bwp"), len(attached)-i-1; got != want {
			t.Errorf("got %d ifbs after the DEL of %s, want %d", got, a.IfName, want)
		}
	}
}

func TestBandwidthAddAgain(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.Must(l.call("ADD", tinyLimits))
	l.Must(l.call("ADD", bothLimits))
	l.Must(l.call("CHECK", bothLimits))
	if got := strings.Count(l.queues(), "mirred"); got != 1 {
		t.Errorf("got %d redirections, want one:\n%s", got, l.queues())
	}
}

// TestBandwidthTwice: two entries of one list. The second one's limits count, and
// the answer names the device once.
func TestBandwidthTwice(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	before := l.Dump()
	first := l.Must(l.call("ADD", tinyLimits))
	l.prevResult = first.Stdout
	result, err := l.Exec(l.call("ADD", bothLimits)).Result()
	if err != nil || len(result.Interfaces) != 4 {
		t.Errorf("got %v, %v, want bridge, both ends and one device", result.Interfaces, err)
	}
	l.Must(l.call("CHECK", bothLimits))
	if err := l.Exec(l.call("CHECK", tinyLimits)).Err(); host.CodeOf(err) != 103 {
		t.Errorf("CHECK of the first entry: got %v, want code 103", err)
	}
	l.Must(l.call("DEL", bothLimits))
	l.Must(l.call("DEL", tinyLimits))
	if err := l.network.Del(l.c.Attachment()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(before, "link bwp") || strings.Contains(l.Dump(), "link bwp") {
		t.Error("the device is still there")
	}
}

func TestBandwidthCheck(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, change, want string }{
		{"nothing", "true", ""},
		{"another rate", "tc qdisc replace dev $veth root tbf rate 1mbit burst 10k limit 20k", "want rate 1000000 bytes/s"},
		{"no queue on the host veth", "tc qdisc del dev $veth root", "have no token bucket"},
		{"no redirection", "tc filter del dev $veth ingress", "have no such filter"},
		{"no ingress", "tc qdisc del dev $veth ingress", "have no such filter"},
		{"no queue on the ifb", "tc qdisc del dev $ifb root", "queue of bwp"},
		{"no ifb", "ip link del $ifb", "have none"},
	} {
		l := newLimited(t)
		l.Must(l.call("ADD", bothLimits))
		l.MustRun("sh", "-c", `veth=$(ls /sys/class/net/br0/brif) ifb=$(ls /sys/class/net | grep bwp); `+test.change)
		err := l.Exec(l.call("CHECK", bothLimits)).Err()
		if (err == nil) != (test.want == "") || err != nil && (host.CodeOf(err) != 103 || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestBandwidthGC(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	devices := func() int { return strings.Count(l.Dump(), "\nlink bwp") }
	l.Must(l.call("ADD", bothLimits))
	other := l.call("GC", `"cni.dev/valid-attachments": []`)
	other.Config = strings.Replace(other.Config, `"name": "n"`, `"name": "other"`, 1)
	for _, keeps := range []host.Call{
		l.call("GC", ""), other, l.call("GC", `"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]`),
	} {
		l.Must(keeps)
		if got := devices(); got != 1 {
			t.Errorf("%s: got %d ifbs, want it kept", keeps.Config, got)
		}
	}
	l.Must(l.call("GC", `"cni.dev/valid-attachments": []`))
	if got := devices(); got != 0 {
		t.Errorf("got %d ifbs, want none", got)
	}
}

// TestBandwidthKilled: whatever system call an ADD is killed at, DEL or GC
// leaves nothing.
func TestBandwidthKilled(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.Must(l.call("ADD", bothLimits)) // makes what stays: the lock
	l.Must(l.call("DEL", ""))
	for when, killed := 1, true; killed; when++ {
		add := l.call("ADD", bothLimits)
		add.Strace = &host.Strace{Syscalls: "sendto", Inject: []string{fmt.Sprintf("sendto:signal=KILL:when=%d", when)}}
		killed = l.Exec(add).Trace.Injected > 0
		clean := l.call("DEL", "")
		if when%2 == 0 {
			clean = l.call("GC", `"cni.dev/attachments": []`)
		}
		l.Must(clean)
		if got := l.Dump(); strings.Contains(got, "\nlink bwp") {
			t.Fatalf("killed at send %d: the ifb is left", when)
		}
		if when > 60 {
			t.Fatal("the ADD makes no end of system calls")
		}
	}
}

// TestBandwidthIsUndone: where the kernel refuses a step, the earlier ones are
// taken back.
func TestBandwidthIsUndone(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	before, queues := l.Dump(), l.queues()
	failed := 0
	for when := 8; when < 30; when++ { // the first ones look for the host veth
		add := l.call("ADD", bothLimits)
		add.Strace = &host.Strace{Syscalls: "sendto", Inject: []string{fmt.Sprintf("sendto:error=ENOBUFS:when=%d", when)}}
		answer := l.Exec(add)
		err := answer.Err()
		if err == nil || host.SaysWhatIsLeft(answer.Trace.Injected, err) {
			l.Must(l.call("DEL", ""))
			l.MustRun("sh", "-c", "for v in $(ls /sys/class/net/br0/brif); do tc qdisc del dev $v root; tc qdisc del dev $v ingress; done; true")
		}
		if err == nil {
			continue
		}
		failed++
		if got := l.queues(); got != queues {
			t.Fatalf("failed at send %d: got\n%s, want\n%s", when, got, queues)
		}
	}
	if failed == 0 {
		t.Errorf("no ADD failed")
	}
	// link-local addresses of the bridge come when they come
	l.AssertUnchanged(before, "file /run/trestle/bandwidth/lock", "address ", "route ", "fdb ")
}

func TestBandwidthSaysWhy(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	before := l.Dump()
	without := l.call("ADD", bothLimits)
	without.Config, _, _ = strings.Cut(without.Config, `, "prevResult"`)
	without.Config += "}"
	elsewhere := l.call("ADD", bothLimits)
	elsewhere.IfName = "lo"
	for _, test := range []struct {
		name string
		call host.Call
		code uint
		want string
	}{
		{"no prevResult", without, 7, "prevResult: missing"},
		{"no burst", l.call("ADD", `"ingressRate": 8000`), 7, "ingressBurst: missing"},
		{"STATUS", l.call("STATUS", `"ingressRate": 8000`), 7, "ingressBurst: missing"},
		{"no veth", elsewhere, 7, "no link of the host is paired with lo"},
	} {
		err := l.Exec(test.call).Err()
		if host.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want code %d and %q", test.name, err, test.code, test.want)
		}
	}
	l.AssertUnchanged(before)
	banner := l.MustRun("sh", "-c", filepath.Join(l.Dirs().Trestle, "bandwidth")+" 2>&1")
	if !strings.HasPrefix(banner, "CNI bandwidth plugin v") {
		t.Errorf("got banner %q", banner)
	}
}
