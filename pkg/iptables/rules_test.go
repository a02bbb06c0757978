package iptables

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/google/nftables"
)

// TestHasCopiesNothing: looking for one rule allocates nothing for the others. Otherwise
// looking for the rules of a thousand containers would allocate a million of them.
func TestHasCopiesNothing(t *testing.T) {
	const others, looks = 10_000, 100
	chain := Chain{table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}, chain: "FORWARD"}
	accept := Accept{Source: netip.MustParseAddr("10.1.0.2")}
	rules := Rules{of: chain, found: make([]found, others)}
	rules.found[others-1] = found{&nftables.Rule{}, chain.encode(accept.exprs())}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range looks {
		if !rules.Has(accept) || rules.Has(Accept{Source: netip.MustParseAddr("10.1.0.3")}) || len(rules.these(accept)) != 1 {
			t.Fatal("got a rule that is not there, or none that is")
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / looks; each > others*8 {
		t.Errorf("got %d bytes for each look among %d rules, want none that grow with them", each, others)
	}
}
