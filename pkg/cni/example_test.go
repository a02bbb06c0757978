package cni_test

import (
	"errors"
	"fmt"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Each step registers its inverse at once. If a later step fails, OnError runs the inverses,
// last first, and joins their errors.
func ExampleUndo() {
	add := func(address string) (err error) {
		var undo cni.Undo
		defer undo.OnError(&err)

		fmt.Println("make veth1")
		undo.Push("delete veth1", func() error {
			fmt.Println("delete veth1")
			return nil
		})
		fmt.Println("add an address")
		undo.Push("take the address back", func() error {
			return errors.New("no such device")
		})
		if address == "" {
			return cni.ConfigErrorf("address: missing; write one like 10.1.0.2/24")
		}
		return nil
	}
	fmt.Println(add("10.1.0.2/24"))
	err := add("")
	fmt.Println(cni.CodeOf(err), err)
	// Output:
	// make veth1
	// add an address
	// <nil>
	// make veth1
	// add an address
	// delete veth1
	// 7 address: missing; write one like 10.1.0.2/24
	// undo: take the address back: no such device
}

func ExampleOwner() {
	o := cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"}
	fmt.Println(o)
	same, ok := cni.ParseOwner("blue/c1/eth0")
	fmt.Println(same == o, ok, len(o.Hash(10)))
	// Output:
	// blue/c1/eth0
	// true true 10
}
