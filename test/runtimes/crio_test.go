package runtimes_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/runtimes"
)

// crioNetwork is CRI-O's own, dual-stack, with the host ports mapped by CNI.
const crioNetwork = `{"cniVersion": %q, "name": "crio", "plugins": [
	{"type": "bridge", "bridge": "cni0", "bridgeLifetime": "auto", "isGateway": true, "ipMasq": true, "hairpinMode": true,
	 "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
	          "ranges": [[{"subnet": "10.85.0.0/16"}], [{"subnet": "1100:200::/24"}]]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// TestCRIO goes through the life of pods as CRI-O's CNI client leads it: STATUS
// until the network is ready, ADD and at once CHECK, DEL again and again, and
// after a start GC with the pods that are alive.
func TestCRIO(t *testing.T) {
	for _, version := range []string{"1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			testCRIO(t, version)
		})
	}
}

func testCRIO(t *testing.T, version string) {
	m := runtimes.New(t)
	crio := m.CRIO("10-crio-bridge.conflist", fmt.Sprintf(crioNetwork, version))
	if err := crio.Status(); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	web, lost := crioPod(m, "web", 8080), crioPod(m, "lost", 8081)
	before := snapshot(m)

	for _, pod := range []runtimes.CRIOPod{web, lost} {
		result, err := crio.Up(pod)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`"cniVersion":%q`, version); !strings.Contains(result, want) {
			t.Errorf("got the result %s, want %s in it", result, want)
		}
	}
	assertOurs(t, m, "crio", web.ID)
	if reply, err := requestSoon(m.Outside, "tcp", "192.0.2.2:8080"); err != nil || reply.Server != "web" {
		t.Errorf("host port: got %v, %v, want web", reply, err)
	}

	// lost has no pod any more when CRI-O starts again; web goes on.
	if err := crio.GC(web); err != nil {
		t.Errorf("GC: %v", err)
	}
	if err := crio.Check(web); err != nil {
		t.Errorf("CHECK of a pod after GC that named it: %v", err)
	}
	if err := crio.Check(lost); err == nil {
		t.Errorf("CHECK passes for a pod that GC did not name, want an error")
	}
	again := crioPod(m, "again", 8081) // its host port is free
	if _, err := crio.Up(again); err != nil {
		t.Error(err)
	}
	for _, pod := range []runtimes.CRIOPod{web, again, lost} {
		for _, netns := range []string{pod.NetNS, ""} { // CRI-O stops pods again, without a namespace then
			pod.NetNS = netns
			if err := crio.Down(pod); err != nil {
				t.Errorf("DEL of %s in %q: %v", pod.Name, netns, err)
			}
		}
	}
	m.MustRun("ip", "netns", "del", "again")
	before.assertRestored(t, "crio")
}

// TestCRIOFailedCheck: a CHECK that finds a difference after ADD is the pod's
// failure, and the pod is taken down: the error says what is missing.
func TestCRIOFailedCheck(t *testing.T) {
	t.Parallel()
	m := runtimes.New(t)
	crio := m.CRIO("10-crio-bridge.conflist", fmt.Sprintf(crioNetwork, "1.1.0"))
	web := crioPod(m, "web", 8080)
	if _, err := crio.Up(web); err != nil {
		t.Fatal(err)
	}
	m.MustRun("nft", "flush", "ruleset")
	if err := crio.Check(web); err == nil || !strings.Contains(err.Error(), "8080") {
		t.Errorf("got %v after a flush, want an error that names the host port", err)
	}
	m.MustRun(m.Dirs().Trestle+"/trestle", "restore")
	if err := crio.Check(web); err != nil {
		t.Errorf("CHECK after trestle restore: %v", err)
	}
}

// crioPod is a pod whose port 80 answers with its name, on a host port.
func crioPod(m *runtimes.Machine, name string, port int) runtimes.CRIOPod {
	sandbox := m.Container(name)
	sandbox.Serve("tcp", ":80")
	return runtimes.CRIOPod{
		Name: name, ID: strings.Repeat("0", 60) + fmt.Sprint(port), NetNS: sandbox.NetNS,
		Ports: []map[string]any{{"hostPort": port, "containerPort": 80, "protocol": "tcp"}},
	}
}
