package runtimes_test

import (
	"os"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/runtimes"
)

// criNetwork11 is criNetwork in a version of the spec that has STATUS.
var criNetwork11 = strings.Replace(criNetwork, `"1.0.0"`, `"1.1.0"`, 1)

// startContainerd2 is containerd 2, where `make test-containerd2` asks for it.
func startContainerd2(t *testing.T, m *runtimes.Machine) *runtimes.Containerd {
	t.Helper()
	runtimes.Need(t, "runc")
	cri := m.Containerd(os.Getenv("TRESTLE_CONTAINERD2"), runtimes.CRIConfig2, "k8s.io")
	cri.WaitForCRI()
	return cri
}

func needContainerd2(t *testing.T) {
	t.Helper()
	if os.Getenv("TRESTLE_CONTAINERD2") == "" {
		t.Skip("containerd 2 takes minutes to build: make test-containerd2")
	}
}

// TestContainerd2 is TestCRI with containerd 2 and a configuration of CNI 1.1.0.
func TestContainerd2(t *testing.T) {
	needContainerd2(t)
	m := runtimes.New(t)
	testCRI(t, m, startContainerd2(t, m), criNetwork11)
}

// TestContainerd2ManyPods is TestCRIManyPods likewise.
func TestContainerd2ManyPods(t *testing.T) {
	needContainerd2(t)
	m := runtimes.New(t)
	cri := startContainerd2(t, m)
	cri.UseNetwork(criNetwork11)
	testCRIManyPods(t, m, cri)
}

// TestContainerd2Status: a network whose addresses are used up makes the node
// not ready, by the verb STATUS, and says why.
func TestContainerd2Status(t *testing.T) {
	needContainerd2(t)
	m := runtimes.New(t)
	cri := startContainerd2(t, m)
	cri.UseNetwork(strings.Replace(criNetwork11, `{"subnet": "10.90.0.0/24"}`,
		`{"subnet": "10.90.0.0/24", "rangeStart": "10.90.0.2", "rangeEnd": "10.90.0.3"}`, 1))
	before := snapshot(m)
	pods := runtimes.ManyPods(2)
	if err := cri.RunPods(pods...); err != nil {
		t.Fatal(err)
	}
	if ready, why := cri.NetworkReady(); ready || !strings.Contains(why, "10.90.0.2") {
		t.Errorf("got ready %v, %q, want a network that is not, and the range that is used up", ready, why)
	}
	if err := cri.RemovePods(pods...); err != nil {
		t.Error(err)
	}
	if ready, why := cri.NetworkReady(); !ready {
		t.Errorf("got a network that is not ready with no pod left: %s", why)
	}
	before.assertRestored(t, "n")
}
