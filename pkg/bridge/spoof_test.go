package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	goflag "flag" // veth.go has a flag of its own
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
)

var update = goflag.Bool("update", false, "write the golden rulesets anew")

// TestSpoofLayout: a table that a host is known to have under a Key is not looked at
// again, so whoever changes what is in it gives it another number.
func TestSpoofLayout(t *testing.T) {
	const key, content = "macspoofchk 2", "656c83f58b42fe75"
	table := SpoofTable()
	sum := sha256.Sum256([]byte(table.Text()))
	if got := hex.EncodeToString(sum[:8]); table.Key != key || got != content {
		t.Errorf("got the table %q with the content %s, want %q with %s: give a changed table a new number (its Key), and put both here\n%s", table.Key, got, key, content, table.Text())
	}
}

// TestSpoofRuleset: what nftables has of a port whose MAC is checked.
func TestSpoofRuleset(t *testing.T) {
	// its thread is never unlocked, so that it ends, and the namespace with it
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (the test runs as root): %v", err)
	}
	conn := nft.Open(t.TempDir())
	defer conn.Close()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	changes := SpoofChanges("veth1", mac, cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"})
	if err := conn.Commit(changes, nil); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list ruleset: %v\n%s", err, got)
	}
	const path = "testdata/macspoofchk.nftables"
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
	load := exec.Command("nft", "-f", "-") // as whoever saves and restores all rules
	load.Stdin = strings.NewReader("flush ruleset\n" + string(got))
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft -f: %v\n%s", err, out)
	}
	if diffs, err := conn.Differences(changes); err != nil || len(diffs) > 0 {
		t.Errorf("saved and loaded by nft: got %q, %v, want no difference", diffs, err)
	}
}
