package nat

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

var update = flag.Bool("update", false, "write the golden rulesets anew")

// enterHost puts the test into a network namespace of its own: its thread is
// never unlocked, so that it ends, and the namespace with it, when the test does.
func enterHost(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (the test runs as root): %v", err)
	}
}

// openHost gives a NAT state of the test's own, in a fresh namespace.
func openHost(t *testing.T, backend Backend) *Host {
	t.Helper()
	enterHost(t)
	h := Open(t.TempDir(), backend)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func owner(network, container string) cni.Owner {
	return cni.Owner{Network: network, ContainerID: container, IfName: "eth0"}
}

func prefixes(list ...string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, s := range list {
		parsed = append(parsed, netip.MustParsePrefix(s))
	}
	return parsed
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// ruleset is what the namespace has, as nft prints it.
func ruleset(t *testing.T) string {
	t.Helper()
	return run(t, "nft", "-s", "list", "ruleset")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got (-update writes it anew)\n%s", path, diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// saved is what the namespace has of iptables, without counters and dates.
func saved(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"iptables-save", "ip6tables-save"} {
		for _, table := range []string{"nat", "raw"} {
			for line := range strings.Lines(run(t, name, "-t", table)) {
				if strings.HasPrefix(line, ":") {
					line, _, _ = strings.Cut(line, " [")
				}
				if !strings.HasPrefix(line, "#") {
					all.WriteString(strings.TrimSpace(line) + "\n")
				}
			}
		}
	}
	return all.String()
}

// state is what the namespace has of the backend.
func state(t *testing.T, backend Backend) string {
	t.Helper()
	if backend == IPTables {
		return saved(t)
	}
	return ruleset(t)
}

// nothingLeft checks that neither kernel nor records hold anything of ours.
func nothingLeft(t *testing.T, h *Host) {
	t.Helper()
	if got := ruleset(t); regexp.MustCompile(`(?i)trestle`).MatchString(got) {
		t.Errorf("ruleset: got\n%s\nwant nothing of ours", got)
	}
	entries, err := filesIn(h.dir)
	must(t, err)
	for _, entry := range entries {
		if filepath.Base(entry) != "lock" {
			t.Errorf("records: %s is left", entry)
		}
	}
}

// both runs a test with each backend.
func both(t *testing.T, name string, test func(*testing.T, Backend)) {
	t.Helper()
	for _, backend := range []Backend{NFTables, IPTables} {
		t.Run(strings.Trim(name+"/"+string(backend), "/"), func(t *testing.T) { test(t, backend) })
	}
}

// flush does what a careless administrator does.
func flush(t *testing.T) {
	t.Helper()
	run(t, "nft", "flush", "ruleset") // iptables' too, where it is the nft variant
}
