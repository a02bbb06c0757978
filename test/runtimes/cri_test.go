package runtimes_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

const criNetwork = `{"cniVersion": "1.0.0", "name": "n", "plugins": [
	{"type": "bridge", "bridge": "br0", "bridgeLifetime": "auto", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
	 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd90::/64"}]]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// startCRI is Debian's containerd with the CRI plugin, and no network yet.
func startCRI(t *testing.T, m *runtimes.Machine) *runtimes.Containerd {
	t.Helper()
	runtimes.Need(t, "containerd", "runc")
	cri := m.Containerd("", runtimes.CRIConfig, "k8s.io")
	cri.WaitForCRI()
	return cri
}

// TestCRI goes through the life of a pod as the kubelet does.
func TestCRI(t *testing.T) {
	m := runtimes.New(t)
	testCRI(t, m, startCRI(t, m), criNetwork)
}

func testCRI(t *testing.T, m *runtimes.Machine, cri *runtimes.Containerd, conflist string) {
	if ready, why := cri.NetworkReady(); ready {
		t.Errorf("got NetworkReady without a configuration: %s", why)
	}
	cri.UseNetwork(conflist)
	m.Outside.Serve("tcp", ":80")
	before := snapshot(m)

	pod := &runtimes.Pod{
		Name: "web",
		Ports: []runtimes.Port{
			{Protocol: "TCP", Host: 8080, Pod: 80},
			{Protocol: "UDP", Host: 5353, Pod: 80},
			{Protocol: "TCP", Host: 8443, Pod: 80, HostIP: "127.0.0.1"},
		},
		// The network has no plugin for it: it must do no harm.
		Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "10M"},
	}
	if err := cri.RunPods(pod); err != nil {
		t.Fatal(err)
	}
	assertOurs(t, m, "n", pod.ID)
	addresses, err := cri.PodAddresses(pod)
	if want := "[10.90.0.2 fd90::2]"; err != nil || fmt.Sprint(addresses) != want {
		t.Errorf("got the pod's addresses %v, %v, want %s", addresses, err, want)
	}
	container, err := cri.RunContainer(pod, "peer", "serve", "web", "80")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("from outside", func(t *testing.T) { testCRIFromOutside(t, m) })
	t.Run("from inside", func(t *testing.T) { testCRIFromInside(t, cri, container) })

	for range 2 { // the kubelet stops pods again whenever it is in doubt
		if err := cri.ForPods("StopPodSandbox", pod); err != nil {
			t.Error(err)
		}
	}
	if err := cri.ForPods("RemovePodSandbox", pod); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, "n")
}

// testCRIFromOutside: the pod's ports and addresses answer.
func testCRIFromOutside(t *testing.T, m *runtimes.Machine) {
	for _, test := range []struct {
		from             *host.Namespace
		network, address string
		seen             string // "" where it does not matter
	}{
		{m.Namespace, "tcp", "10.90.0.2:80", ""},
		{m.Namespace, "tcp", "[fd90::2]:80", ""},
		{m.Namespace, "tcp", "127.0.0.1:8080", ""},
		{m.Namespace, "tcp", "127.0.0.1:8443", ""},
		{m.Namespace, "tcp", "10.90.0.1:8080", ""},
		{m.Namespace, "tcp", "[2001:db8::2]:8080", ""},
		{m.Namespace, "udp", "127.0.0.1:5353", ""},
		{m.Outside, "tcp", "192.0.2.2:8080", "192.0.2.1"},
		{m.Outside, "udp", "192.0.2.2:5353", "192.0.2.1"},
		{m.Outside, "tcp", "[2001:db8::2]:8080", "2001:db8::1"},
	} {
		reply, err := requestSoon(test.from, test.network, test.address)
		if err != nil || reply.Server != "web" {
			t.Errorf("%s %s from %s: got %v, %v, want web", test.network, test.address, test.from.Name, reply, err)
		}
		if test.seen != "" && reply.Seen.Addr().String() != test.seen {
			t.Errorf("%s %s: the pod saw %s, want %s", test.network, test.address, reply.Seen, test.seen)
		}
	}
	if mappedDatagrams(m) == "" {
		t.Error("got no conntrack entry of UDP, whose end could be seen")
	}
	if reply, err := m.Outside.Briefly().Request("tcp", "192.0.2.2:8443"); err == nil {
		t.Errorf("got %v from outside by a port of 127.0.0.1, want no answer", reply)
	}
}

// testCRIFromInside: the pod has its DNS, reaches the outside behind the host's
// address, and itself by its host port.
func testCRIFromInside(t *testing.T, cri *runtimes.Containerd, container string) {
	if got := execSync(t, cri, container, "cat", "/etc/resolv.conf"); strings.TrimSpace(got) != strings.Join([]string{
		runtimes.PodDNS[1], runtimes.PodDNS[0], runtimes.PodDNS[2],
	}, "\n") {
		t.Errorf("got resolv.conf %q, want %q", got, runtimes.PodDNS)
	}
	assertReplies(t, execSync(t, cri, container, "peer", "ask", "tcp", "192.0.2.1:80"),
		host.Reply{Server: "outside", Seen: netip.AddrPortFrom(host.HostIPv4.Addr(), 0)})
	assertReplies(t, execSync(t, cri, container, "peer", "ask", "tcp", "[2001:db8::1]:80"),
		host.Reply{Server: "outside", Seen: netip.AddrPortFrom(host.HostIPv6.Addr(), 0)})
	for _, hairpin := range []string{"192.0.2.2:8080", "10.90.0.1:8080", "[2001:db8::2]:8080"} {
		if got := execSync(t, cri, container, "peer", "ask", "tcp", hairpin); !strings.HasPrefix(got, "web ") {
			t.Errorf("the pod asks itself by %s: got %q, want web", hairpin, got)
		}
	}
}

func execSync(t *testing.T, cri *runtimes.Containerd, container string, command ...string) string {
	t.Helper()
	output, err := cri.ExecSync(container, command...)
	if err != nil || output.Code != 0 {
		t.Errorf("%s in the pod: %v, exit status %d: %s", strings.Join(command, " "), err, output.Code, output.Stderr)
	}
	return output.Stdout
}

// TestCRIManyPods brings 50 pods up at once, and down.
func TestCRIManyPods(t *testing.T) {
	m := runtimes.New(t)
	cri := startCRI(t, m)
	cri.UseNetwork(criNetwork)
	testCRIManyPods(t, m, cri)
}

func testCRIManyPods(t *testing.T, m *runtimes.Machine, cri *runtimes.Containerd) {
	before := snapshot(m)
	pods := runtimes.ManyPods(50)
	if err := cri.RunPods(pods...); err != nil {
		t.Fatal(err)
	}
	if got, want := len(m.Leases("n")), 2*len(pods); got != want {
		t.Errorf("got %d leases, want %d", got, want)
	}
	ruleset := m.MustRun("nft", "list", "table", "inet", "trestle")
	for _, pod := range pods {
		if want := fmt.Sprintf("n/%s/eth0", pod.ID); !strings.Contains(ruleset, want) {
			t.Errorf("got no element of %s for port %d", want, pod.Ports[0].Host)
		}
	}
	if err := cri.RemovePods(pods...); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, "n")
}

// TestCRIPortTaken: a host port has one holder, whom the error names; the pod
// that asked in vain leaves nothing.
func TestCRIPortTaken(t *testing.T) {
	m := runtimes.New(t)
	cri := startCRI(t, m)
	cri.UseNetwork(criNetwork)
	before := snapshot(m)
	holder, late := runtimes.ManyPods(1)[0], runtimes.ManyPods(1)[0]
	late.Name = "late"
	if err := cri.RunPods(holder); err != nil {
		t.Fatal(err)
	}
	held := snapshot(m)
	if err := cri.RunPods(late); err == nil || !strings.Contains(err.Error(), holder.ID) || !strings.Contains(err.Error(), "9000") {
		t.Errorf("got %v, want an error that names port 9000 and %s", err, holder.ID)
	}
	held.assertRestored(t, "n")
	if err := removeAllPods(cri); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, "n")
}

// TestCRIBandwidth: with the plugin for it in the list, the annotations of a pod
// limit it.
func TestCRIBandwidth(t *testing.T) {
	m := runtimes.New(t)
	cri := startCRI(t, m)
	cri.UseNetwork(strings.Replace(criNetwork, `{"type": "portmap"`,
		`{"type": "bandwidth", "capabilities": {"bandwidth": true}}, {"type": "portmap"`, 1))
	before := snapshot(m)
	pod := &runtimes.Pod{Name: "slow", Annotations: map[string]string{
		"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M",
	}}
	if err := cri.RunPods(pod); err != nil {
		t.Fatal(err)
	}
	for _, rate := range []string{"rate 10Mbit", "rate 20Mbit"} {
		if got := m.MustRun("tc", "qdisc", "show"); !strings.Contains(got, rate) {
			t.Errorf("got %s, want a qdisc of %s", got, rate)
		}
	}
	if err := cri.RemovePods(pod); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, "n")
}

// TestCRICrash: pods live on when containerd is killed, and go with their
// networks when the next one is told to remove them.
func TestCRICrash(t *testing.T) {
	m := runtimes.New(t)
	cri := startCRI(t, m)
	cri.UseNetwork(criNetwork)
	before := snapshot(m)
	pods := runtimes.ManyPods(3)
	if err := cri.RunPods(pods...); err != nil {
		t.Fatal(err)
	}
	if _, err := cri.RunContainer(pods[0], "peer", "serve", "p0", "80"); err != nil {
		t.Fatal(err)
	}
	cri.Kill()
	if reply, err := requestSoon(m.Outside, "tcp", "192.0.2.2:9000"); err != nil || reply.Server != "p0" {
		t.Errorf("without containerd: got %v, %v, want p0", reply, err)
	}
	cri.Start()
	cri.WaitForCRI()
	more := &runtimes.Pod{Name: "more"}
	if err := cri.RunPods(more); err != nil {
		t.Error(err)
	}
	if err := cri.RemovePods(append(pods, more)...); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, "n")
}

// TestCRICrashInTheMidst kills containerd while it makes pods, plugins at work
// included or not, as it happens. What its successor knows of goes by CRI; what
// it never heard of, the network's garbage collection finds.
func TestCRICrashInTheMidst(t *testing.T) {
	m := runtimes.New(t)
	cri := startCRI(t, m)
	cri.UseNetwork(criNetwork)
	before := snapshot(m)
	for _, after := range []time.Duration{200 * time.Millisecond, 500 * time.Millisecond, time.Second} {
		kill := time.AfterFunc(after, cri.Kill)
		err := cri.RunPods(runtimes.ManyPods(20)...)
		t.Logf("killed after %v: %d pods failed", after, strings.Count(fmt.Sprint(err), "run pod"))
		kill.Stop()
		cri.Kill()
		cri.Start()
		cri.WaitForCRI()
		if err := removeAllPods(cri); err != nil {
			t.Error(err)
		}
	}
	removeOrphanedNamespaces(t, m, before.netns)
	if output := m.Cnitool("gc", "n", "unused"); output.Code != 0 {
		t.Errorf("gc: exit status %d: %s%s", output.Code, output.Stdout, output.Stderr)
	}
	before.assertRestored(t, "n")
}

// removeOrphanedNamespaces removes the network namespaces that the killed runtime
// left behind: they were its own, and no plugin's.
func removeOrphanedNamespaces(t *testing.T, m *runtimes.Machine, keep []string) {
	t.Helper()
	for _, name := range m.ReadDir("/run/netns") {
		if !slices.Contains(keep, name) {
			m.MustRun("ip", "netns", "del", name)
		}
	}
}

func removeAllPods(cri *runtimes.Containerd) error {
	pods, err := cri.Pods()
	if err != nil || len(pods) == 0 {
		return err
	}
	return errors.Join(cri.RemovePods(pods...))
}

// TestCRIVanishedNamespace: a pod whose network namespace somebody deleted goes
// like any other.
func TestCRIVanishedNamespace(t *testing.T) {
	m := runtimes.New(t)
	cri := startCRI(t, m)
	cri.UseNetwork(criNetwork)
	before := snapshot(m)
	pods := runtimes.ManyPods(2)
	if err := cri.RunPods(pods...); err != nil {
		t.Fatal(err)
	}
	removeOrphanedNamespaces(t, m, before.netns)
	if err := cri.RemovePods(pods...); err != nil {
		t.Error(err)
	}
	before.assertRestored(t, "n")
}
