package bridge

import (
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

const aMAC = "02:00:00:00:00:01"

// checkedKeys has each key: who adds one says here what CHECK finds.
var checkedKeys = []host.CheckedKey{
	{Path: "bridge", With: object{"bridgeLifetime": "auto"}, Added: "br-a", Checked: "br-b", Says: "br-b"},
	{Path: "bridgeLifetime", Unobserved: "it tells DEL what to do"},
	{Path: "isGateway", With: object{"isDefaultGateway": nil, "ipMasq": nil}, Added: false, Checked: true, Says: "gateway address"},
	{Path: "isDefaultGateway", Added: true, Breaks: "ip -n CONTAINER route del default", Says: "0.0.0.0/0"},
	{Path: "forceAddress", Unobserved: "what it replaces is gone when ADD returns"},
	{Path: "mtu", Unobserved: "later plugins of the list change it without a word"},
	{Path: "hairpinMode", Added: false, Checked: true, Says: "hairpin"},
	{Path: "promiscMode", Unobserved: "a packet capture switches it on and off"},
	{Path: "macspoofchk", Added: false, Checked: true, Says: "table bridge trestle"},
	{Path: "enabledad", Unobserved: "it tells ADD how long to wait"},
	{Path: "disableContainerInterface", With: object{"ipam": nil, "isDefaultGateway": nil, "ipMasq": nil}, Added: true, Checked: false, Says: "eth0 up"},
	{Path: "portIsolation", Added: false, Checked: true, Says: "isolated"},
	{Path: "ipv6LinkLocal", Unobserved: "the kernel's addresses are nobody's"},
	{Path: "dns", Unobserved: "it is in the result alone"},
	{Path: "ipam", With: object{"ipMasq": nil}, Added: host.Leases("10.9.0.0/24"), Breaks: "ip -n CONTAINER addr flush dev eth0", Says: "address"},
	{Path: "runtimeConfig.mac", Added: aMAC, Breaks: "ip -n CONTAINER link set eth0 address 02:00:00:00:00:02", Says: aMAC},
	{Path: "args.cni.mac", Added: aMAC, Breaks: "ip -n CONTAINER link set eth0 address 02:00:00:00:00:02", Says: aMAC},
	{Path: "CNI_ARGS MAC", Added: aMAC, Breaks: "ip -n CONTAINER link set eth0 address 02:00:00:00:00:02", Says: aMAC},
	{Path: "ipMasq", Added: false, Checked: true, Says: "masquerade"},
	{Path: "ipMasqBackend", Added: "iptables", Breaks: "iptables -t nat -F", Says: "iptables"},
	{Path: "masquerade.exclude", Added: []string{"10.0.0.0/8"}, Checked: []string{"10.0.0.0/9"}, Says: "chain postrouting"},
	{Path: "masquerade.snatIP4", Added: "192.0.2.2", Checked: "192.0.2.3", Says: "chain postrouting"},
	{Path: "masquerade.snatIP6", Added: "2001:db8::2", Checked: "2001:db8::3", Says: "chain postrouting"},
	{Path: "masquerade.randomFully", Added: true, Checked: false, Says: "chain postrouting"},
}

// checkedVLANKeys are those that ask for a kernel with VLANs.
var checkedVLANKeys = []host.CheckedKey{
	{Path: "vlan", With: object{"bridgeLifetime": "auto"}, Added: 5, Checked: 6, Says: "6"},
	{Path: "vlanTrunk", Added: []any{object{"id": 5}}, Checked: []any{object{"id": 5}, object{"id": 6}}, Says: "6"},
	{Path: "preserveDefaultVlan", With: object{"vlan": 5}, Added: false, Checked: true, Says: "1"},
}

// TestBridgeCheckKnowsEachKey: no key is read that CHECK forgets.
func TestBridgeCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	host.AssertKeys(t, "bridge", append(checkedKeys, checkedVLANKeys...), "portmap")
	checkKeys(host.NewRouting(t), checkedKeys)
}

func TestVLANCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	checkKeys(host.NewWithVLANs(t), checkedVLANKeys)
}

// checkKeys gives each key a network, a bridge and a container of its own.
func checkKeys(h *host.Host, keys []host.CheckedKey) {
	for i, k := range keys {
		h.Container(fmt.Sprint("c", i)).CheckKey("bridge", object{
			"cniVersion": "1.1.0", "name": fmt.Sprint("n", i), "type": "bridge", "bridge": fmt.Sprint("br", i), "isDefaultGateway": true, "ipMasq": true,
			"ipam": object{"type": "host-local", "ranges": []any{
				[]any{object{"subnet": fmt.Sprintf("10.%d.0.0/24", 100+i)}}, []any{object{"subnet": fmt.Sprintf("fd%d::/64", 10+i)}},
			}},
		}, k)
	}
}
