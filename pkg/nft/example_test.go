package nft

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A caller describes what it wants as plain data, and Commit makes what is missing, in one
// transaction. The kernel is a model here, which notes in words what it is sent.
func ExampleConn_Commit() {
	dir, err := os.MkdirTemp("", "nft")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	kernel, conn := modelIn(dir) // Open(dir), for the kernel itself

	blocked := Table{
		Family: nftables.TableFamilyINet, Name: "trestle", Key: "example 1",
		Sets: []Set{{Name: "blocked", Key: []nftables.SetDatatype{nftables.TypeIFName}}},
		Chains: []Chain{{
			Name: "forward",
			Hook: &Hook{nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter},
			Rules: []Rule{{Comment: "example", Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Lookup{SourceRegister: 1, SetName: "blocked"},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}}},
		}},
	}
	element := func(link, owner string) Element {
		key := make([]byte, 16)
		copy(key, link)
		return Element{Family: blocked.Family, Table: blocked.Name, Set: "blocked", Key: key, Owner: owner, What: link}
	}
	alive := func(owner string) (bool, error) { return owner == "blue/c1/eth0", nil }
	add := func(e Element) error {
		return conn.Commit(Changes{Tables: []Table{blocked}, Create: []Element{e}}, alive)
	}

	fmt.Println(add(element("v1", "blue/c1/eth0")))
	err = add(element("v1", "red/c2/eth0"))
	var taken *TakenError
	fmt.Println(errors.As(err, &taken), taken.Holder)
	fmt.Println(kernel.sent[0])
	// Output:
	// <nil>
	// true blue/c1/eth0
	// table, set, chain, rule, create blocked 76310000000000000000000000000000 blue/c1/eth0
}
