package tuning

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are those of ParseConfig.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "sysctl", Doc: "`{\"net.core.somaxconn\": \"512\", \"net.ipv4.conf.IFNAME.arp_filter\": \"1\"}`: sysctls below `net.` only; `IFNAME` stands for the interface"},
		{Path: "mac", Doc: "the interface's MAC"},
		{Path: "mtu", Doc: "its MTU, 68 to 65536; 0 leaves it as it is"},
		{Path: "promisc", Doc: "`true`: it is promiscuous"},
		{Path: "allmulti", Doc: "whether it takes all multicast frames"},
		{Path: "txQLen", Doc: "the length of its transmit queue"},
		{Path: "CNI_ARGS MAC", Type: "string", Doc: "overrides `mac`"},
		{Path: "runtimeConfig.mac", Doc: "overrides that, by the capability `mac`"},
		{Path: "args.cni", Open: true, Doc: "overrides all of them: the keys from `sysctl` to `txQLen`"},
		{Path: "dataDir", Default: "`" + defaultDataDir + "`", Doc: "where the values from before are kept in the reference plugin's format, for its DEL. Trestle's DEL goes by `/run/trestle/tuning`, whatever this key says by then"},
	})
}
