package trestle

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/test/host"
)

// nothingLeft fails where a container of trestle run has left anything but what the network
// keeps: the bridge and its chains.
func nothingLeft(t *testing.T, h *host.Host) {
	t.Helper()
	if got := must(t, h, "ls", "--json"); got != "[]\n" {
		t.Errorf("got %s, want no attachment", got)
	}
	left := h.MustRun("sh", "-c", "ls -A /run/netns /run/trestle/run /run/trestle/resolv.conf /run/trestle/hostports /var/lib/cni/results 2>/dev/null; ls /sys/class/net; true")
	for _, word := range []string{"web", "veth", "run-", "tcp"} {
		if strings.Contains(left, word) {
			t.Errorf("got %s, want nothing of %q", left, word)
		}
	}
}

// started is a trestle run beside the test; it is there when its namespace has an eth0.
func started(t *testing.T, h *host.Host, args ...string) (stop func() string) {
	t.Helper()
	stop = h.Start(host.Command{
		Args: append([]string{h.Dirs().Trestle + "/trestle", "run", "--name", "web"}, args...),
		Env:  []string{"CNI_PATH=" + h.Dirs().Trestle},
	})
	return stop
}

// answersHTTP asks busybox's httpd from outside. (busybox's own wget, which is linked
// statically, looks up addresses by libraries that are not.)
func answersHTTP(h *host.Host, port uint16) bool {
	var answer []byte
	err := h.Outside.Do(func() error {
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(host.HostIPv4.Addr(), port).String(), 10*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		answer, err = io.ReadAll(conn)
		return err
	})
	return err == nil && strings.HasSuffix(string(answer), "it works\n")
}

// TestRun: a command on a network has an address, a published port, the network's DNS; when
// it has ended, nothing of that is left, and its exit status is trestle's.
func TestRun(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	h.MustRun("ip", "netns", "del", "web")
	h.MustRun("sh", "-c", "echo nameserver 192.0.2.53 >/etc/resolv.conf")
	output := run(t, h, "run", "--net", "lab", "--name", "web", "-p", "8080:80", "--dns", "10.40.0.1", "--",
		"sh", "-c", "ip -o -4 address show eth0; ls -m /sys/class/net; cat /etc/resolv.conf; echo $0; exit 3", "--quiet")
	if output.Code != 3 {
		t.Errorf("got exit status %d, want the command's: %s", output.Code, output.Stderr)
	}
	for _, want := range []string{"inet 10.40.0.2/24", "eth0, lo\n", "nameserver 10.40.0.1\n", "--quiet\n"} {
		if !strings.Contains(output.Stdout, want) {
			t.Errorf("got %q, want %q in it", output.Stdout, want)
		}
	}
	if want := "web: eth0 on network lab: 10.40.0.2/24; 8080->80/tcp\n"; output.Stderr != want {
		t.Errorf("got %q, want %q", output.Stderr, want)
	}
	if got := h.MustRun("cat", "/etc/resolv.conf"); got != "nameserver 192.0.2.53\n" {
		t.Errorf("the host's resolv.conf: %q", got)
	}
	nothingLeft(t, h)
}

// TestRunServes: from outside, by a published port; SIGTERM of trestle is the command's,
// and kill -9 of it is cleared away after by the next call.
func TestRunServes(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	h.MustRun("ip", "netns", "del", "web")
	site := t.TempDir()
	h.MustRun("sh", "-c", "echo it works >"+site+"/index.html; chmod -R a+rX "+site)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		stop := started(t, h, "--net", "lab", "-p", "8080:80", "--", "busybox", "httpd", "-f", "-p", "80", "-h", site)
		await(t, "the published port answers", func() bool { return answersHTTP(h, 8080) })
		if got := must(t, h, "ls"); !strings.Contains(got, "web") || !strings.Contains(got, "8080->80/tcp") {
			t.Errorf("got %s, want web", got)
		}
		// the first one: the server's child of the last request may not have ended yet
		pid := strings.TrimSpace(h.MustRun("sh", "-c", "ip netns pids web | sort -n | head -n 1"))
		h.MustRun("sh", "-c", fmt.Sprintf("kill -%d $(awk '{print $4}' /proc/%s/stat)", signal, pid))
		await(t, "the command has ended with trestle", func() bool {
			return strings.TrimSpace(h.MustRun("sh", "-c", "ps -o pid= -p "+pid+" | grep . || true")) == ""
		})
		await(t, "the container is cleared away", func() bool {
			if signal == syscall.SIGKILL {
				must(t, h, "gc") // the first may come before the kernel has let go of the lock
			}
			return h.MustRun("ls", "/run/trestle/run") == ""
		})
		stop()
		nothingLeft(t, h)
	}
}

