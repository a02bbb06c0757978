package bandwidth

import "github.com/trestle-cni/trestle/pkg/cni"

// Keys are those of ParseLimits.
func Keys() []cni.Key {
	return cni.KeysOf(wire{}, []cni.Key{
		{Path: "ingressRate", Doc: "to the container: bits per second"},
		{Path: "ingressBurst", Doc: "to the container: the size of the burst, in bits"},
		{Path: "egressRate", Doc: "from the container: bits per second"},
		{Path: "egressBurst", Doc: "from the container: the size of the burst, in bits"},
		{Path: "runtimeConfig.bandwidth", Doc: "the same four keys, by the capability `bandwidth`; they count if the configuration itself has none of them"},
	})
}
