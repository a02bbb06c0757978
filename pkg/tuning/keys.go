package tuning

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseConfig reads.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "sysctl", Doc: "`{\"net.core.somaxconn\": \"512\", \"net.ipv4.conf.IFNAME.arp_filter\": \"1\"}`: only those below `net`; `IFNAME` stands for the interface"},
		{Path: "mac", Doc: "of the interface"},
		{Path: "mtu", Doc: "likewise"},
		{Path: "promisc", Doc: "likewise"},
		{Path: "allmulti", Doc: "likewise"},
		{Path: "txQLen", Doc: "likewise, the length of its queue"},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "takes precedence over `mac`"},
		{Path: "runtimeConfig.mac", Doc: "takes precedence over both, by the capability `mac`"},
		{Path: "args.cni", Open: true, Doc: "takes precedence over all of them, and has all keys from `sysctl` to `txQLen`"},
		{Path: "dataDir", Default: "`" + defaultDataDir + "`", Doc: "the directory of the reference plugin's files with the former values, for its DEL; ours uses `/run/trestle/tuning`, whatever the configuration says"},
	})
}
