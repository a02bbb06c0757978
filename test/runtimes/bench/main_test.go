package main

import (
	"io"
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/runtimes"
)

func TestMain(m *testing.M) { os.Exit(runtimes.Main(m)) }

// TestTable: each variant works. Times are not looked at.
func TestTable(t *testing.T) {
	runtimes.Need(t, "containerd", "runc")
	if err := section(t, 3).Run(1, io.Discard); err != nil {
		t.Error(err)
	}
}
