package host_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

// asChild makes this program, run again, a program that is killed amidst its
// work: see TestKilledTestLeavesNothing.
const asChild = "TRESTLE_HARNESS_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" && os.Args[0] != "trestle-test-init" {
		os.Exit(host.Program(hang))
	}
	os.Exit(host.Main(m))
}

var outsideIPv4, outsideIPv6 = host.OutsideIPv4.Addr(), host.OutsideIPv6.Addr()

func TestHostReachesOutside(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.Outside.Serve("tcp", ":80")
	h.Outside.Serve("udp", ":53")
	for _, address := range []netip.Addr{outsideIPv4, outsideIPv6} {
		if err := h.Ping(address); err != nil {
			t.Error(err)
		}
		want := host.HostIPv4.Addr()
		if address.Is6() {
			want = host.HostIPv6.Addr()
		}
		for network, port := range map[string]uint16{"tcp": 80, "udp": 53} {
			reply, err := h.Request(network, netip.AddrPortFrom(address, port).String())
			if err != nil {
				t.Error(err)
			}
			if reply.Server != "outside" || reply.Seen.Addr() != want {
				t.Errorf("%s: got %v, want %v seen by outside", network, reply, want)
			}
		}
	}
}

func TestContainerIsAlone(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	c := h.Container("c1")
	if err := c.Briefly().Ping(outsideIPv4); err == nil {
		t.Errorf("a container without a network reached %s", outsideIPv4)
	}
	if err := c.Ping(netip.MustParseAddr("::1")); err != nil {
		t.Errorf("lo is not up: %v", err)
	}
	if _, err := c.Briefly().Request("tcp", "127.0.0.1:80"); err == nil {
		t.Errorf("got an answer where nothing listens")
	}
	if got := c.MustRun("ip", "-br", "link"); strings.Count(got, "\n") != 1 {
		t.Errorf("got links\n%s, want lo alone", got)
	}
	c.Remove()
	if got := h.MustRun("ip", "netns", "list"); got != "" {
		t.Errorf("after Remove: got namespaces %q, want none", got)
	}
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	a, b := host.New(t), host.New(t)
	for _, dir := range []string{"/run", "/etc", "/etc/cni", "/opt", "/var/lib", "/var/lib/cni"} {
		file := dir + "/trestle-harness-test"
		a.MustRun("touch", file)
		if output, err := b.Run(host.Command{Args: []string{"ls", file}}); err != nil || output.Code == 0 {
			t.Errorf("another host sees %s (%v)", file, err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("the real host has %s", file)
		}
	}
	if got := a.MustRun("ls", "/sys/class/net"); got != "lo\nuplink0\n" {
		t.Errorf("/sys/class/net: got %q, want lo and the uplink", got)
	}
	if got := a.MustRun("sh", "-c", "echo $$"); len(got) > 4 {
		t.Errorf("got pid %s, want a small one: a pid namespace of its own", got)
	}
}

// TestDumpNoticesLeaks: each kind of thing that a plugin could leave behind.
func TestDumpNoticesLeaks(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("ip", "link", "add", "br0", "type", "bridge")
	for _, leak := range []struct {
		name, make, want, undo string
	}{
		{"link", "ip link add veth1 type veth peer name veth2", "link veth1", "ip link del veth1"},
		{"alias", "ip link set br0 alias net/c1/eth0", "ifalias=net/c1/eth0", "ip link set br0 alias ''"},
		{"address", "ip address add 10.9.0.1/24 dev br0", "address br0 local=10.9.0.1", "ip address del 10.9.0.1/24 dev br0"},
		{"link-local address", "ip address add fe80::1/64 dev br0", "address br0 local=fe80::1 ", "ip address del fe80::1/64 dev br0"},
		{"route", "ip route add 10.8.0.0/16 via 192.0.2.1 table 77", "route unicast 10.8.0.0/16 via 192.0.2.1", "ip route del 10.8.0.0/16 table 77"},
		{"rule", "ip -6 rule add from fd09::/64 lookup 77", "rule 32765:\tfrom fd09::/64", "ip -6 rule del from fd09::/64 lookup 77"},
		{"neighbour", "ip neighbour add 10.9.0.2 lladdr 02:00:00:00:00:01 dev br0", "neighbour 10.9.0.2", "ip neighbour del 10.9.0.2 dev br0"},
		{"proxy", "ip neighbour add proxy fd09::1 dev br0", "neighbour fd09::1 dev br0", "ip neighbour del proxy fd09::1 dev br0"},
		{"fdb", "bridge fdb add 02:00:00:00:00:01 dev br0 self", "fdb 02:00:00:00:00:01", "bridge fdb del 02:00:00:00:00:01 dev br0 self"},
		// of ours an idle one is no leak
		{"table", "nft add table inet stranger", "nft table inet stranger", "nft delete table inet stranger"},
		{"legacy rule", "iptables-legacy -t nat -A POSTROUTING -s 10.9.0.2 -j MASQUERADE", "iptables iptables-legacy-save -t nat -A POSTROUTING -s 10.9.0.2", "iptables-legacy -t nat -F POSTROUTING"},
		{"legacy chain", "ip6tables-legacy -N TRESTLE", ":TRESTLE", "ip6tables-legacy -X TRESTLE"},
		{"forwarding", "sysctl -qw net.ipv4.ip_forward=1", "sysctl net/ipv4/ip_forward = 1", "sysctl -qw net.ipv4.ip_forward=0"},
		{"device setting", "sysctl -qw net.ipv4.conf.br0.route_localnet=1", "sysctl net/ipv4/conf/br0/route_localnet = 1", "sysctl -qw net.ipv4.conf.br0.route_localnet=0"},
		{"lease", "mkdir -p /var/lib/cni/networks/n && echo c1 >/var/lib/cni/networks/n/10.9.0.2", `10.9.0.2 -rw-r--r-- "c1\n"`, "rm -r /var/lib/cni/networks"},
		{"lock with a holder", "echo 1 >/run/lock", "file /run/lock", "rm /run/lock"},
		{"record", "touch /run/trestle", "file /run/trestle", "rm /run/trestle"},
	} {
		before := h.Dump()
		h.MustRun("sh", "-c", leak.make)
		if diff := host.Diff(before, h.Dump()); !strings.Contains(h.Dump(), leak.want) || diff == "" {
			t.Errorf("%s: got diff %s, want %q in it", leak.name, diff, leak.want)
		}
		h.MustRun("sh", "-c", leak.undo)
		h.AssertUnchanged(before)
	}
}

// TestDumpComparesFiles: a byte far behind in a file is a difference, and a record that is written
// again later is none, although its checksum has another length.
func TestDumpComparesFiles(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	write := func(content string) {
		h.MustRun("sh", "-c", "printf %s \"$1\" >/run/record", "sh", content)
	}
	write(`{"time":"2026-11-26T02:00:00Z","ports":"` + strings.Repeat("1", 1000) + `","crc32":123456789}`)
	before := h.Dump()
	write(`{"time":"2026-11-26T02:00:01Z","ports":"` + strings.Repeat("1", 1000) + `","crc32":1234567890}`)
	h.AssertUnchanged(before)
	for _, length := range []int{999, 10_000} {
		var dumps []string
		for _, last := range "23" {
			write(strings.Repeat("1", length) + string(last))
			dumps = append(dumps, h.Dump())
		}
		if host.Diff(dumps[0], dumps[1]) == "" {
			t.Errorf("two files of %d bytes, of which the last differs, are the same", length+1)
		}
	}
}

// TestDumpIsStable: looking changes nothing, and traffic is no state.
func TestDumpIsStable(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("nft", "add table inet t; add chain inet t c { type filter hook output priority 0; }; add rule inet t c counter accept;"+
		`add map inet t ports { typeof tcp dport : ip daddr; elements = { 8080 comment "a, b" : 10.0.0.1, 80 : 10.0.0.2 }; }`)
	before := h.Dump()
	if err := h.Ping(outsideIPv4); err != nil {
		t.Fatal(err)
	}
	h.AssertUnchanged(before)
	if !strings.Contains(before, `nft 		element 8080 comment "a, b" : 10.0.0.1`) {
		t.Errorf("got\n%s, want each element on its own line", before)
	}
}

// TestDumpWaitsForWhatExpires: an element that a plugin has deleted, and that the kernel lists
// until its time is over, is no state.
func TestDumpWaitsForWhatExpires(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	before := h.Dump()
	h.MustRun("nft", "add table inet trestle; add set inet trestle links { type ifname; flags timeout; }; "+
		`add element inet trestle links { "br0" timeout 1s comment "n/c1/eth0" }`)
	h.AssertUnchanged(before)
}

// TestDumpLeavesDerivedStateOut: what comes with the carrier, some time later.
func TestDumpLeavesDerivedStateOut(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("ip", "link", "add", "veth1", "up", "type", "veth", "peer", "name", "veth2")
	before := h.Dump()
	h.MustRun("ip", "link", "set", "veth2", "up") // gives veth1 a carrier
	for deadline := time.Now().Add(time.Minute); !strings.Contains(h.MustRun("ip", "-6", "address", "show", "dev", "veth1", "-tentative"), "fe80::"); {
		if time.Now().After(deadline) {
			t.Fatal("veth1 got no link-local address")
		}
	}
	h.AssertUnchanged(before, "link veth2 ")
}

func TestDiffIgnores(t *testing.T) {
	before, after := "link a\nfile /x 1\n", "link a\nfile /x 2\n"
	if host.Diff(before, after) == "" {
		t.Errorf("a changed file is not noticed")
	}
	if diff := host.Diff(before, after, "file /x "); diff != "" {
		t.Errorf("got %s, want the file left out", diff)
	}
}

func TestStraceCountsAndInjects(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	command := host.Command{Args: []string{"sh", "-c", "ls /run >/dev/null; exit 3"}}
	output, trace, err := h.Trace(host.Strace{Syscalls: "openat"}, command)
	if err != nil {
		t.Fatal(err)
	}
	if output.Code != 3 || len(trace.Execs) != 2 || !strings.HasSuffix(trace.Execs[1], "/ls") || trace.Calls["openat"] == 0 {
		t.Errorf("got exit status %d, programs %v, %d openat, want 3, sh and ls, some", output.Code, trace.Execs, trace.Calls["openat"])
	}
	output, trace, err = h.Trace(host.Strace{Syscalls: "getcwd", Inject: []string{"getcwd:signal=KILL"}}, host.Command{Args: []string{"sh", "-c", "exec pwd -P"}})
	if err != nil {
		t.Fatal(err)
	}
	if output.Code != 128+9 || trace.Injected == 0 {
		t.Errorf("got exit status %d, %d injected, want a kill:\n%s", output.Code, trace.Injected, trace.Text)
	}
	_, trace, err = h.Trace(host.Strace{Syscalls: "getcwd", Inject: []string{"getcwd:error=EIO:when=100"}}, host.Command{Args: []string{"true"}})
	if err != nil || trace.Injected != 0 {
		t.Errorf("got %d injected, %v, want none", trace.Injected, err)
	}
}

// TestKilledTestLeavesNothing: the processes of a Host end with the program that
// made it, however that ends.
func TestKilledTestLeavesNothing(t *testing.T) {
	t.Parallel()
	dirs := host.New(t).Dirs() // so that the child, which cannot clean up, builds nothing
	mark := fmt.Sprint("trestle-", os.Getpid())
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asChild+"="+mark, "TRESTLE_BIN="+dirs.Trestle, "TRESTLE_PEERS="+dirs.Reference)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 5)
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatalf("the child did not come up: %v", err)
	}
	if !running(mark) {
		t.Fatalf("the child's command does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for deadline := time.Now().Add(time.Minute); running(mark); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a process of the killed program's host is still there")
		}
	}
}

// hang is the program that TestKilledTestLeavesNothing kills.
func hang(t host.T) {
	h := host.New(t)
	h.Container("c1").Start(host.Command{Args: []string{"sh", "-c", "trap '' TERM HUP; echo; sleep 600", os.Getenv(asChild)}})
	fmt.Println("ready")
	select {}
}

// running says whether a process has mark in its arguments.
func running(mark string) bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, entry := range entries {
		args, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && bytes.Contains(args, []byte(mark)) {
			return true
		}
	}
	return false
}

func TestDoReportsErrors(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	want := errors.New("no")
	if err := h.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}
