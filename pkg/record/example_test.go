package record_test

import (
	"fmt"
	"os"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Two attachments need the same rule, which is removed with the last of them.
func Example() {
	dir, err := os.MkdirTemp("", "record")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store := record.Open(dir) // record.DefaultDir, on a node
	lock, err := store.Lock()
	if err != nil {
		panic(err)
	}
	defer func() { _ = lock.Unlock() }()

	type rules struct{ Bridge string }
	const place = "example"
	c1 := cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"}
	c2 := cni.Owner{Network: "red", ContainerID: "c2", IfName: "eth0"}
	for _, owner := range []cni.Owner{c1, c2} { // before anything is made
		err := record.Write(store, place, record.Record[rules]{Owner: owner, Shares: []string{"br0"}, Value: rules{"br0"}})
		if err != nil {
			panic(err)
		}
	}
	for _, owner := range []cni.Owner{c1, c2} { // at DEL
		r, there, err := record.Read[rules](store, place, owner)
		if err != nil || !there {
			panic(err)
		}
		others, err := store.Others(place, "br0", owner)
		fmt.Println(owner, r.Value.Bridge, others, err)
		if err := store.Remove(place, owner, r.Shares); err != nil { // after everything is gone
			panic(err)
		}
	}
	// Output:
	// blue/c1/eth0 br0 true <nil>
	// red/c2/eth0 br0 false <nil>
}
