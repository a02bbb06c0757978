package firewall

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

var checkedKeys = []host.CheckedKey{
	{Path: "ingressPolicy", Added: "same-bridge", Checked: "isolated", Says: "br1"},
	{Path: "internal", Added: false, Checked: true, Says: "br1"},
	{Path: "backend", Added: "iptables", Breaks: "iptables -F CNI-FORWARD", Says: "iptables"},
	{Path: "iptablesAdminChainName", Added: "ADMIN-A", Checked: "ADMIN-B", Says: "ADMIN-B"},
	{Path: "firewalldZone", Unobserved: "there is no firewalld here; TestFirewalld"},
}

// TestFirewallCheckKnowsEachKey: no key is read that CHECK forgets.
func TestFirewallCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	host.AssertKeys(t, "firewall", checkedKeys)
	w := newWalled(t)
	w.plugged()
	for i, k := range checkedKeys {
		c := w.container(1, 5+i)
		c.CheckKey("firewall", object{"cniVersion": "1.1.0", "name": fmt.Sprint("n", i), "type": "firewall", "prevResult": json.RawMessage(firewallPrevResult(c))}, k)
		w.Must(c.Call("DEL", "firewall", fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "n%d", "type": "firewall"}`, i)))
	}
}
