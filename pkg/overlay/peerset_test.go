package overlay

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/golden"
)

// TestPeerLayout: whoever changes the table gives it another number.
func TestPeerLayout(t *testing.T) {
	table := peerTable(8473)
	golden.Layout(t, table.Key, table.Text(), "peers 1 8473: cf83875e383734bd")
}

// TestPeerRuleset: what nftables has of the peers, of which one goes.
func TestPeerRuleset(t *testing.T) {
	golden.EnterNetNS(t)
	h, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }() // and the namespace
	peers := []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3"), netip.MustParseAddr("192.0.2.4")}
	for _, wanted := range [][]netip.Addr{peers, peers[:2]} {
		if err := h.applyPeers(State{Port: 8473, Peers: wanted}); err != nil {
			t.Fatal(err)
		}
	}
	golden.File(t, "peers.nftables", golden.Ruleset(t))
	if err := h.applyPeers(State{}); err != nil {
		t.Fatal(err)
	}
	if left := golden.Ruleset(t); strings.Contains(left, tableName) {
		t.Errorf("got\n%s\nwant no table of ours", left)
	}
}
