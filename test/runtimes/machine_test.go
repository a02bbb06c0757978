package runtimes_test

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/runtimes"
)

// TestMachineCgroups: a runtime on the machine sees its own groups as the roots.
func TestMachineCgroups(t *testing.T) {
	m := runtimes.New(t)
	output, err := m.RunRuntime(host.Command{Args: []string{"cat", "/proc/self/cgroup"}})
	if err != nil {
		t.Fatal(err)
	}
	if output.Code != 0 || output.Stdout == "" {
		t.Fatalf("got exit status %d: %s%s", output.Code, output.Stdout, output.Stderr)
	}
	for line := range strings.Lines(output.Stdout) {
		if !strings.HasSuffix(line, ":/\n") && !strings.HasSuffix(line, ":/init\n") {
			t.Errorf("got %q, want it at the root", line)
		}
	}
}
