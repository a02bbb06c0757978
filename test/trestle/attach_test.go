package trestle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/test/host"
)

// labHost has network lab, 10.40.0.0/24, from outside of which everybody gets in, and
// container web on nothing.
func labHost(t *testing.T) (*host.Host, *host.Container) {
	t.Helper()
	h := host.New(t)
	h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1")
	must(t, h, "network", "create", "lab", "--subnet", "10.40.0.0/24", "--ingress", "open")
	return h, h.Container("web")
}

func serves(t *testing.T, from *host.Namespace, network, address, server string) {
	t.Helper()
	if reply, err := from.Request(network, address); err != nil || reply.Server != server {
		t.Errorf("%s from %s: got %q, %v, want %s", address, from.Name, reply.Server, err, server)
	}
}

// TestAttach: a named namespace gets an address and a published port that the outside
// reaches; detach takes everything back, by the name alone.
func TestAttach(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	want := "web: eth0 on network lab: 10.40.0.2/24; 8080-8081->80-81/tcp\n"
	if got := must(t, h, "attach", "web", "lab", "-p", "8080-8081:80-81"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	web.Serve("tcp", ":80")
	serves(t, h.Outside, "tcp", netip.AddrPortFrom(host.HostIPv4.Addr(), 8080).String(), "web")
	if got, want := must(t, h, "detach", "web"), "web: eth0 detached from network lab\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if all := answer[[]inventory.Attachment](t, h, "ls"); len(all) != 0 {
		t.Errorf("got %+v, want nobody", all)
	}
	if left := h.MustRun("ls", "/sys/class/net", "/run/trestle/hostports", "/var/lib/cni/results") + h.MustRun("sh", "-c", host.ListRuleset); strings.Contains(left, "veth") || strings.Contains(left, "8080") || strings.Contains(left, "web") {
		t.Errorf("got %s, want nothing of web", left)
	}
}

// TestAttachAsAsked: address, MAC and name are those that are asked for; host ports that
// are left out are free ones, and are printed.
func TestAttachAsAsked(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	got := answer[attach.Attached](t, h, "attach", "web", "lab", "--ip", "10.40.0.77", "--mac", "02:00:00:00:00:07", "--ifname", "lab0", "-p", "80", "-p", "53/udp", "-p", "192.0.2.2:9000-9005:90")
	if got.IfName != "lab0" || got.MAC != "02:00:00:00:00:07" || !slices.Equal(got.Addresses, []netip.Prefix{netip.MustParsePrefix("10.40.0.77/24")}) || len(got.Ports) != 3 {
		t.Fatalf("got %+v", got)
	}
	links := web.MustRun("ip", "-brief", "address", "show", "lab0") + web.MustRun("ip", "-brief", "link", "show", "lab0")
	if !strings.Contains(links, "10.40.0.77/24") || !strings.Contains(links, "02:00:00:00:00:07") {
		t.Errorf("got %s", links)
	}
	for _, port := range got.Ports {
		if port.Container == 90 && (port.Host != 9000 || len(port.Hosts) != 1) {
			t.Errorf("got %s, want the first of 9000 to 9005", port)
		}
		web.Serve(port.Protocol, fmt.Sprintf(":%d", port.Container))
		serves(t, h.Outside, port.Protocol, netip.AddrPortFrom(host.HostIPv4.Addr(), port.Host).String(), "web")
	}
	// the next one finds the first of the range taken, and the name eth0 free
	h.Container("two")
	two := answer[attach.Attached](t, h, "attach", "--netns", "/run/netns/two", "--name", "second", "lab", "-p", "192.0.2.2:9000-9005:90")
	if two.Container != "second" || two.IfName != "eth0" || two.Ports[0].Host != 9001 {
		t.Errorf("got %+v", two)
	}
	refused(t, h, []string{"--publish", "9000/tcp", "web", "lab"}, "attach", "two", "lab", "-p", "9000:1")
	refused(t, h, []string{"--ip", "10.40.0.77", "web"}, "attach", "two", "lab", "--ip", "10.40.0.77")
	refused(t, h, []string{"--ifname", "eth0", "/run/netns/two"}, "attach", "two", "lab", "--ifname", "eth0")
	refused(t, h, []string{"container", "w", "web"}, "detach", "w", "nowhere")
}

