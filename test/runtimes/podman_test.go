package runtimes_test

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// podmanConfig is what podman needs to use CNI, and no systemd.
const podmanConfig = `[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
log_driver = "k8s-file"
`

func startPodman(t *testing.T, m *runtimes.Machine) *runtimes.Podman {
	t.Helper()
	runtimes.Need(t, "podman", "runc")
	return m.Podman(podmanConfig)
}

// serving are the arguments of a container that answers with its name.
func serving(name string, options ...string) []string {
	args := append([]string{"run", "--detach", "--name", name}, options...)
	return append(args, runtimes.Image, "peer", "serve", name, "80")
}

// TestPodmanDefaultNetwork: what works without any configuration of networks.
func TestPodmanDefaultNetwork(t *testing.T) {
	m := runtimes.New(t)
	podman := startPodman(t, m)
	m.Outside.Serve("tcp", ":80")
	before := snapshot(m)

	podman.MustRun(serving("web", "-p", "8080:80", "-p", "5353:80/udp", "-p", "127.0.0.1:8443:80")...)
	id := strings.TrimSpace(podman.MustRun("inspect", "--format", "{{.Id}}", "web"))
	assertOurs(t, m, "podman", id)
	for _, test := range []struct {
		from             *host.Namespace
		network, address string
	}{
		{m.Namespace, "tcp", "10.88.0.2:80"},
		{m.Namespace, "tcp", "127.0.0.1:8080"},
		{m.Namespace, "tcp", "127.0.0.1:8443"},
		{m.Namespace, "tcp", "10.88.0.1:8080"},
		{m.Outside, "tcp", "192.0.2.2:8080"},
		{m.Outside, "udp", "192.0.2.2:5353"},
	} {
		if reply, err := requestSoon(test.from, test.network, test.address); err != nil || reply.Server != "web" {
			t.Errorf("%s %s from %s: got %v, %v, want web", test.network, test.address, test.from.Name, reply, err)
		}
	}
	if reply, err := m.Outside.Briefly().Request("tcp", "192.0.2.2:8443"); err == nil {
		t.Errorf("got %v from outside by a port of 127.0.0.1, want no answer", reply)
	}
	assertReplies(t, podman.MustRun("run", "--rm", runtimes.Image, "peer", "ask", "tcp", "192.0.2.1:80"),
		host.Reply{Server: "outside", Seen: netip.AddrPortFrom(host.HostIPv4.Addr(), 0)})
	assertReplies(t, podman.MustRun("run", "--rm", runtimes.Image, "peer", "ask", "tcp", "192.0.2.2:8080"),
		host.Reply{Server: "web", Seen: netip.MustParseAddrPort("10.88.0.1:0")})

	podman.MustRun("rm", "--force", "--time", "0", "web")
	before.assertRestored(t, "podman")
}

// TestPodmanNetworks goes through what podman can do with networks of its own making.
func TestPodmanNetworks(t *testing.T) {
	m := runtimes.New(t)
	podman := startPodman(t, m)
	podman.MustRun("network", "ls") // makes podman's own files
	before := snapshot(m)

	podman.MustRun("network", "create", "--subnet", "10.91.0.0/24", "n1")
	podman.MustRun("network", "create", "--subnet", "10.92.0.0/24", "--subnet", "fd92::/64", "--ipv6", "--disable-dns", "n2")
	podman.MustRun(serving("web", "--network", "n1", "-p", "8080:80")...)
	podman.MustRun(serving("both", "--network", "n1", "--network", "n2", "-p", "8081:80")...)
	podman.MustRun(serving("static", "--network", "n2:ip=10.92.0.77,ip=fd92::77,mac=02:11:22:33:44:55,interface_name=net7")...)

	asks := func(container, address string, want string) {
		t.Helper()
		got := podman.MustRun("exec", container, "peer", "ask", "tcp", address)
		if server, _, _ := strings.Cut(got, " "); server != want {
			t.Errorf("%s asks %s: got %q, want %s", container, address, got, want)
		}
	}
	asks("both", "10.91.0.2:80", "web")
	asks("both", "10.92.0.77:80", "static")
	asks("both", "[fd92::77]:80", "static")
	asks("static", "10.92.0.2:80", "both")
	asks("static", "192.0.2.2:8080", "web")
	link := podman.MustRun("exec", "static", "ip", "address", "show", "net7")
	for _, want := range []string{"02:11:22:33:44:55", "10.92.0.77/24", "fd92::77/64"} {
		if !strings.Contains(link, want) {
			t.Errorf("got net7 %s, want %s", link, want)
		}
	}

	podman.MustRun("network", "connect", "n2", "web")
	asks("web", "10.92.0.77:80", "static")
	podman.MustRun("network", "disconnect", "n2", "web")
	if links := podman.MustRun("exec", "web", "ip", "link"); strings.Contains(links, "eth1") {
		t.Errorf("got links %s after disconnect, want no eth1", links)
	}
	testPodmanReload(t, m, podman)

	podman.MustRun("restart", "--time", "0", "web")
	if reply, err := requestSoon(m.Namespace, "tcp", "127.0.0.1:8080"); err != nil || reply.Server != "web" {
		t.Errorf("after the restart: got %v, %v, want web", reply, err)
	}
	podman.MustRun("rm", "--force", "--time", "0", "web", "both", "static")
	podman.MustRun("network", "rm", "n1", "n2")
	before.assertRestored(t, "n1", "n2")
}

