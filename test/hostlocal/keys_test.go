package hostlocal

import (
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

const (
	loseLeases = "rm /var/lib/cni/networks/*/10.*"
	wasChosen  = "it says which address ADD chooses; afterwards the lease counts"
)

var checkedKeys = []host.CheckedKey{
	{Path: "ipam.type", Unobserved: "it is for who executes the plugin"},
	{Path: "ipam.ranges", Added: []any{[]any{object{"subnet": "10.1.0.0/24"}}}, Breaks: loseLeases, Says: "no lease"},
	{Path: "ipam.subnet", Added: "10.1.0.0/24", Breaks: loseLeases, Says: "no lease"},
	{Path: "ipam.rangeStart", Unobserved: wasChosen},
	{Path: "ipam.rangeEnd", Unobserved: wasChosen},
	{Path: "ipam.gateway", Unobserved: "it is in the result; the plugin that sets it compares it"},
	{Path: "ipam.exclude", Unobserved: wasChosen},
	{Path: "ipam.resolvConf", Unobserved: "it is in the result alone"},
	{Path: "ipam.dataDir", With: object{"ipam": object{"subnet": "10.1.0.0/24"}}, Added: "/run/a", Checked: "/run/b", Says: "no lease"},
	{Path: "ipam.lockTimeout", Unobserved: "it says how long ADD waits"},
	{Path: "ipam.statusWhenFull", Unobserved: "it is for STATUS"},
	{Path: "ipam.routes", Unobserved: "the plugin that sets them compares them"},
	{Path: "runtimeConfig.ips", Unobserved: wasChosen},
	{Path: "args.cni.ips", Unobserved: wasChosen},
	{Path: "CNI_ARGS IP", Unobserved: wasChosen},
	{Path: "runtimeConfig.ipRanges", Added: []any{[]any{object{"subnet": "10.1.0.0/24"}}}, Breaks: loseLeases, Says: "no lease"},
}

// TestHostLocalCheckKnowsEachKey: no key is read that CHECK forgets.
func TestHostLocalCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	host.AssertKeys(t, "host-local", checkedKeys)
	h := host.New(t)
	for i, k := range checkedKeys {
		h.Container(fmt.Sprint("c", i)).CheckKey("host-local", object{"cniVersion": "1.1.0", "name": fmt.Sprint("n", i), "ipam": object{"type": "host-local"}}, k)
	}
}
