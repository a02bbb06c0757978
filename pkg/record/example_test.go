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
	must(err)
	defer func() { _ = os.RemoveAll(dir) }()
	store := record.Open(dir) // record.DefaultDir, on a node
	type rules struct{ Bridge string }
	const place = "example"
	c1 := cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"}
	c2 := cni.Owner{Network: "red", ContainerID: "c2", IfName: "eth0"}
	for _, owner := range []cni.Owner{c1, c2} { // before anything is made
		must(store.Locked(func() error {
			return record.Write(store, place, record.Record[rules]{Owner: owner, Shares: []string{"br0"}, Value: rules{"br0"}})
		}))
	}
	for _, owner := range []cni.Owner{c1, c2} { // at DEL
		must(store.Locked(func() error {
			r, _, err := record.Read[rules](store, place, owner)
			if err != nil {
				return err
			}
			others, err := store.Others(place, "br0", owner)
			fmt.Println(owner, r.Value.Bridge, others, err)
			return store.Remove(place, owner, r.Shares) // after everything is gone
		}))
	}
	// Output:
	// blue/c1/eth0 br0 true <nil>
	// red/c2/eth0 br0 false <nil>
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
