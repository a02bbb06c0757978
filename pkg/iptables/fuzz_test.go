package iptables

import (
	"strings"
	"testing"
)

// FuzzParseTable: iptables-save prints rules of any program; each line is parsed as a rule, as a
// policy, or ignored.
func FuzzParseTable(f *testing.F) {
	f.Add("*filter\n:FORWARD ACCEPT [0:0]\n:X - [0:0]\n-A FORWARD -m comment --comment \"a -j X\" -j X\nCOMMIT\n")
	f.Add(":\n: -\n-A \n")
	f.Fuzz(func(t *testing.T, text string) {
		table := ParseTable(text)
		if most := strings.Count(text, "\n") + 1; len(table.Rules)+len(table.Policies) > most {
			t.Errorf("got %d rules and %d chains of %d lines", len(table.Rules), len(table.Policies), most)
		}
		for chain := range table.Policies {
			for _, rule := range append(table.In[chain], table.To[chain]...) {
				if !strings.Contains(rule, chain) {
					t.Errorf("%q is none of %s", rule, chain)
				}
			}
		}
	})
}
