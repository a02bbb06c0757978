package ipam

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads.
func Keys() []cni.Key {
	return cni.KeysOf(wireConfig{}, append([]cni.Key{
		{Path: "ipam.type", Type: "string", Doc: "`host-local`"},
		{Path: "ipam.ranges", Doc: "a list of range sets; the container gets one address of each. A set is a list of ranges of one family, which have the keys `subnet` to `exclude`"},
		{Path: "ipam.subnet", Doc: "a prefix, 10.1.0.0/24. At the top level, this key and the next four are one more set, the first"},
		{Path: "ipam.rangeStart", Default: "first usable address", Doc: "the first address that is leased"},
		{Path: "ipam.rangeEnd", Default: "last usable address", Doc: "the last one"},
		{Path: "ipam.gateway", Default: "first address", Doc: "of the subnet. 0.0.0.0 or :: is none: the range has no gateway, and the first address is leased too"},
		{Path: "ipam.exclude", Ours: true, Doc: "addresses or prefixes that are never leased"},
		{Path: "ipam.resolvConf", Doc: "a file in the format of resolv.conf(5), for the result's `dns`"},
		{Path: "ipam.dataDir", Default: "`" + DefaultDataDir + "`", Doc: "where leases are; an absolute path. Several machines may share it (a cluster file system with flock): leases of another machine never count as dead"},
		{Path: "ipam.lockTimeout", Default: "`" + defaultWait.String() + "`", Ours: true, Doc: "how long to wait for another process"},
		{Path: "ipam.statusWhenFull", Default: "`ready`", Ours: true, Doc: "what STATUS answers for a full pool. `ready`: success; an ADD fails and says why. `unavailable`: an error of code 50 with the numbers, and the runtime regards the network as down. In Kubernetes that makes the node NotReady: nothing more is scheduled there, and after some minutes **its running pods are evicted**. Choose it only if something else acts on STATUS"},
		{Path: "runtimeConfig.ips", Doc: "requested addresses, by the capability `ips`; each must be in a set"},
		{Path: "args.cni.ips", Doc: "the same"},
		{Path: "CNI_ARGS IP", Type: "string", Doc: "the same"},
		{Path: "runtimeConfig.ipRanges", Doc: "more sets, before the others, by the capability `ipRanges`"},
	}, cni.RouteKeys("ipam.routes")...))
}
