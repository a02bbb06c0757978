package main

import (
	"io"
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// TestTables: every variant of every table works. Times are not looked at.
func TestTables(t *testing.T) {
	for _, section := range sections(t) {
		t.Run(section.Title, func(t *testing.T) {
			if err := section.Run(1, io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
}
