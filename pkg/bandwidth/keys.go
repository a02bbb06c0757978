package bandwidth

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are the keys that ParseLimits reads.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "ingressRate", Doc: "to the container: bits per second"},
		{Path: "ingressBurst", Doc: "to the container: bits that may be sent at once"},
		{Path: "egressRate", Doc: "from the container: bits per second"},
		{Path: "egressBurst", Doc: "from the container: bits that may be sent at once"},
		{Path: "runtimeConfig.bandwidth", Doc: "the same keys, by the capability `bandwidth`, if the configuration has none of them"},
	})
}
