package bandwidth

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

var checkedKeys = []host.CheckedKey{
	{Path: "ingressRate", With: object{"ingressBurst": 800000}, Added: 8000000, Checked: 16000000, Says: "queue of veth"},
	{Path: "ingressBurst", With: object{"ingressRate": 8000000}, Added: 800000, Checked: 1600000, Says: "queue of veth"},
	{Path: "egressRate", With: object{"egressBurst": 800000}, Added: 8000000, Checked: 16000000, Says: "queue of bwp"},
	{Path: "egressBurst", With: object{"egressRate": 8000000}, Added: 800000, Checked: 1600000, Says: "queue of bwp"},
	{
		Path: "runtimeConfig.bandwidth", Added: object{"ingressRate": 8000000, "ingressBurst": 800000},
		Checked: object{"ingressRate": 16000000, "ingressBurst": 800000}, Says: "queue of veth",
	},
}

type object = host.Object

// TestBandwidthCheckKnowsEachKey: no key is read that CHECK forgets.
func TestBandwidthCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	host.AssertKeys(t, "bandwidth", checkedKeys)
	h := host.New(t)
	for i, k := range checkedKeys {
		c, prevResult := h.AttachedContainer(fmt.Sprint("c", i))
		c.CheckKey("bandwidth", object{"cniVersion": "1.1.0", "name": "n", "type": "bandwidth", "prevResult": json.RawMessage(prevResult)}, k)
	}
}
