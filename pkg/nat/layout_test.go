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
	masquerade := masqueradeTable(network)
	masquerade.Key = masqueradeLayout // without what the network asks for
	for _, test := range []struct {
		table nft.Table
		want  string
	}{
		{masquerade, "masquerade 3: 9cd583e332b60dbe"},
		{portsTable(), "ports 2: cc58fdf1ff0d38a3"},
		{loopbackTable(), "loopback 2: bbd162e2cad5d8f9"},
	} {
		golden.Layout(t, test.table.Key, test.table.Text(), test.want)
	}
}
