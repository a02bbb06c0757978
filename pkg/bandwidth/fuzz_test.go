package bandwidth

import (
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// FuzzParseLimits: an invalid configuration gets one of the spec's codes for that.
func FuzzParseLimits(f *testing.F) {
	f.Add([]byte(`{"ingressRate":800000,"ingressBurst":800000,"egressRate":1,"egressBurst":4294967295}`))
	f.Add([]byte(`{"runtimeConfig":{"bandwidth":{"ingressRate":18446744073709551615,"ingressBurst":8}}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		_, err := ParseLimits(&cni.Request{Command: cni.Add, Version: "1.1.0", Stdin: config})
		if code := cni.CodeOf(err); err != nil && code != cni.CodeConfig && code != cni.CodeDecode {
			t.Errorf("code %d: %v", code, err)
		}
	})
}
