package portmap

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestPortmapMarkChainMissing: the chain that somebody else's program is to mark packets by is not
// there. ADD says which key names it; restore says whose ports wait for it, and restores those of
// everybody else.
func TestPortmapMarkChainMissing(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	const makeChain = "iptables -t nat -N MARK-THEM; ip6tables -t nat -N MARK-THEM"
	marked := func(verb string) host.Call {
		return n.mapped(verb, n.c1, `"backend": "iptables", "externalSetMarkChain": "MARK-THEM"`, natMapping("tcp", "", 8080, 80))
	}
	other := func(verb string) host.Call {
		return n.mapped(verb, n.neighbour, `"backend": "iptables"`, natMapping("tcp", "", 8081, 80))
	}
	err := n.Exec(marked("ADD")).Err()
	if host.CodeOf(err) != 7 || !strings.Contains(err.Error(), `externalSetMarkChain: "MARK-THEM"`) {
		t.Errorf("ADD: got %v, want code 7 and the key", err)
	}
	if got := n.ofC1(); got != "" {
		t.Errorf("ADD left\n%s", got)
	}
	n.MustRun("sh", "-c", makeChain)
	n.Must(marked("ADD"), marked("CHECK"), other("ADD"))
	n.neighbour.Serve("tcp", ":80")

	n.MustRun("sh", "-c", "iptables -t nat -F; iptables -t nat -X")
	restored, err := n.Run(host.Command{Args: []string{filepath.Join(n.Dirs().Trestle, "trestle"), "restore"}})
	if err != nil || restored.Code == 0 || !strings.Contains(restored.Stderr, "externalSetMarkChain") {
		t.Errorf("restore: got %+v, %v, want it to say what is missing", restored, err)
	}
	if reply, err := n.Outside.Request("tcp", host.HostIPv4.Addr().String()+":8081"); err != nil || reply.Server != n.neighbour.ID {
		t.Errorf("restored: got %v, %v, want %s", reply, err, n.neighbour.ID)
	}
	n.MustRun("sh", "-c", makeChain+"; true")
	n.Restore()
	n.Must(marked("CHECK"), other("CHECK"))
	n.MustRun("sh", "-c", "iptables -t nat -F; iptables -t nat -X")
	n.Must(marked("DEL"), other("DEL"))
	if got := n.ofC1(); got != "" {
		t.Errorf("DEL left\n%s", got)
	}
}
