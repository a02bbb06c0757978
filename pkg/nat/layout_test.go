package nat

import (
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestLayout: a table that is known under a Key is not compared again, so whoever changes a
// table raises its number.
func TestLayout(t *testing.T) {
	network := masqueradeRule{Network: "blue", Masquerade: Masquerade{
		Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64"), Exclude: prefixes("192.168.0.0/16"), SNAT4: netip.MustParseAddr("192.0.2.1"), RandomFully: true,
	}}
	masquerade, err := masqueradeTable(network).Whole()
	if err != nil {
		t.Fatal(err)
	}
	masquerade.Key = masqueradeLayout // without what the network asks for
	for _, test := range []struct {
		table nft.Table
		want  string
	}{
		{masquerade, "masquerade 3: 9cd583e332b60dbe"},
		{portsTable(), "ports 2: cc58fdf1ff0d38a3"},
		{loopbackTable(), "loopback 3: 63b9e1be6b516b5d"},
	} {
		golden.Layout(t, test.table.Key, test.table.Text(), test.want)
	}
}

// TestTablesOnDemand: an ADD whose tables are known makes none of their sets, chains and rules,
// which takes longer than all else that it does in user space for nftables.
func TestTablesOnDemand(t *testing.T) {
	for _, table := range natTables(masqueradeRule{Network: "blue", Masquerade: Masquerade{Prefixes: prefixes("10.1.0.0/24")}}) {
		whole, err := table.Whole()
		if err != nil {
			t.Fatal(err)
		}
		if len(table.Sets)+len(table.Chains) != 0 || len(whole.Chains) == 0 || whole.Key != table.Key || whole.String() != table.String() {
			t.Errorf("%q has %d chains at once and %d on demand, of %q; want all on demand", table.Key, len(table.Chains), len(whole.Chains), whole.Key)
		}
	}
}
