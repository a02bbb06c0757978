package nat

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// TestLayout: a table that a host is known to have under a Key is not looked at again,
// so whoever changes what is in one gives it another number.
func TestLayout(t *testing.T) {
	network := NetworkRule{Network: "blue", Masquerade: Masquerade{
		Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64"), Exclude: prefixes("192.168.0.0/16"), SNAT4: netip.MustParseAddr("192.0.2.1"), RandomFully: true,
	}}
	masquerade := masqueradeTable(network)
	masquerade.Key = masqueradeLayout // without what the network asks for
	for _, test := range []struct {
		table        nft.Table
		key, content string
	}{
		{masquerade, "masquerade 2", "f7b72ef749cb06cf"},
		{portsTable(), "ports 2", "cc58fdf1ff0d38a3"},
		{loopbackTable(), "loopback 2", "bbd162e2cad5d8f9"},
	} {
		sum := sha256.Sum256([]byte(test.table.Text()))
		if content := hex.EncodeToString(sum[:8]); test.table.Key != test.key || content != test.content {
			t.Errorf("got a table %q with the content %s, want %q with %s: give a changed table a new number (its constant …Layout), and put both here\n%s",
				test.table.Key, content, test.key, test.content, test.table.Text())
		}
	}
}
