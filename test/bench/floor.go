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

// execFloor is what starting a program takes, before it does anything, and the
// verb that runtimes poll.
func execFloor(t host.T) measure.Section {
	return measure.Section{Title: "start of a process", Operations: []string{"exec"}, Setup: func() []measure.Variant {
		h, empty := host.New(t), build(t, "empty")
		return []measure.Variant{
			{Name: "empty Go program", Round: running(h, empty, "VERSION")},
			{Name: "trestle bridge, VERSION", Round: running(h, filepath.Join(h.Dirs().Trestle, "bridge"), "VERSION")},
			{Name: "reference bridge, VERSION", Round: running(h, filepath.Join(h.Dirs().Reference, "bridge"), "VERSION")},
			{Name: "trestle bridge, STATUS", Round: running(h, filepath.Join(h.Dirs().Trestle, "bridge"), "STATUS")},
			{Name: "reference bridge, STATUS", Round: running(h, filepath.Join(h.Dirs().Reference, "bridge"), "STATUS")},
		}
	}}
}

// build builds one of the programs below this one.
func build(t host.T, name string) string {
	program := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/trestle-cni/trestle/test/bench/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program %s: %v\n%s", name, err, out)
	}
	return program
}

// running runs a verb that needs no container.
func running(h *host.Host, program, verb string) func() ([]time.Duration, error) {
	const config = `{"cniVersion": "1.1.0", "name": "n", "type": "bridge", "ipMasq": true, "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"}}`
	env := []string{"CNI_COMMAND=" + verb, "CNI_PATH=" + filepath.Dir(program)}
	watch := &stopwatch{}
	return func() ([]time.Duration, error) {
		took, err := watch.time(func() error {
			return h.Do(func() error {
				_, err := watch.ExecPlugin(context.Background(), program, []byte(config), env)
				return err
			})
		})
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", verb, program, err)
		}
		return []time.Duration{took}, nil
	}
}
