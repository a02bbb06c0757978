package firewall

import (
	"encoding/json"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// FuzzParseConfig: an invalid configuration gets one of the spec's codes for that.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"backend":"iptables","ingressPolicy":"isolated","iptablesAdminChainName":"CNI-X","firewalldZone":"trusted"}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		_, err := ParseConfig(&cni.Request{Command: cni.Add, Version: "1.1.0", Stdin: config})
		if code := cni.CodeOf(err); err != nil && code != cni.CodeConfig && code != cni.CodeDecode {
			t.Errorf("code %d: %v", code, err)
		}
	})
}

// FuzzRecord: rules of a damaged record, of this release or of those before pkg/record, cause
// no panic.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"Owner":{"Network":"n","ContainerID":"c","IfName":"eth0"},"Shares":["x"],"Value":{"Policy":"isolated","Interfaces":["br0"],"Ports":["veth0"],"Addresses":["10.0.0.1"],"Programs":["iptables"],"Zone":"trusted","AdminChain":"X"}}`))
	f.Add([]byte(`{"Owner":{"Network":"n","ContainerID":"c","IfName":"eth0"},"Rules":{"Policy":"same-bridge","Interfaces":["br0"],"Addresses":["fd00::1",""],"Forwards":[{"Program":"ip6tables-nft"},{}],"AdminChain":"\u0000"}}`))
	f.Add([]byte(`{"Value":{"Policy":"same-bridge","Interfaces":[],"Ports":[""]}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var now ruleRecord
		if json.Unmarshal(data, &now) == nil {
			elementsOf(inPlace(now.Value.entries(now.Owner), nftPlace))
		}
		var former formerRecord
		if json.Unmarshal(data, &former) == nil {
			elementsOf(former.now().Value.entries(former.Owner))
		}
	})
}