// TestRunModes: several networks, the default one, none, the host's, another container's.
func TestRunModes(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	must(t, h, "network", "create", "second", "--subnet", "10.41.0.0/24", "--ingress", "open")
	addresses := func(args ...string) string {
		out := must(t, h, append(append([]string{"run", "-q"}, args...), "--", "ip", "-o", "-4", "address")...)
		var found []string
		for _, field := range strings.Fields(out) {
			if p, err := netip.ParsePrefix(field); err == nil {
				found = append(found, p.String())
			}
		}
		return strings.Join(found, " ")
	}
	web.MustRun("ip", "address", "add", "10.99.0.1/24", "dev", "lo")
	for _, test := range []struct{ args, want string }{
		{"--net lab --net second", "127.0.0.1/8 10.40.0.2/24 10.41.0.2/24"},
		{"", "127.0.0.1/8 10.40.0.3/24"},
		{"--net second --ip 10.41.0.9", "127.0.0.1/8 10.41.0.9/24"},
		{"--net none", "127.0.0.1/8"},
		{"--net host", "127.0.0.1/8 " + host.HostIPv4.String() + " 10.40.0.1/24 10.41.0.1/24"},
		{"--net container:web", "127.0.0.1/8 10.99.0.1/24"},
	} {
		if got := addresses(strings.Fields(test.args)...); got != test.want {
			t.Errorf("%s: got %q, want %q", test.args, got, test.want)
		}
	}
	if left := h.MustRun("ls", "/run/netns"); left != "web\n" {
		t.Errorf("got namespaces %q, want web's", left)
	}
}

// TestRunRefused: what is wrong is said, and nothing is done.
func TestRunRefused(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	must(t, h, "network", "create", "second", "--ingress", "open")
	for _, test := range []struct {
		words []string
		args  string
	}{
		{[]string{"command", "--"}, "--net lab"},
		{[]string{"--net", "host"}, "--net host --net lab -- true"},
		{[]string{"--net", "twice"}, "--net lab --net lab -- true"},
		{[]string{"network", "lba", "lab"}, "--net lba -- true"},
		{[]string{"--net", "container:nobody"}, "--net container:nobody -- true"},
		{[]string{"--net", "container:../../etc"}, "--net container:../../etc -- true"},
		{[]string{"--net", "none", "-p"}, "--net none -p 80 -- true"},
		{[]string{"--dns", `"server"`}, "--dns server -- true"},
		{[]string{"--dns", "host"}, "--net host --dns 192.0.2.1 -- true"},
		{[]string{"--ip"}, "--net lab --net second --ip 10.40.0.7 -- true"},
		{[]string{"--ip", "10.50.0.1"}, "--net lab --ip 10.50.0.1 -- true"},
		{[]string{"--name", "web", "network namespace"}, "--name web -- true"},
		{[]string{"container", `"a/b"`}, "--name a/b -- true"},
		{[]string{"--publish", "70000"}, "-p 70000:80 -- true"},
	} {
		refused(t, h, test.words, append([]string{"run"}, strings.Fields(test.args)...)...)
	}
	before := h.Dump()
	if output := run(t, h, "run", "--", "no-such-command"); output.Code != 127 || !strings.Contains(output.Stderr, "no-such-command") {
		t.Errorf("got exit status %d: %s, want 127", output.Code, output.Stderr)
	}
	if output := run(t, h, "run", "lab", "true"); output.Code != 127 || !strings.Contains(output.Stderr, "; a network has that name: --net lab\n") {
		t.Errorf("got exit status %d: %s, want a hint at --net", output.Code, output.Stderr)
	}
	for _, file := range []string{"/etc/passwd", "/etc"} {
		if output := run(t, h, "run", "--", file); output.Code != 126 || !strings.Contains(output.Stderr, file) {
			t.Errorf("%s: got exit status %d: %s, want 126", file, output.Code, output.Stderr)
		}
	}
	h.AssertUnchanged(before)
}

