package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

// commands are trestle's, on a host that has so many attachments by a chain of plugins.
func commands(t host.T, n network, attachments int) []measure.Variant {
	h := host.New(t)
	populate(t, h, n, attachments)
	h.InstallNetwork("10-bench.conflist", n.list())
	var variants []measure.Variant
	for _, command := range []string{
		"ls", "ports", "ip ls", "ip map bench", "ip verify", "network ls", "network inspect bench", "topology", "report /tmp/report.html",
		"status", "metrics", "doctor", "validate", "explain c5 --to 192.0.2.1:80", "restore", "gc",
	} {
		variants = append(variants, measure.Variant{Name: "trestle " + command, Round: cpuOfCommand(h, strings.Fields(command))})
	}
	return variants
}

// cpuOfCommand is a round of a command of trestle's: its CPU, not how long it takes. What it
// finds wrong with the host is no failure of its.
func cpuOfCommand(h *host.Host, args []string) func() ([]time.Duration, error) {
	const found = 3 // the exit status
	return func() ([]time.Duration, error) {
		var took time.Duration
		err := h.Do(func() error {
			cmd := exec.Command(h.Dirs().Trestle+"/trestle", args...)
			cmd.Env = append(os.Environ(), "CNI_PATH="+h.Dirs().Trestle)
			output, err := cmd.CombinedOutput()
			if err != nil && cmd.ProcessState.ExitCode() != found {
				return fmt.Errorf("%w: %s", err, output)
			}
			took = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			return nil
		})
		return []time.Duration{took}, err
	}
}
