package runtimes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// TestSwitchOver: on a node whose pods were made with the reference plugins,
// Trestle's take their place. The pods go on; new ones get other addresses; the
// old ones go by Trestle's DEL, which leaves nothing of the reference's.
func TestSwitchOver(t *testing.T) {
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) { testSwitchOver(t, backend) })
	}
}

func testSwitchOver(t *testing.T, backend string) {
	m := runtimes.New(t)
	m.Install(m.Dirs().Reference)
	cri := startCRI(t, m)
	cri.UseNetwork(switchNetwork(backend))
	// The reference plugins never remove their bridge, nor the chains and tables
	// that all containers share: what they leave is the measure.
	first := &runtimes.Pod{Name: "first", Ports: []runtimes.Port{{Protocol: "TCP", Host: 8999, Pod: 80}}}
	if err := cri.RunPods(first); err != nil {
		t.Fatal(err)
	}
	if err := cri.RemovePods(first); err != nil {
		t.Fatal(err)
	}
	if backend == "iptables" { // whose first use leaves its tables' own chains for good
		m.MustRun("iptables", "-t", "raw", "-A", "PREROUTING", "-j", "ACCEPT")
		m.MustRun("iptables", "-t", "raw", "-D", "PREROUTING", "-j", "ACCEPT")
	}
	before := snapshot(m)

	old := servingPods(t, cri, "old", 9000)
	taken := m.Leases("n")
	m.Install(m.Dirs().Trestle)
	assertServed(t, m, old)

	late := &runtimes.Pod{Name: "late", Ports: old[0].Ports}
	if err := cri.RunPods(late); err == nil || !strings.Contains(err.Error(), old[0].ID) {
		t.Errorf("got %v for a host port that is taken, want an error that names its holder %s", err, old[0].ID)
	}
	young := servingPods(t, cri, "young", 9100)
	assertOurs(t, m, "n", young[0].ID)
	assertServed(t, m, append(old, young...))
	assertLeasesAdded(t, m, taken, 2*len(young))

	if err := cri.RemovePods(old...); err != nil {
		t.Error(err)
	}
	for _, pod := range old {
		if reply, err := m.Outside.Briefly().Request("tcp", outsidePort(pod)); err == nil {
			t.Errorf("got %v by the host port of %s, which is gone", reply, pod.Name)
		}
	}
	assertServed(t, m, young)
	if err := cri.RemovePods(young...); err != nil {
		t.Error(err)
	}
	assertNothingOf(t, m, append(old, young...))
	collectNAT(t, m) // what is the network's stays until then
	before.assertRestored(t, "n")
}

// assertNothingOf: no link, rule or file names any of the pods.
func assertNothingOf(t *testing.T, m *runtimes.Machine, pods []*runtimes.Pod) {
	t.Helper()
	for line := range strings.Lines(m.Dump()) {
		ofPod := slices.ContainsFunc(pods, func(pod *runtimes.Pod) bool { return strings.Contains(line, pod.ID) })
		if ofPod && !strings.HasPrefix(line, "file /run/containerd/") {
			t.Errorf("left behind: %s", line)
		}
	}
}

// TestSwitchOverPodman: podman's networks have firewall and tuning besides.
func TestSwitchOverPodman(t *testing.T) {
	m := runtimes.New(t)
	m.Install(m.Dirs().Reference)
	podman := startPodman(t, m)
	remove := func(names ...string) { podman.MustRun(append([]string{"rm", "--force", "--time", "0"}, names...)...) }
	podman.MustRun(serving("first", "-p", "8079:80")...)
	remove("first")
	m.MustRun("iptables", "-t", "raw", "-A", "PREROUTING", "-j", "ACCEPT") // as in testSwitchOver
	m.MustRun("iptables", "-t", "raw", "-D", "PREROUTING", "-j", "ACCEPT")
	before := snapshot(m)

	podman.MustRun(serving("old", "-p", "8080:80")...)
	m.Install(m.Dirs().Trestle)
	podman.MustRun(serving("young", "-p", "8081:80")...)
	for port, want := range map[string]string{"8080": "old", "8081": "young"} {
		if reply, err := requestSoon(m.Outside, "tcp", "192.0.2.2:"+port); err != nil || reply.Server != want {
			t.Errorf("port %s: got %v, %v, want %s", port, reply, err, want)
		}
	}
	if output, err := podman.Run(serving("late", "-p", "8080:80")...); err != nil || output.Code == 0 {
		t.Errorf("got %v, exit status %d for a host port that is taken, want an error", err, output.Code)
	}
	remove("late", "old", "young")
	before.assertNothingNew(t, "podman")
}

// TestSwitchBack: the other way round. The reference plugins' DEL frees the
// leases and links of Trestle's pods; what they know nothing of, the host ports
// and the masquerade rule of the network, goes by the one command that
// docs/switching-over.md names.
func TestSwitchBack(t *testing.T) {
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) { testSwitchBack(t, backend) })
	}
}

