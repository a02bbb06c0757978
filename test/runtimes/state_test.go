package runtimes_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// state is what must be again as it was when a runtime has removed its containers.
type state struct {
	m     *runtimes.Machine
	dump  string
	netns []string
}

func snapshot(m *runtimes.Machine) state { return state{m, m.Dump(), m.ReadDir("/run/netns")} }

// runtimesOwn are the files that the runtimes themselves keep, and ours about
// bridges: their lock, and which network gave one an address, which stays for the next
// GC where somebody else has deleted the bridge, as podman does.
var runtimesOwn = []string{
	"file /run/containerd/", "file /run/containers/", "file /run/libpod/", "file /run/runc/",
	"file /run/trestle/bridge/",
}

// podmanBridge is what stays of podman's default network, whose list says nothing
// of its bridge's lifetime. The lists of the tests do.
var podmanBridge = []string{
	"link cni-podman0 ", "address cni-podman0 ", "fdb 02:74:72:", "sysctl net/ipv6/conf/cni-podman0/",
	"route broadcast 10.88.255.255 dev cni-podman0 ", "route local 10.88.0.1 dev cni-podman0 ", "route unicast 10.88.0.0/16 dev cni-podman0 ",
}

// assertRestored: no link, address, route, rule, chain, neighbour, file or
// network namespace is there that was not there before, and none is missing; of
// the networks' leases, cursor and index may differ.
func (before state) assertRestored(t *testing.T, networks ...string) {
	t.Helper()
	before.m.AssertUnchanged(before.dump, mayDiffer(networks)...)
	before.assertFree(t)
}

// assertNothingNew is assertRestored for a host that had what others left behind,
// of which some may be gone.
func (before state) assertNothingNew(t *testing.T, networks ...string) {
	t.Helper()
	for line := range strings.Lines(host.Diff(before.dump, before.m.Dump(), mayDiffer(networks)...)) {
		if strings.HasPrefix(line, "+") {
			t.Errorf("left behind: %s", line)
		}
	}
	before.assertFree(t)
}

func mayDiffer(networks []string) []string {
	ignore := slices.Clone(runtimesOwn)
	for _, network := range networks {
		dir := "file /var/lib/cni/networks/" + network + "/"
		ignore = append(ignore, dir+"last_reserved_ip.", dir+".trestle/")
		if network == "podman" {
			ignore = append(ignore, podmanBridge...)
		}
	}
	return ignore
}

// assertFree: what no dump shows is as it was, too.
func (before state) assertFree(t *testing.T) {
	t.Helper()
	if after := before.m.ReadDir("/run/netns"); !slices.Equal(after, before.netns) {
		t.Errorf("got network namespaces %v, want %v", after, before.netns)
	}
	if datagrams := mappedDatagrams(before.m); datagrams != "" {
		t.Errorf("got conntrack entries of UDP to host ports that are mapped no more:\n%s", datagrams)
	}
}

// mappedDatagrams is the connection tracking entries of UDP that still send what
// comes for a host port to a container. (Those of TCP end with their connections.)
func mappedDatagrams(m *runtimes.Machine) string {
	output, err := m.Run(host.Command{Args: []string{"conntrack", "--dump", "--proto", "udp", "--dst-nat"}})
	if err != nil {
		return err.Error()
	}
	return output.Stdout
}

// assertOurs: the attachment was made by Trestle, whose links carry their owners.
func assertOurs(t *testing.T, m *runtimes.Machine, network, container string) {
	t.Helper()
	if want := "alias trestle:" + network + "/" + container + "/eth0"; !strings.Contains(m.MustRun("ip", "link"), want) {
		t.Errorf("got no link with %q; is it another's plugin that ran?", want)
	}
}

// requestSoon asks a server that has just been started.
func requestSoon(n *host.Namespace, network, address string) (host.Reply, error) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		reply, err := n.Briefly().Request(network, address)
		if err == nil || time.Now().After(end) {
			return reply, err
		}
	}
}

// assertReplies compares what `peer ask` printed, one line for each reply, with
// what servers must have seen; a port of 0 there is any.
func assertReplies(t *testing.T, printed string, want ...host.Reply) {
	t.Helper()
	lines := strings.Fields(strings.ReplaceAll(strings.TrimSpace(printed), " ", "="))
	var got []host.Reply
	for _, line := range lines {
		server, seen, _ := strings.Cut(line, "=")
		address, err := netip.ParseAddrPort(seen)
		if err != nil {
			t.Errorf("got %q, which is no reply of a server", line)
		}
		got = append(got, host.Reply{Server: server, Seen: netip.AddrPortFrom(address.Addr().Unmap(), 0)})
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got replies %v, want %v", got, want)
	}
}
