package nft

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCompare: a dump may have an element twice, if the kernel grows the set's hash table
// meanwhile.
func TestCompare(t *testing.T) {
	t.Parallel()
	element := func(key, owner string) Element { return Element{Table: "t", Set: "s", Key: []byte(key), Owner: owner} }
	a, b, c, d := element("a", "n/1"), element("b", "n/2"), element("c", "n/3"), element("d", "n/4")
	another := element("b", "n/9")
	for _, test := range []struct {
		name                          string
		wanted, found, lacking, spare []Element
	}{
		{"as wanted", []Element{a, b}, []Element{b, a}, nil, nil},
		{"missing, another's, too much", []Element{a, b, c}, []Element{another, c, d}, []Element{a, b}, []Element{d}},
		{"listed twice", []Element{a, b}, []Element{a, b, a}, nil, nil},
		{"too much, and listed twice", []Element{a}, []Element{d, a, d}, nil, []Element{d}},
	} {
		lacking, spare := Compare(test.wanted, test.found)
		if diff := cmp.Diff([][]Element{test.lacking, test.spare}, [][]Element{lacking, spare}); diff != "" {
			t.Errorf("%s: lacking and spare, -want +got:\n%s", test.name, diff)
		}
	}
}
