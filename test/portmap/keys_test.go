package portmap

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

const flush = "iptables -t nat -F"

var (
	byIPTables  = object{"backend": "iptables"}
	checkedKeys = []host.CheckedKey{
		{Path: "runtimeConfig.portMappings[].hostPort", Added: 8080, Checked: 8081, Says: "8081"},
		{Path: "runtimeConfig.portMappings[].containerPort", Added: 80, Checked: 81, Says: "81"},
		{Path: "runtimeConfig.portMappings[].protocol", Added: "tcp", Checked: "udp", Says: "udp"},
		{Path: "runtimeConfig.portMappings[].hostIP", Added: "192.0.2.2", Checked: "192.0.2.3", Says: "192.0.2.3"},
		{Path: "backend", Added: "iptables", Breaks: flush, Says: "iptables"},
		{Path: "snat", Added: true, Checked: false, Says: "snat"},
		{Path: "masqAll", Added: true, Checked: false, Says: "masqAll"},
		{Path: "markMasqBit", With: byIPTables, Added: 12, Checked: 11, Says: "markMasqBit"},
		{Path: "nerdctlID", Added: "17f2", Breaks: flush, Says: "iptables"},
		{Path: "externalSetMarkChain", With: byIPTables, Added: "MARKS-A", Checked: "MARKS-B", Says: "MARKS-B"},
		{Path: "conditionsV4", With: byIPTables, Added: []string{"-s", "192.0.2.0/24"}, Checked: []string{"-s", "192.0.3.0/24"}, Says: "conditionsV4"},
		{Path: "conditionsV6", With: byIPTables, Added: []string{"-s", "fd00::/64"}, Checked: []string{"-s", "fd01::/64"}, Says: "conditionsV6"},
	}
)

// TestPortmapCheckKnowsEachKey: no key is read that CHECK forgets.
func TestPortmapCheckKnowsEachKey(t *testing.T) {
	t.Parallel()
	host.AssertKeys(t, "portmap", checkedKeys)
	n := newNATNet(t, false)
	for _, name := range []string{"MARKS-A", "MARKS-B"} {
		n.MustRun("sh", "-ec", fmt.Sprintf("iptables -t nat -N %s; ip6tables -t nat -N %[1]s", name))
	}
	for _, k := range checkedKeys {
		base := object{
			"cniVersion": "1.1.0", "name": "blue", "type": "portmap", "prevResult": json.RawMessage(natResult(n.c1, natC1v4, natC1v6)),
			"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
		}
		n.c1.CheckKey("portmap", base, k)
		n.Must(n.c1.Call("DEL", "portmap", natConfig("blue", "", "", "")))
	}
}