// TestRunDetached: a command in the background serves until it is stopped, by SIGTERM or,
// where it does not listen to that, by SIGKILL.
func TestRunDetached(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	web.Remove()
	site := t.TempDir()
	h.MustRun("sh", "-c", "echo it works >"+site+"/index.html; chmod -R a+rX "+site)
	output := run(t, h, "run", "--detach", "--name", "web", "--net", "lab", "-p", "8080:80", "--", "busybox", "httpd", "-f", "-p", "80", "-h", site)
	if want := "web: eth0 on network lab: 10.40.0.2/24; 8080->80/tcp\n"; output.Code != 0 || output.Stderr != want {
		t.Fatalf("got exit status %d: %q, want %q", output.Code, output.Stderr, want)
	}
	await(t, "the published port answers", func() bool { return answersHTTP(h, 8080) })
	refused(t, h, []string{"--name", "web"}, "run", "--net", "lab", "--name", "web", "--", "true")
	refused(t, h, []string{"nobody"}, "stop", "web", "nobody")
	refused(t, h, []string{"--time", "-1"}, "stop", "web", "--time=-1")
	if got := must(t, h, "stop", "web"); got != "web\n" {
		t.Errorf("got %q", got)
	}
	nothingLeft(t, h)

	must(t, h, "run", "-d", "--name", "web", "--net", "lab", "--", "sh", "-c", "trap : TERM; while :; do sleep 1000; done")
	must(t, h, "stop", "--time", "0", "web")
	nothingLeft(t, h)
	refused(t, h, []string{"network", "lba"}, "run", "-d", "--net", "lba", "--", "true")
	refused(t, h, []string{"--detach", "host"}, "run", "-d", "--net", "host", "--", "true")
}

// TestRunBesideOthers: containers of trestle run and namespaces of ip netns end without each
// other, whichever was the host's first, where /run is no shared mount: no namespace is mounted
// twice, and no container's mounts keep the namespace of one that has ended.
func TestRunBesideOthers(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	must(t, h, "network", "create", "lab", "--subnet", "10.40.0.0/24")
	for _, name := range []string{"web", "app"} {
		must(t, h, "run", "-d", "--name", name, "--net", "lab", "--", "sleep", "1000")
	}
	h.MustRun("ip", "netns", "add", "other")
	mounts := func() string {
		return h.MustRun("sh", "-c", "cat /proc/[0-9]*/mountinfo | grep -o '/run/netns/[a-z]*' | sort -u; grep -c ' /run/netns/' /proc/self/mountinfo; true")
	}
	if got, want := mounts(), "/run/netns/app\n/run/netns/other\n/run/netns/web\n3\n"; got != want {
		t.Errorf("got mounts %q, want %q", got, want)
	}
	must(t, h, "stop", "web")
	if got, want := mounts(), "/run/netns/app\n/run/netns/other\n2\n"; got != want {
		t.Errorf("got mounts %q, want %q", got, want)
	}
	must(t, h, "stop", "app")
	h.MustRun("ip", "netns", "del", "other")
	nothingLeft(t, h)
}

