package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

var update = flag.Bool("update", false, "write the golden rulesets anew")

// TestLayout: a table that a host is known to have under a Key is not looked at again,
// so whoever changes what is in one gives it another number.
func TestLayout(t *testing.T) {
	for _, test := range []struct {
		table        nft.Table
		key, content string
	}{
		{inetTable(), "firewall, packets 1", "f353cd77fe8a3eb8"},
		{bridgeTable(), "firewall, frames 1", "2822c35b3d74ba5b"},
		{publishedTable(), "firewall, published 1", "26b952acec540d5f"},
		{internalTable(), "firewall, internal 1", "353319047192438a"},
	} {
		sum := sha256.Sum256([]byte(test.table.Text()))
		if content := hex.EncodeToString(sum[:8]); test.table.Key != test.key || content != test.content {
			t.Errorf("got a table %q with the content %s, want %q with %s: give a changed table a new number (its Key), and put both here\n%s",
				test.table.Key, content, test.key, test.content, test.table.Text())
		}
	}
}

// TestRulesets: what nftables has of a container under each policy.
func TestRulesets(t *testing.T) {
	for name, c := range map[string]Config{
		"same-bridge": {Policy: SameBridge}, "isolated": {Policy: Isolated}, "published": {Policy: Published},
		"internal": {Policy: Open, Internal: true},
	} {
		t.Run(name, func(t *testing.T) {
			// its thread is never unlocked, so that it ends, and the namespace with it
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatalf("make a network namespace (the test runs as root): %v", err)
			}
			dir := t.TempDir()
			conn := nft.Open(filepath.Join(dir, "nft"))
			defer conn.Close()
			backend := nftBackend{conn, record.Open(dir)}
			r := rules(t, c.Policy)
			r.Internal = c.Internal
			entries := inPlace(r.entries(owner), nftPlace)
			if err := backend.add(entries, func() ([]entry, error) { return nil, nil }); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".nftables")
			if missing, err := backend.missing(entries); err != nil || len(missing) > 0 {
				t.Errorf("got %q, %v missing, want nothing", missing, err)
			}
			if err := backend.remove(entries); err != nil {
				t.Fatal(err)
			}
			if left, err := backend.list(); err != nil || len(left) > 0 {
				t.Errorf("got %v, %v left, want nothing", left, err)
			}
		})
	}
}

// golden compares with what the namespace has, as nft prints it.
func golden(t *testing.T, name string) {
	t.Helper()
	got, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list ruleset: %v\n%s", err, got)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: -want +got (-update writes it anew)\n%s", path, diff)
	}
}
