package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// TestBridgeAnswersAsTheReference gives both suites the reference's documented
// configurations and compares the results key by key.
func TestBridgeAnswersAsTheReference(t *testing.T) {
	tests := []struct {
		name string
		edit object
	}{
		{"README of bridge", object{"isDefaultGateway": true, "forceAddress": false, "hairpinMode": true, "ipam": host.Leases("10.10.0.0/16")}},
		{"layer 2", object{"isDefaultGateway": nil, "ipMasq": nil, "ipam": nil}},
		{"layer 2, link down", object{"isDefaultGateway": nil, "ipMasq": nil, "ipam": nil, "disableContainerInterface": true}},
		{"dual stack", nil},
		{"gateway without default route", object{"isDefaultGateway": nil, "isGateway": true}},
		{"no gateway", object{"isDefaultGateway": nil, "ipMasq": nil}},
		{"routes and gateway of IPAM", object{"isDefaultGateway": nil, "isGateway": true, "ipam": object{
			"type": "host-local", "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.20", "rangeEnd": "10.9.0.30", "gateway": "10.9.0.99",
			"routes": []any{object{"dst": "0.0.0.0/0"}, object{"dst": "192.168.0.0/16", "gw": "10.9.0.5"}},
		}}},
		{"dns of the network", object{"dns": object{"nameservers": []string{"10.1.0.1"}, "search": []string{"example.org"}}}},
		{"static address and MAC", object{"runtimeConfig": object{"ips": []string{"10.9.0.77/24"}, "mac": "c2:11:22:33:44:55"}}},
		{"isolated, promiscuous, mtu", object{"portIsolation": true, "promiscMode": true, "mtu": 1400}},
		{"route with all fields", object{"ipam": object{
			"type": "host-local", "subnet": "10.9.0.0/24",
			"routes": []any{object{"dst": "10.50.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 9, "table": 77, "scope": 0}},
		}}},
	}
	for _, tt := range tests {
		for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
			t.Run(fmt.Sprintf("%s, %s", tt.name, version), func(t *testing.T) {
				t.Parallel()
				compareWithReference(t, tt.edit, version)
			})
		}
	}
}

// compareWithReference gives both suites bridgeConfig with the changes.
func compareWithReference(t *testing.T, changes object, version string) {
	t.Helper()
	edit := object{"cniVersion": version}
	maps.Copy(edit, changes)
	config := host.BridgeConfig(edit)
	ours := resultOf(t, config, func(d host.Dirs) string { return d.Trestle })
	theirs := resultOf(t, config, func(d host.Dirs) string { return d.Reference })
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("-reference +trestle:\n%s", diff)
	}
}

// resultOf runs ADD of one suite, and takes out of its result what may differ.
func resultOf(t *testing.T, config string, dir func(host.Dirs) string) host.Answered {
	t.Helper()
	h := host.NewRouting(t)
	c := h.Container("c1")
	call := c.Call("ADD", dir(h.Dirs())+"/bridge", config)
	call.Path = dir(h.Dirs())
	answer := h.Exec(call)
	if err := answer.Err(); err != nil {
		t.Fatalf("%s: %v", call.Plugin, err)
	}
	var result host.Answered
	if err := json.Unmarshal([]byte(answer.Stdout), &result); err != nil {
		t.Fatal(err)
	}
	result.DropChoices()
	return result
}
