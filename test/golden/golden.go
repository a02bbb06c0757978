// Package golden compares what tests find with what stands in their files: rulesets in
// the syntax of nft(8), tables that hosts know by a name, lists. `go test -update` writes
// the files again; read their diff.
package golden

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
)

// Update says whether files are to be written rather than compared: -update.
var Update = flag.Bool("update", false, "rewrite the golden files")

// File compares with the file of that name in testdata.
func File(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *Update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got (-update rewrites it)\n%s", path, diff)
	}
}

// Layout compares a table: one that a host is known to have under a Key is not looked at again, so
// whoever changes what is in it gives it another one.
// want is the Key and what the text comes to, "ports 2: cc58fdf1ff0d38a3".
func Layout(t *testing.T, key, text, want string) {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	if got := key + ": " + hex.EncodeToString(sum[:8]); got != want {
		t.Errorf("got the table %q, want %q: give a changed table a new number (its Key), and put both here\n%s", got, want, text)
	}
}

// EnterNetNS puts the test into a network namespace of its own: its thread is never
// unlocked, so that it ends, and the namespace with it, when the test does.
func EnterNetNS(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (the test runs as root): %v", err)
	}
}

// OwnXtablesLock gives the test's programs of iptables-legacy a lock of their own. The usual
// one is a file of the machine's, and fails a program that does not wait, whichever
// namespace the other one is in: another package's tests have such programs, too.
func OwnXtablesLock(t *testing.T) {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "xtables.lock"))
}

// Ruleset is what the namespace has of nftables.
func Ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list ruleset: %v\n%s", err, out)
	}
	return string(out)
}
