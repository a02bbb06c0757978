package main

import (
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/pkg/overlay"
)

// TestSameState: a peer with another published endpoint is another state, so that the change is
// not counted as a repair.
func TestSameState(t *testing.T) {
	at := func(endpoint string) overlay.State {
		return overlay.State{WireGuard: &overlay.WireGuard{
			PublicKey: "a", Port: 8473, MTU: 1440,
			Peers: []overlay.WireGuardPeer{{Key: "b", Endpoint: netip.MustParseAddrPort(endpoint)}},
		}}
	}
	if !sameState(at("192.0.2.1:8473"), at("192.0.2.1:8473")) {
		t.Error("a state is not the same as itself")
	}
	if sameState(at("192.0.2.1:8473"), at("192.0.2.2:8473")) {
		t.Error("a state is the same as one in which a peer is elsewhere")
	}
}
