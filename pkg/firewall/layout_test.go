package firewall

import (
	"path/filepath"
	"testing"

	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestLayout: a change of a table needs another name of the layout.
func TestLayout(t *testing.T) {
	for _, test := range []struct {
		table nft.Table
		want  string
	}{
		{inetTable(), "firewall, packets 1: f353cd77fe8a3eb8"},
		{bridgeTable(), "firewall, frames 1: 2822c35b3d74ba5b"},
		{publishedTable(), "firewall, published 1: 26b952acec540d5f"},
		{internalTable(), "firewall, internal 1: 353319047192438a"},
	} {
		golden.Layout(t, test.table.Key, test.table.Text(), test.want)
	}
}

// TestRulesets: the ruleset for a container under each policy.
func TestRulesets(t *testing.T) {
	for name, c := range map[string]Config{
		"same-bridge": {Policy: policySameBridge}, "isolated": {Policy: policyIsolated}, "published": {Policy: policyPublished},
		"internal": {Policy: policyOpen, Internal: true},
	} {
		t.Run(name, func(t *testing.T) {
			golden.EnterNetNS(t)
			dir := t.TempDir()
			conn := nft.Open(filepath.Join(dir, "nft"))
			defer conn.Close()
			backend := nftBackend{conn, record.Open(dir)}
			r := rules(t, c.Policy)
			r.Internal = c.Internal
			entries := inPlace(r.entries(owner), nftPlace)
			if err := backend.add(entries, func() ([]entry, error) { return nil, nil }); err != nil {
				t.Fatal(err)
			}
			golden.File(t, name+".nftables", golden.Ruleset(t))
			if missing, err := backend.diff(entries); err != nil || len(missing) > 0 {
				t.Errorf("got %q, %v missing, want nothing", missing, err)
			}
			if err := backend.remove(entries); err != nil {
				t.Fatal(err)
			}
			if left, err := backend.list(); err != nil || len(left) > 0 {
				t.Errorf("got %v, %v left, want nothing", left, err)
			}
		})
	}
}
