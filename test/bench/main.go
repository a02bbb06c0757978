// Command bench compares Trestle with the reference plugins on this machine: ADD
// and DEL as a runtime sees them, each variant on a throw-away host of its own.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

func main() { os.Exit(host.Program(bench)) }

// sections are the tables, in order. Other parts add theirs here.
func sections(t host.T) []measure.Section {
	return slices.Concat(
		[]measure.Section{execFloor(t)},
		targets(t),
		attachments(t),
	)
}

func bench(t host.T) {
	rounds := flag.Int("rounds", 30, "how often each variant is timed")
	only := flag.String("only", "", "run only the tables whose title has this in it")
	flag.Parse()
	if *rounds < 1 {
		t.Fatalf("-rounds: %d is not a number of rounds; it is 1 or more", *rounds)
	}
	fmt.Println(machine())
	fmt.Printf("median of %d rounds; ratio: how many times as long as in the first line of the table\n\n", *rounds)
	for _, s := range sections(t) {
		if !strings.Contains(s.Title, *only) {
			continue
		}
		if err := s.Run(*rounds, os.Stdout); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// machine says what the numbers were measured on.
func machine() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		release = []byte("unknown")
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("unknown")
	}
	return fmt.Sprintf("Linux %s, %d CPUs, %s; load average %s; leases on tmpfs",
		strings.TrimSpace(string(release)), runtime.NumCPU(), runtime.Version(), strings.TrimSpace(string(load)))
}
