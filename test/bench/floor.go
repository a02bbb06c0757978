package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// execFloor is what starting a program takes, before it does anything.
func execFloor(t host.T) measure.Section {
	return measure.Section{Title: "start of a process", Operations: []string{"exec"}, Setup: func() []measure.Variant {
		h, empty := host.New(t), buildEmpty(t)
		return []measure.Variant{
			{Name: "empty Go program", Round: starting(h, empty)},
			{Name: "trestle bridge, VERSION", Round: starting(h, filepath.Join(h.Dirs().Trestle, "bridge"))},
			{Name: "reference bridge, VERSION", Round: starting(h, filepath.Join(h.Dirs().Reference, "bridge"))},
		}
	}}
}

func buildEmpty(t host.T) string {
	empty := filepath.Join(t.TempDir(), "empty")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", empty, "github.com/trestle-cni/trestle/test/bench/empty")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the empty program: %v\n%s", err, out)
	}
	return empty
}

func starting(h *host.Host, program string) func() ([]time.Duration, error) {
	watch := &stopwatch{}
	return func() ([]time.Duration, error) {
		took, err := watch.time(func() error {
			return h.Do(func() error {
				_, err := watch.ExecPlugin(context.Background(), program, []byte(`{"cniVersion": "1.0.0"}`), []string{"CNI_COMMAND=VERSION"})
				return err
			})
		})
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", program, err)
		}
		return []time.Duration{took}, nil
	}
}
