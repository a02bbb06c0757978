package static

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are those of ParseConfig.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, append([]cni.Key{
		{Path: "ipam.type", Type: "string", Doc: "`static`"},
		{Path: "ipam.addresses", Doc: "`[{\"address\": \"10.1.0.5/24\", \"gateway\": \"10.1.0.1\"}]`: each with the length of its prefix; `gateway` may be left out"},
		{Path: "ipam.dns", Doc: "passed on into the result"},
		{Path: "CNI_ARGS IP", Type: "string", Doc: "more addresses, each with its prefix length, separated by commas"},
		{Path: "CNI_ARGS GATEWAY", Type: "string", Doc: "gateways, separated by commas: each for the addresses in whose subnet it is"},
		{Path: "args.cni.ips", Doc: "instead of all of these"},
		{Path: "runtimeConfig.ips", Doc: "instead of all others, by the capability `ips`"},
	}, cni.RouteKeys("ipam.routes")...))
}
