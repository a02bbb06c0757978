package static

import (
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

type object = host.Object

var (
	anAddress      = []any{object{"address": "10.1.0.5/24"}}
	anotherAddress = []any{object{"address": "10.1.0.6/24"}}
)

var checkedKeys = []host.CheckedKey{
	{Path: "ipam.type", Unobserved: "it is for who executes the plugin"},
	{Path: "ipam.addresses", Added: anAddress, Checked: anotherAddress, Says: "10.1.0.6/24"},
	{Path: "ipam.routes", Unobserved: "the plugin that sets them compares them"},
	{Path: "ipam.dns", Unobserved: "it is in the result alone"},
	{Path: "CNI_ARGS IP", Added: "10.1.0.5/24", Checked: "10.1.0.6/24", Says: "10.1.0.6/24"},
	{Path: "CNI_ARGS GATEWAY", With: object{"ipam": object{"addresses": anAddress}}, Added: "10.1.0.1", Checked: "10.1.0.2", Says: "10.1.0.2"},
	{Path: "args.cni.ips", Added: []any{"10.1.0.5/24"}, Checked: []any{"10.1.0.6/24"}, Says: "10.1.0.6/24"},
	{Path: "runtimeConfig.ips", Added: []any{"10.1.0.5/24"}, Checked: []any{"10.1.0.6/24"}, Says: "10.1.0.6/24"},
}

// TestStaticCheckKnowsEachKey: no key is read that CHECK forgets.
func TestStaticCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	host.AssertKeys(t, "static", checkedKeys)
	c := host.New(t).Container("c1")
	for _, k := range checkedKeys {
		c.CheckKey("static", object{"cniVersion": "1.1.0", "name": "n", "ipam": object{"type": "static"}}, k)
	}
}
