package overlay

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/golden"
)

// TestPeerLayout: whoever changes the table gives it another number.
func TestPeerLayout(t *testing.T) {
	table := peerTable(8473)
	golden.Layout(t, table.Key, table.Text(), "peers 1 8473: cf83875e383734bd")
}

// TestPeerRuleset: what nftables has of the peers.
func TestPeerRuleset(t *testing.T) {
	golden.EnterNetNS(t)
	h, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }() // and the namespace
	want := State{Port: 8473, Peers: []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}}
	if err := h.applyPeers(want); err != nil {
		t.Fatal(err)
	}
	golden.File(t, "peers.nftables", golden.Ruleset(t))
	var have Found
	if err := h.observePeers(&have, want); err != nil || have.Port != want.Port || !slices.Equal(have.Peers, want.Peers) {
		t.Errorf("got port %d, peers %v, %v, want %d, %v", have.Port, have.Peers, err, want.Port, want.Peers)
	}
	if err := h.applyPeers(State{}); err != nil {
		t.Fatal(err)
	}
	if left := golden.Ruleset(t); strings.Contains(left, tableName) {
		t.Errorf("got\n%s\nwant no table of ours", left)
	}
}
