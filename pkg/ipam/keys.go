package ipam

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are those of ParseConfig.
func Keys() []cni.Key {
	return cni.KeysOf(wireConfig{}, append([]cni.Key{
		{Path: "ipam.type", Type: "string", Doc: "`host-local`"},
		{Path: "ipam.ranges", Doc: "a list of range sets; the container gets one address of each. A set is a list of ranges of one family, which have the keys `subnet` to `exclude`"},
		{Path: "ipam.subnet", Doc: "a prefix, like `10.1.0.0/24`. Directly in `ipam` (rather than in `ranges`) this and the following four keys are one more set, which comes before `ranges`"},
		{Path: "ipam.rangeStart", Default: "first usable address", Doc: "the first address that is leased"},
		{Path: "ipam.rangeEnd", Default: "last usable address", Doc: "the last one"},
		{Path: "ipam.gateway", Default: "first usable address", Doc: "the gateway, an address of the subnet, or of IPv6 a link-local one; it is never leased. `0.0.0.0` or `::` is none: then the first address is leased, too"},
		{Path: "ipam.exclude", Ours: true, Doc: "addresses or prefixes that are never leased, whichever range they are in"},
		{Path: "ipam.resolvConf", Doc: "a file in the format of resolv.conf(5), for the result's `dns`"},
		{Path: "ipam.dataDir", Default: "`" + DefaultDataDir + "`", Doc: "where leases are; an absolute path. Several machines may share it (a cluster file system with flock): none takes another's leases for dead"},
		{Path: "ipam.lockTimeout", Default: "`" + defaultWait.String() + "`", Ours: true, Doc: "how long to wait for another process that holds the lock: seconds, or text like `\"500ms\"`"},
		{Path: "ipam.statusWhenFull", Default: "`ready`", Ours: true, Doc: "what STATUS says of a full pool. `ready`: success; the next ADD fails and says why. `unavailable`: code 50 with the numbers, and the runtime counts the network as down. In Kubernetes that makes the node NotReady: nothing more is scheduled there, and after some minutes **its running pods are evicted**. Choose it only where something other than Kubernetes acts on STATUS"},
		{Path: "runtimeConfig.ips", Doc: "addresses asked for, by the capability `ips`; each must lie in a set"},
		{Path: "args.cni.ips", Doc: "more of them"},
		{Path: "CNI_ARGS IP", Type: "string", Doc: "more of them, separated by commas"},
		{Path: "runtimeConfig.ipRanges", Doc: "more sets, before the others, by the capability `ipRanges`"},
	}, cni.RouteKeys("ipam.routes")...))
}
