package ipam_test

import (
	"fmt"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/ipam"
)

// All addresses of a subnet may be leased except network address, broadcast address and
// gateway. An error names the field, and has a code.
func ExampleParseConfig() {
	parse := func(ipamKeys string) {
		r := &cni.Request{
			Command: cni.Add, Version: "1.1.0", Owner: cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"},
			Stdin: []byte(`{"ipam": {"type": "host-local", ` + ipamKeys + `}}`),
		}
		config, err := ipam.ParseConfig(r)
		if err != nil {
			fmt.Println(cni.CodeOf(err), err)
			return
		}
		for _, set := range config.Sets {
			fmt.Println(set, "gateway", set[0].Gateway, "leases", set[0].Size())
		}
	}
	parse(`"ranges": [[{"subnet": "10.1.0.0/29"}], [{"subnet": "fd00::/126", "gateway": "fd00::2"}]]`)
	parse(`"ranges": [[{"subnet": "10.2.0.0/24", "gateway": "10.1.0.1"}]]`)
	// Output:
	// 10.1.0.1-10.1.0.6 gateway 10.1.0.1 leases 5
	// fd00::1-fd00::3 gateway fd00::2 leases 2
	// 7 ipam.ranges[0][0].gateway: 10.1.0.1 is outside 10.2.0.0/24; name an address of the subnet, or 0.0.0.0 or :: for none
}
