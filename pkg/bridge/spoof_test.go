package bridge

import (
	// veth.go has a flag of its own
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestSpoofLayout: a change of the table needs another name of the layout.
func TestSpoofLayout(t *testing.T) {
	golden.Layout(t, spoofTable().Key, spoofTable().Text(), "macspoofchk 2: 656c83f58b42fe75")
}

// TestSpoofRuleset: the ruleset for a port whose MAC is checked.
func TestSpoofRuleset(t *testing.T) {
	golden.EnterNetNS(t)
	conn := nft.Open(t.TempDir())
	defer conn.Close()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	changes := spoofChanges("veth1", mac, cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"})
	if err := conn.Commit(changes, nil); err != nil {
		t.Fatal(err)
	}
	got := golden.Ruleset(t)
	golden.File(t, "macspoofchk.nftables", got)
	load := exec.Command("nft", "-f", "-") // as a service that saves and restores all rules
	load.Stdin = strings.NewReader("flush ruleset\n" + got)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft -f: %v\n%s", err, out)
	}
	if diffs, err := conn.Diff(changes); err != nil || len(diffs) > 0 {
		t.Errorf("saved and loaded by nft: got %q, %v, want no difference", diffs, err)
	}
}
