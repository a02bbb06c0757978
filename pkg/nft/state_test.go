package nft

import (
	"strings"
	"testing"

	"github.com/google/nftables"
)

// TestDiffSaysTheWayOut: what cannot stay as it is is named, with the command that makes it again.
func TestDiffSaysTheWayOut(t *testing.T) {
	t.Parallel()
	want := Table{
		Family: nftables.TableFamilyINet, Name: "trestle",
		Sets: []Set{{Name: "ports", Key: []nftables.SetDatatype{nftables.TypeInetService}}},
		Chains: []Chain{
			{Name: "input", Hook: &Hook{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter}},
			{Name: "twice", Rules: []Rule{{Comment: "one"}}},
		},
	}
	found := state{
		sets:   map[string]*nftables.Set{"ports": {Name: "ports", KeyType: nftables.TypeIPAddr, HasTimeout: true}},
		chains: map[string]*nftables.Chain{"input": {Name: "input"}, "twice": {Name: "twice"}},
		rules:  map[string][]Rule{"twice": {{Comment: "one"}, {Comment: "one"}}},
	}
	got := want.diff(found)
	for _, words := range []string{"set ports of nftables table inet trestle: its types or flags", "chain input of nftables table inet trestle: its hook, priority or type", "chain twice of nftables table inet trestle: its rules are in another order"} {
		var line string
		for _, diff := range got {
			if strings.HasPrefix(diff, words) {
				line = diff
			}
		}
		if !strings.Contains(line, "trestle restore") {
			t.Errorf("got %q, want a line that begins with %q, and the way out", got, words)
		}
	}
}
