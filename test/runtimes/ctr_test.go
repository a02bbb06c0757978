package runtimes_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// ctrConfig is a containerd for ctr: without CRI.
const ctrConfig = `version = 2
root = "%[1]s"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
`

// startCtr is Debian's containerd, with the network that ctr gives to containers.
func startCtr(t *testing.T, m *runtimes.Machine, conflist string) *runtimes.Containerd {
	t.Helper()
	runtimes.Need(t, "containerd", "runc")
	m.InstallNetwork("10-n.conflist", conflist)
	return m.Containerd("", ctrConfig, "default")
}

const ctrNetwork = `{"cniVersion": "1.0.0", "name": "n", "plugins": [
	{"type": "bridge", "bridge": "br0", "bridgeLifetime": "auto", "isDefaultGateway": true, "ipMasq": true,
	 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.89.0.0/24"}], [{"subnet": "fd89::/64"}]]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// TestCtr: containers of `ctr run --cni` reach each other, the host and the
// outside, and leave nothing.
func TestCtr(t *testing.T) {
	m := runtimes.New(t)
	ctr := startCtr(t, m, ctrNetwork)
	m.Outside.Serve("tcp", ":80")
	before := snapshot(m)

	ctrRun(t, ctr, "-d", "srv", "peer serve srv 80")
	assertOurs(t, m, "n", "default-srv")
	for _, address := range []string{"10.89.0.2:80", "[fd89::2]:80"} {
		if reply, err := requestSoon(m.Namespace, "tcp", address); err != nil || reply.Server != "srv" {
			t.Errorf("request to %s: got %v, %v, want srv", address, reply, err)
		}
	}
	script := `peer ask tcp 10.89.0.2:80; peer ask tcp [fd89::2]:80; peer ask tcp 192.0.2.1:80; peer ask tcp [2001:db8::1]:80`
	got := ctrRun(t, ctr, "--rm", "cli", "sh", "-ec", script)
	assertReplies(t, got,
		host.Reply{Server: "srv", Seen: netip.MustParseAddrPort("10.89.0.3:0")},
		host.Reply{Server: "srv", Seen: netip.MustParseAddrPort("[fd89::3]:0")},
		host.Reply{Server: "outside", Seen: netip.AddrPortFrom(host.HostIPv4.Addr(), 0)},
		host.Reply{Server: "outside", Seen: netip.AddrPortFrom(host.HostIPv6.Addr(), 0)})
	if got := m.Leases("n"); !slices.Equal(got, []string{"10.89.0.2", "fd89::2"}) {
		t.Errorf("got leases %v after cli is gone, want those of srv", got)
	}

	// ctr 1.6 sends no DEL for a container that it started in the background:
	// the network's garbage collection has to find it.
	ctrRemove(t, ctr, "srv")
	if output := m.Cnitool("gc", "n", "unused"); output.Code != 0 {
		t.Errorf("gc: exit status %d: %s%s", output.Code, output.Stdout, output.Stderr)
	}
	before.assertRestored(t, "n")
}

// TestCtrPoolHeals: ctr 1.6 leaks the lease of each container in the background.
// A network of two addresses serves more than two of them all the same.
func TestCtrPoolHeals(t *testing.T) {
	m := runtimes.New(t)
	ctr := startCtr(t, m, `{"cniVersion": "1.0.0", "name": "n", "plugins": [
		{"type": "bridge", "bridge": "br0", "bridgeLifetime": "auto", "isGateway": true, "ipMasq": true,
		 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.89.0.0/24", "rangeStart": "10.89.0.2", "rangeEnd": "10.89.0.3"}]]}}]}`)
	for i := range 5 {
		name := fmt.Sprint("c", i)
		ctrRun(t, ctr, "-d", name, "sleep 1000")
		ctrRemove(t, ctr, name)
	}
	if got := len(m.Leases("n")); got > 2 {
		t.Errorf("got %d leases of 2 addresses", got)
	}
}

// ctrRun runs a container and returns what it printed. A command of one word is
// split at its spaces.
func ctrRun(t *testing.T, ctr *runtimes.Containerd, how, name string, command ...string) string {
	t.Helper()
	if len(command) == 1 {
		command = strings.Fields(command[0])
	}
	args := append([]string{"run", how, "--cni", "--snapshotter", runtimes.Snapshotter, runtimes.Image, name}, command...)
	output := ctr.Ctr(args...)
	if output.Code != 0 {
		t.Fatalf("ctr run %s: exit status %d: %s%s", name, output.Code, output.Stdout, output.Stderr)
	}
	return output.Stdout
}

func ctrRemove(t *testing.T, ctr *runtimes.Containerd, name string) {
	t.Helper()
	for _, args := range [][]string{{"task", "rm", "--force", name}, {"container", "rm", name}} {
		if output := ctr.Ctr(args...); output.Code != 0 {
			t.Errorf("ctr %s: exit status %d: %s", strings.Join(args, " "), output.Code, output.Stderr)
		}
	}
}
