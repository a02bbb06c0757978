// Command ipam measures our host-local beside the reference's. It builds both.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/trestle-cni/trestle/test/bench/ipambench"
)

func main() {
	rounds := flag.Int("rounds", 21, "how often each is measured")
	crowd := flag.Int("crowd", 64, "how many callers come at once; 0 leaves that out")
	flag.Parse()
	if err := run(*rounds, *crowd); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(rounds, crowd int) error {
	bin, err := os.MkdirTemp("", "trestle-ipam-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	o := ipambench.Options{
		Ours:      filepath.Join(bin, "ours", "host-local"),
		Reference: filepath.Join(bin, "reference", "host-local"),
		Dirs:      []string{os.TempDir(), "/dev/shm"},
		Leases:    []int{0, 1000, 10000, 60000},
		Rounds:    rounds,
		Crowd:     crowd,
	}
	for program, source := range map[string]string{
		o.Ours:      "github.com/trestle-cni/trestle/plugins",
		o.Reference: "github.com/containernetworking/plugins/plugins/ipam/host-local",
	} {
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", source, err, out)
		}
	}
	return ipambench.Run(os.Stdout, o)
}
