package static

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, append([]cni.Key{
		{Path: "ipam.type", Type: "string", Doc: "`static`"},
		{Path: "ipam.addresses", Doc: "`[{\"address\": \"10.1.0.5/24\", \"gateway\": \"10.1.0.1\"}]`"},
		{Path: "ipam.dns", Doc: "passed on into the result"},
		{Path: "CNI_ARGS IP", Type: "string", Doc: "a list, separated by commas: more addresses"},
		{Path: "CNI_ARGS GATEWAY", Type: "string", Doc: "a list, separated by commas: gateways of the addresses in whose subnets they are"},
		{Path: "args.cni.ips", Doc: "instead of all of these"},
		{Path: "runtimeConfig.ips", Doc: "instead of all others, by the capability `ips`"},
	}, cni.RouteKeys("ipam.routes")...))
}