// TestAttachByPID: a process names the container as well, and several networks come one
// after the other.
func TestAttachByPID(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	must(t, h, "network", "create", "db", "--internal", "--ingress", "same-bridge")
	stop := web.Start(host.Command{Args: []string{"sleep", "1000"}})
	defer stop()
	pid := strings.TrimSpace(h.MustRun("ip", "netns", "pids", "web"))
	for i, network := range []string{"lab", "db"} {
		got := answer[attach.Attached](t, h, "attach", "--pid", pid, network)
		if got.Container != "pid-"+pid || got.IfName != fmt.Sprintf("eth%d", i) {
			t.Errorf("got %+v", got)
		}
	}
	refused(t, h, []string{"--publish", "db"}, "attach", "--pid", pid, "db", "-p", "80")
	must(t, h, "detach", "pid-"+pid, "lab", "--ifname", "eth0")
	must(t, h, "detach", "pid-"+pid)
}

// TestAttachRefused: what is wrong is said, and nothing is done.
func TestAttachRefused(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	for _, test := range []struct {
		words []string
		args  string
	}{
		{[]string{"no network"}, ""},
		{[]string{"no container"}, "lab"},
		{[]string{"more than once"}, "web lab --pid 1"},
		{[]string{"unexpected argument"}, "web lab db"},
		{[]string{"nobody", "ip netns add nobody"}, "nobody lab"},
		{[]string{"../web"}, "../web lab"},
		{[]string{"--netns", "/etc/passwd"}, "--netns /etc/passwd lab"},
		{[]string{"--netns", "/proc/1/ns/mnt"}, "--netns /proc/1/ns/mnt lab"},
		{[]string{"--pid", "999999999"}, "--pid 999999999 lab"},
		{[]string{"--pid", "-1"}, "--pid=-1 lab"},
		{[]string{"network", "lba", "lab"}, "web lba"},
		{[]string{"--plugins", `"bridge"`, "/nowhere", "lab"}, "web lab --plugins /nowhere"},
		{[]string{"--ip", "10.41.0.1", "10.40.0.0/24"}, "web lab --ip 10.41.0.1"},
		{[]string{"--ip", "10.40.0.1", "gateway"}, "web lab --ip 10.40.0.1"},
		{[]string{"--ip", `"ten"`}, "web lab --ip ten"},
		{[]string{"--mac", "01:00:00:00:00:00"}, "web lab --mac 01:00:00:00:00:00"},
		{[]string{"--ifname", "lo"}, "web lab --ifname lo"},
		{[]string{"--ifname", "a/b"}, "web lab --ifname a/b"},
		{[]string{"--publish", "80:80:80:80"}, "web lab -p 80:80:80:80"},
		{[]string{"--publish", "70000"}, "web lab -p 70000:80"},
		{[]string{"--publish", "0"}, "web lab -p 0:80"},
		{[]string{"--publish", "icmp"}, "web lab -p 80/icmp"},
		{[]string{"--publish", "8080", "twice"}, "web lab -p 8080:80 -p 8080:81"},
		{[]string{"10.40.0.8", "10.40.0.9", "one range set"}, "web lab --ip 10.40.0.8 --ip 10.40.0.9"},
		{[]string{"--netns", "of the host itself"}, "--netns /proc/1/ns/net lab"},
		{[]string{"--pid", `"two"`, "a number"}, "--pid two lab"},
		{[]string{"--publish", "empty"}, "web lab --publish="},
		{[]string{"--publish", "empty"}, "web lab -p 80,"},
		{[]string{"--ifname", "empty"}, "web lab --ifname="},
		{[]string{"--name", "container", "a/b"}, "--netns /run/netns/web --name a/b lab"},
	} {
		words := test.words
		if words[0] == "--name" {
			words = words[1:]
		}
		refused(t, h, words, append([]string{"attach"}, strings.Fields(test.args)...)...)
	}
	refused(t, h, []string{"nobody", "trestle ls"}, "detach", "nobody")
}