// TestRunSaysWhere: with --json a program is told what people are, and what a command in the
// background writes is in its log.
func TestRunSaysWhere(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	web.Remove()
	type answer struct {
		Container, NetNS, Log string
		PID                   int
		Attachments           []attach.Attached
	}
	check := func(text, log string, networks int) {
		t.Helper()
		got := decode[answer](t, text)
		if got.Container != "app" || got.NetNS != "/run/netns/app" || got.PID == 0 || got.Log != log || len(got.Attachments) != networks {
			t.Errorf("got %+v", got)
		}
	}
	log := t.TempDir() + "/app.log"
	h.MustRun("sh", "-c", "echo before >"+log)
	output := run(t, h, "run", "-d", "--json", "--log", log, "--name", "app", "--net", "lab", "-p", "8080:80", "--", "sh", "-c", "echo out; echo err >&2; sleep 1000")
	if output.Code != 0 || output.Stderr != "" {
		t.Fatalf("got %+v", output)
	}
	check(output.Stdout, log, 1)
	await(t, "the log has what it writes", func() bool { return h.MustRun("cat", log) == "before\nout\nerr\n" })
	if got := must(t, h, "ls"); !strings.Contains(got, log) || !strings.Contains(got, "LOG") {
		t.Errorf("got %s, want the log in it", got)
	}
	type line struct{ Container, Log string }
	if got := decode[[]line](t, must(t, h, "ls", "--json")); len(got) != 1 || got[0] != (line{"app", log}) {
		t.Errorf("got %v, want app and its log", got)
	}
	must(t, h, "stop", "--time", "0", "app")
	output = run(t, h, "run", "--json", "--name", "app", "--net", "lab", "--", "echo", "mine")
	if output.Code != 0 || output.Stdout != "mine\n" {
		t.Errorf("got %+v, want that standard output is the command's", output)
	}
	check(output.Stderr, "", 1)
	check(run(t, h, "run", "--json", "--name", "app", "--net", "none", "--", "true").Stderr, "", 0)
	fifo := t.TempDir() + "/fifo"
	h.MustRun("mkfifo", fifo)
	refused(t, h, []string{"--log", fifo, "nobody reads it"}, "run", "-d", "--log", fifo, "--net", "lab", "--", "true")
	refused(t, h, []string{"--log", "--detach"}, "run", "--log", log, "--net", "lab", "--", "true")
	refused(t, h, []string{"--log", "/none/such"}, "run", "-d", "--log", "/none/such/x", "--net", "lab", "--", "true")
	refused(t, h, []string{"--interval", "--watch"}, "ls", "--interval", "5s")
	nothingLeft(t, h)
}

// pluginsAfter is a directory of plugins, of which bridge does something before.
func pluginsAfter(t *testing.T, h *host.Host, before string) string {
	t.Helper()
	dir, bin := t.TempDir(), h.Dirs().Trestle
	h.MustRun("ln", "-s", bin+"/host-local", bin+"/portmap", dir)
	h.WriteProgram(dir+"/bridge", fmt.Sprintf("#!/bin/sh\n%s\nexec %s/bridge\n", before, bin))
	return dir
}

// TestStopWhileItClearsAway: the command is killed after the grace period, and no plugin
// that takes the container off its network, however long that takes.
func TestStopWhileItClearsAway(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	web.Remove()
	plugins := pluginsAfter(t, h, "[ $CNI_COMMAND = DEL ] && touch $0.begun && sleep 2")
	output := run(t, h, "run", "-d", "--name", "app", "--net", "lab", "--plugins", plugins, "--", "sleep", "1000")
	if output.Code != 0 {
		t.Fatalf("got %+v", output)
	}
	// run answers when the command is about to start
	h.MustRun("sh", "-c", "until pid=$(pgrep -P $(grep -o '[0-9]*}' /run/trestle/run/app | tr -d '}')); do sleep 0.01; done; kill -9 $pid")
	await(t, "it clears away", func() bool { return h.MustRun("sh", "-c", "ls "+plugins+" | grep -c begun; true") == "1\n" })
	must(t, h, "stop", "--time", "0", "app")
	nothingLeft(t, h)
}

// TestStopWhileItStarts: what is not in its namespace yet is stopped as well, and does not
// run on with the signal lost.
func TestStopWhileItStarts(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	web.Remove()
	const half = "setns:delay_enter=500000" // microseconds: the command enters that late
	stop := h.Start(host.Command{
		Args: []string{
			"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setns", "-e", "inject=" + half,
			h.Dirs().Trestle + "/trestle", "run", "--name", "web", "--net", "lab", "--", "sh", "-c", "trap : TERM; while :; do sleep 1000; done",
		},
		Env: []string{"CNI_PATH=" + h.Dirs().Trestle},
	})
	await(t, "the command is on its way", func() bool { return h.MustRun("sh", "-c", "pgrep -f '^([^ ]*trestle __enter|sh -c trap)'; true") != "" })
	must(t, h, "stop", "--time", "0", "web")
	stop()
	nothingLeft(t, h)
}

