package nat

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestReferenceChainUnknown: what the kernel does not answer is no word that a chain of the
// reference plugins is not there.
func TestReferenceChainUnknown(t *testing.T) {
	golden.EnterNetNS(t)
	c := nft.Open(t.TempDir())
	t.Cleanup(c.Close)
	table := &nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4}
	library, err := c.Library()
	if err != nil {
		t.Fatal(err)
	}
	library.AddTable(table)
	library.AddChain(&nftables.Chain{Name: "POSTROUTING", Table: table})
	if err := c.Apply(); err != nil {
		t.Fatal(err)
	}
	tooLong := strings.Repeat("c", 300) // NFT_NAME_MAXLEN is 256
	every := func(*nftables.Rule) bool { return true }
	for _, test := range []struct {
		name string
		part nftPart
		want error
	}{
		{"none", nftPart{table, "PREROUTING", every, ""}, nil},
		{"no chain of its own", nftPart{table, "POSTROUTING", every, "CNI-none"}, nil},
		{"no table", nftPart{&nftables.Table{Name: "none", Family: nftables.TableFamilyIPv4}, "POSTROUTING", every, ""}, nil},
		{"refused", nftPart{table, tooLong, every, ""}, unix.ERANGE},
		{"the second is refused", nftPart{table, "POSTROUTING", every, tooLong}, unix.ERANGE},
	} {
		err := c.Edit(func(library *nftables.Conn) error { return test.part.delete(c, library) })
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}
