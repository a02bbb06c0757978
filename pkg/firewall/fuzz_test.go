package firewall

import (
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// FuzzParseConfig: what is refused has a code of the spec's for configurations.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"backend":"iptables","ingressPolicy":"isolated","iptablesAdminChainName":"CNI-X","firewalldZone":"trusted"}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		_, err := ParseConfig(&cni.Request{Command: cni.Add, Version: "1.1.0", Stdin: config})
		if code := cni.CodeOf(err); err != nil && code != cni.CodeConfig && code != cni.CodeDecode {
			t.Errorf("code %d: %v", code, err)
		}
	})
}