func testSwitchBack(t *testing.T, backend string) {
	m := runtimes.New(t)
	cri := startCRI(t, m)
	cri.UseNetwork(switchNetwork(backend))
	old := servingPods(t, cri, "old", 9000)
	taken := m.Leases("n")
	m.Install(m.Dirs().Reference)
	assertServed(t, m, old)

	young := servingPods(t, cri, "young", 9100)
	assertServed(t, m, append(old, young...))
	assertLeasesAdded(t, m, taken, 2*len(young))

	if err := cri.RemovePods(old...); err != nil {
		t.Error(err)
	}
	releaseNAT(t, m)
	for line := range strings.Lines(m.Dump()) {
		index := strings.HasPrefix(line, "file /var/lib/cni/networks/n/.trestle/") // stays, and host-local does not read it
		bridges := strings.HasPrefix(line, "file /run/trestle/bridge/")            // whose addresses they are; until a reboot
		if !index && !bridges && strings.Contains(strings.ToLower(line), "trestle") {
			t.Errorf("left behind: %s", line)
		}
	}
	assertServed(t, m, young)
	for _, pod := range young {
		local := fmt.Sprint("127.0.0.1:", pod.Ports[0].Host)
		if reply, err := m.Request("tcp", local); err != nil || reply.Server != pod.Name {
			t.Errorf("%s: got %v, %v, want %s", local, reply, err, pod.Name)
		}
	}
	if err := cri.RemovePods(young...); err != nil {
		t.Error(err)
	}
	if leases := m.Leases("n"); len(leases) > 0 {
		t.Errorf("got leases %v, want none", leases)
	}
}

// releaseNAT is the last step of docs/switching-over.md's way back: whatever
// Trestle still maps or masquerades for the network goes, and with it a setting
// of the bridge that it had changed; the reference plugins count on that.
func releaseNAT(t *testing.T, m *runtimes.Machine) {
	t.Helper()
	collectNAT(t, m)
	m.MustRun("sysctl", "-qw", "net.ipv4.conf.br0.route_localnet=1")
}

// collectNAT tells portmap that no attachment of the network is left.
func collectNAT(t *testing.T, m *runtimes.Machine) {
	t.Helper()
	err := m.Exec(host.Call{
		Plugin: "portmap", Command: "GC",
		Config: `{"cniVersion": "1.1.0", "name": "n", "type": "portmap", "cni.dev/valid-attachments": []}`,
	}).Err()
	if err != nil {
		t.Errorf("GC of portmap: %v", err)
	}
}

// switchNetwork is a network of which the reference plugins know every key.
func switchNetwork(backend string) string {
	network := strings.Replace(criNetwork, `"ipMasq": true`, fmt.Sprintf(`"ipMasq": true, "ipMasqBackend": %q`, backend), 1)
	return strings.Replace(network, `{"type": "portmap"`, fmt.Sprintf(`{"type": "portmap", "backend": %q`, backend), 1)
}

// servingPods are three pods with a container each that answers with the pod's
// name, on host ports from port.
func servingPods(t *testing.T, cri *runtimes.Containerd, name string, port int) []*runtimes.Pod {
	t.Helper()
	var pods []*runtimes.Pod
	for i := range 3 {
		pods = append(pods, &runtimes.Pod{
			Name:  fmt.Sprint(name, i),
			Ports: []runtimes.Port{{Protocol: "TCP", Host: port + i, Pod: 80}},
		})
	}
	if err := cri.RunPods(pods...); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		if _, err := cri.RunContainer(pod, "peer", "serve", pod.Name, "80"); err != nil {
			t.Fatal(err)
		}
	}
	return pods
}

func outsidePort(pod *runtimes.Pod) string {
	return fmt.Sprintf("%s:%d", host.HostIPv4.Addr(), pod.Ports[0].Host)
}

// assertServed: each pod answers on its host port.
func assertServed(t *testing.T, m *runtimes.Machine, pods []*runtimes.Pod) {
	t.Helper()
	for _, pod := range pods {
		if reply, err := requestSoon(m.Outside, "tcp", outsidePort(pod)); err != nil || reply.Server != pod.Name {
			t.Errorf("%s from outside: got %v, %v, want %s", outsidePort(pod), reply, err, pod.Name)
		}
	}
}

// assertLeasesAdded: there are n more leases than taken, all of which are still there.
func assertLeasesAdded(t *testing.T, m *runtimes.Machine, taken []string, n int) {
	t.Helper()
	leases := m.Leases("n")
	if len(leases) != len(taken)+n {
		t.Errorf("got %d leases, want %d and %d more", len(leases), len(taken), n)
	}
	for _, lease := range taken {
		if !slices.Contains(leases, lease) {
			t.Errorf("lease %s of a living pod is gone", lease)
		}
	}
}
