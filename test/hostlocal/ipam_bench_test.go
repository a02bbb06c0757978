package hostlocal

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/bench/ipambench"
)

// The benchmark runs; what it measures is for `make bench`.
func TestIPAMBench(t *testing.T) {
	programs, err := hostLocalPrograms()
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	err = ipambench.Run(&table, ipambench.Options{
		Ours: programs["ours"], Reference: programs["reference"], Dirs: []string{t.TempDir()},
		Leases: []int{0, 20}, Rounds: 1, Crowd: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(strings.TrimSpace(table.String()), "\n") + 1; lines != 6 {
		t.Errorf("got %d lines, want a title, a head, two rows and two crowds:\n%s", lines, table.String())
	}
}