// TestAttachUndone: an ADD that fails on its way leaves nothing, and the message is the
// plugin's.
func TestAttachUndone(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	plugins := t.TempDir()
	h.MustRun("sh", "-c", `printf '#!/bin/sh\necho "{\"cniVersion\": \"1.0.0\", \"code\": 100, \"msg\": \"it is Sunday\"}"\n[ $CNI_COMMAND = DEL ]\n' >`+plugins+`/never; chmod +x `+plugins+"/never")
	h.InstallNetwork("95-never.conflist", `{"cniVersion": "1.0.0", "name": "never", "plugins": [
		{"type": "bridge", "bridge": "br-never", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.41.0.0/24"}]]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}, {"type": "never"}]}`)
	output := run(t, h, "attach", "web", "never", "-p", "8080:80", "--plugins", h.Dirs().Trestle+","+plugins)
	if want := "trestle: attach web to network never: it is Sunday\n"; output.Code != 1 || output.Stderr != want {
		t.Errorf("got exit status %d: %q, want 1: %q", output.Code, output.Stderr, want)
	}
	if left := h.MustRun("ls", "/sys/class/net", "/run/trestle/hostports") + must(t, h, "ls"); strings.Contains(left, "veth") || strings.Contains(left, "8080") || strings.Contains(left, "web") {
		t.Errorf("got %s, want nothing of web", left)
	}
}

// TestDetachWhatIsLost: neither the network namespace nor the list is needed.
func TestDetachWhatIsLost(t *testing.T) {
	t.Parallel()
	h, web := labHost(t)
	must(t, h, "attach", "web", "lab", "-p", "8080:80")
	h.MustRun("rm", "-r", "/etc/cni/net.d", "/var/lib/cni/results")
	web.Remove()
	must(t, h, "detach", "web")
	if all := answer[[]inventory.Attachment](t, h, "ls"); len(all) != 0 {
		t.Errorf("got %+v, want nobody", all)
	}
	if elements := h.MustRun("sh", "-c", host.ListRuleset); strings.Contains(elements, "web") {
		t.Errorf("got %s, want nothing of web", elements)
	}
}

// TestAttachPortAtOnce: of two that attach one container at once, both with one host port,
// the second is told who has it.
func TestAttachPortAtOnce(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	h.Container("c0")
	outputs := make([]host.Output, 2)
	var both sync.WaitGroup
	for i := range outputs {
		both.Go(func() { outputs[i] = run(t, h, "attach", "c0", "lab", "-p", "8080:80") })
	}
	both.Wait()
	slices.SortFunc(outputs, func(a, b host.Output) int { return a.Code - b.Code })
	if outputs[0].Code != 0 || outputs[1].Code != 2 || !strings.Contains(outputs[1].Stderr, "host port 8080/tcp is taken by container c0") {
		t.Errorf("got %+v, want one that is attached and one that is refused", outputs)
	}
	if attachments := answer[[]inventory.Attachment](t, h, "ls"); len(attachments) != 1 {
		t.Errorf("got %+v, want one", attachments)
	}
}

// TestAttachAtOnce: many at once, some of them to one container, all with a free port.
func TestAttachAtOnce(t *testing.T) {
	t.Parallel()
	h, _ := labHost(t)
	const count = 6
	for i := range count / 2 {
		h.Container(fmt.Sprintf("c%d", i))
	}
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			if output := run(t, h, "attach", fmt.Sprintf("c%d", i/2), "lab", "-p", "80"); output.Code != 0 {
				t.Errorf("%d: exit status %d: %s", i, output.Code, output.Stderr)
			}
		})
	}
	all.Wait()
	attachments := answer[[]inventory.Attachment](t, h, "ls")
	ports := map[uint16]bool{}
	for _, a := range attachments {
		for _, p := range a.Published() {
			ports[p.Host] = true
		}
	}
	if len(attachments) != count || len(ports) != count {
		t.Errorf("got %d attachments and ports %v, want %d of each", len(attachments), ports, count)
	}
}
