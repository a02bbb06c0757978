package firewall

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestTableMadeMeanwhile: somebody makes the table, and the admin's chain, while an ADD
// waits for the lock. They stay, and ours is asked once.
func TestTableMadeMeanwhile(t *testing.T) {
	golden.EnterNetNS(t)
	h := Open(record.Open(t.TempDir()))
	defer h.Close()
	result, err := cni.ParseResult("result", []byte(`{"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "x", "mac": ""}],
		"ips": [{"address": "10.1.0.5/24", "interface": 1}]}`), "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := h.Plan(Config{Policy: policyOpen, AdminChain: defaultAdminChain}, result)
	if err != nil {
		t.Fatal(err)
	}
	script := `iptables-nft -N CNI-FORWARD; iptables-nft -N CNI-ADMIN
		iptables-nft -A CNI-ADMIN -s 192.0.2.1 -j DROP`
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var undo cni.Undo
	if err := h.Add(owner, wanted, &undo); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("iptables-nft", "-S").CombinedOutput()
	if got := string(out); err != nil || !strings.Contains(got, "-A CNI-ADMIN -s 192.0.2.1/32 -j DROP") || strings.Count(got, "-j CNI-FORWARD") != 1 {
		t.Errorf("got %v, %s, want the admin's rule kept, and one jump", err, got)
	}
}