// testPodmanReload: podman's answer to a firewall that somebody reloaded.
func testPodmanReload(t *testing.T, m *runtimes.Machine, podman *runtimes.Podman) {
	m.MustRun("nft", "flush", "ruleset")
	if reply, err := m.Outside.Briefly().Request("tcp", "192.0.2.2:8080"); err == nil {
		t.Errorf("got %v without any rule, want none", reply)
	}
	podman.MustRun("network", "reload", "--all")
	for _, port := range []struct{ address, server string }{{"192.0.2.2:8080", "web"}, {"192.0.2.2:8081", "both"}} {
		if reply, err := requestSoon(m.Outside, "tcp", port.address); err != nil || reply.Server != port.server {
			t.Errorf("%s after the reload: got %v, %v, want %s", port.address, reply, err, port.server)
		}
	}
}

// TestPodmanMany starts ten containers at once, and removes them at once.
func TestPodmanMany(t *testing.T) {
	m := runtimes.New(t)
	podman := startPodman(t, m)
	before := snapshot(m)
	const n = 10
	atOnce(t, n, func(i int) error {
		return exitError(podman.Run(serving(fmt.Sprint("c", i), "-p", fmt.Sprintf("%d:80", 9000+i))...))
	})
	for i := range n {
		want := fmt.Sprint("c", i)
		reply, err := requestSoon(m.Outside, "tcp", fmt.Sprint("192.0.2.2:", 9000+i))
		if err != nil || reply.Server != want {
			t.Errorf("port %d: got %v, %v, want %s", 9000+i, reply, err, want)
		}
	}
	if got := len(m.Leases("podman")); got != n {
		t.Errorf("got %d leases, want %d", got, n)
	}
	atOnce(t, n, func(i int) error { return exitError(podman.Run("rm", "--force", "--time", "0", fmt.Sprint("c", i))) })
	before.assertRestored(t, "podman")
}

func atOnce(t *testing.T, n int, fn func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = fn(i) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func exitError(output host.Output, err error) error {
	if err == nil && output.Code != 0 {
		err = fmt.Errorf("exit status %d: %s", output.Code, output.Stderr)
	}
	return err
}

// TestPodmanKnowsTheVersions: podman asks each plugin for the versions that it
// speaks, and drops a network whose plugins do not answer.
func TestPodmanKnowsTheVersions(t *testing.T) {
	m := runtimes.New(t)
	podman := startPodman(t, m)
	m.InstallNetwork("10-own.conflist", `{"cniVersion": "1.0.0", "name": "own", "plugins": [
		{"type": "bridge", "bridge": "br0", "bridgeLifetime": "auto", "isDefaultGateway": true, "ipMasq": true,
		 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.93.0.0/24"}]]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`)
	before := snapshot(m)
	if list := podman.MustRun("network", "ls"); !regexp.MustCompile(`\bown +bridge\b`).MatchString(list) {
		t.Errorf("got networks\n%s, want own", list)
	}
	got := podman.MustRun("run", "--rm", "--network", "own", runtimes.Image, "ip", "route")
	if !strings.Contains(got, "default via 10.93.0.1") {
		t.Errorf("got routes %s", got)
	}
	before.assertRestored(t, "own")
}