// TestRunKilledOnItsWay: trestle is killed while a plugin makes the interface, and before
// anybody knows of it. The next call finds all of it.
func TestRunKilledOnItsWay(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	web.Remove()
	plugins := pluginsAfter(t, h, "[ $CNI_COMMAND = ADD ] && kill -9 $PPID")
	output := run(t, h, "run", "--name", "web", "--net", "lab", "--plugins", plugins, "--", "true")
	if output.Code != 128+int(syscall.SIGKILL) {
		t.Fatalf("got exit status %d: %s, want it killed", output.Code, output.Stderr)
	}
	// the plugin lives on: it undoes what it did, as nobody hears its answer
	await(t, "the plugin has ended", func() bool { return h.MustRun("sh", "-c", "pgrep -x bridge; true") == "" })
	await(t, "the container is cleared away", func() bool {
		must(t, h, "gc")
		return h.MustRun("ls", "/run/trestle/run") == "" && must(t, h, "ls", "--json") == "[]\n" && !strings.Contains(h.MustRun("ls", "/sys/class/net"), "veth")
	})
	nothingLeft(t, h)
}

// TestRunKilledIsFound: what a killed trestle run has left is found by doctor, and named by gc,
// which frees it.
func TestRunKilledIsFound(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	web.Remove()
	if got := must(t, h, "gc", "--dry-run"); got != "no dead container\n" {
		t.Errorf("got %q, want that there is none", got)
	}
	must(t, h, "run", "--detach", "--name", "web", "--net", "lab", "-p", "8080:80", "--", "sleep", "1000")
	if got := must(t, h, "doctor"); !strings.Contains(got, "nothing found") {
		t.Errorf("while it runs: got %q, want nothing", got)
	}
	h.MustRun("sh", "-c", `kill -9 $(sed 's/.*"pid":\([0-9]*\).*/\1/' /run/trestle/run/web)`)
	await(t, "the kernel has let go of the lock", func() bool {
		return strings.HasPrefix(run(t, h, "doctor").Stdout, "warning: container web (dead)\n  its trestle run was killed, and has left its network namespace,\n  /run/netns/web, with 1 address and 1 port\n  fix: trestle gc\n")
	})
	const what = " lab/web/eth0: 10.40.0.2, 8080->80/tcp\n"
	before := h.Dump()
	if got := must(t, h, "gc", "--dry-run"); got != "  would free"+what {
		t.Errorf("got %q, want what gc frees", got)
	}
	h.AssertUnchanged(before)
	if got := must(t, h, "gc"); !strings.HasSuffix(got, ": bridge, portmap\n  freed"+what) {
		t.Errorf("got %q, want what it has freed", got)
	}
	nothingLeft(t, h)
}

// TestRunKilledIsClearedAway: also commands that have another purpose clear away after a
// trestle run that was killed, and do what they are for.
func TestRunKilledIsClearedAway(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	web.Remove()
	count := 0
	for name, command := range map[string]func() []string{
		"restore": func() []string { return []string{"restore"} },
		"network create": func() []string {
			count++
			return []string{"network", "create", fmt.Sprintf("n%d", count)}
		},
	} {
		stop := started(t, h, "--net", "lab", "--", "sleep", "1000")
		var pid string // plugins are in there before, and nobody else beside it
		await(t, "the command runs, alone in its namespace", func() bool {
			pid = strings.TrimSpace(h.MustRun("sh", "-c", "ip netns pids web 2>&-; true"))
			return h.MustRun("sh", "-c", "cat /proc/$0/comm 2>&-; true", pid) == "sleep\n"
		})
		h.MustRun("sh", "-c", "kill -9 $(awk '{print $4}' /proc/$0/stat)", pid)
		stop()
		await(t, name+" clears the container away", func() bool { // the first may come before the kernel has let go of the lock
			must(t, h, command()...)
			return h.MustRun("ls", "/run/trestle/run") == ""
		})
		nothingLeft(t, h)
	}
	must(t, h, "network", "inspect", "n1")
}
