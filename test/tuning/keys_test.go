package tuning

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

const aMAC, anotherMAC = "0a:58:0a:01:00:07", "ip -n CONTAINER link set eth0 address 0a:58:0a:01:00:08"

var checkedKeys = []host.CheckedKey{
	{Path: "sysctl", Added: object{"net.ipv4.conf.IFNAME.arp_filter": "1"}, Breaks: "ip netns exec CONTAINER sysctl -w net.ipv4.conf.eth0.arp_filter=0", Says: "arp_filter"},
	{Path: "mac", Added: aMAC, Breaks: anotherMAC, Says: aMAC},
	{Path: "mtu", Added: 1400, Breaks: "ip -n CONTAINER link set eth0 mtu 1300", Says: "1400"},
	{Path: "promisc", Added: true, Breaks: "ip -n CONTAINER link set eth0 promisc off", Says: "promisc"},
	{Path: "allmulti", Added: true, Breaks: "ip -n CONTAINER link set eth0 allmulticast off", Says: "allmulti"},
	{Path: "txQLen", Added: 77, Breaks: "ip -n CONTAINER link set eth0 txqueuelen 78", Says: "77"},
	{Path: "CNI_ARGS MAC", Added: aMAC, Breaks: anotherMAC, Says: aMAC},
	{Path: "runtimeConfig.mac", Added: aMAC, Breaks: anotherMAC, Says: aMAC},
	{Path: "args.cni", Added: object{"mac": aMAC}, Breaks: anotherMAC, Says: aMAC},
	{Path: "dataDir", Unobserved: "it says where DEL finds what was before"},
}

// TestTuningCheckKnowsEachKey: no key is read that CHECK forgets.
func TestTuningCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	host.AssertKeys(t, "tuning", checkedKeys)
	h := host.New(t)
	for i, k := range checkedKeys {
		c, prevResult := h.AttachedContainer(fmt.Sprint("c", i))
		c.CheckKey("tuning", object{"cniVersion": "1.1.0", "name": "n", "type": "tuning", "prevResult": json.RawMessage(prevResult)}, k)
	}
}
