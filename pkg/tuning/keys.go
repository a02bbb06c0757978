package tuning

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "sysctl", Doc: "`{\"net.core.somaxconn\": \"512\", \"net.ipv4.conf.IFNAME.arp_filter\": \"1\"}`: of the network only; `IFNAME` stands for the interface"},
		{Path: "mac", Doc: "of the interface"},
		{Path: "mtu", Doc: "likewise"},
		{Path: "promisc", Doc: "likewise"},
		{Path: "allmulti", Doc: "likewise"},
		{Path: "txQLen", Doc: "likewise, the length of its queue"},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "comes before `mac`"},
		{Path: "runtimeConfig.mac", Doc: "comes before that, by the capability `mac`"},
		{Path: "args.cni", Open: true, Doc: "comes before all of them, and has all keys from `sysctl` to `txQLen`"},
		{Path: "dataDir", Default: "`" + DefaultDataDir + "`", Doc: "where the reference plugin's files of what was before are kept, for its DEL; ours goes by `/run/trestle/tuning`, whatever the configuration says by then"},
	})
}
