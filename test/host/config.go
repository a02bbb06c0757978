package host

import (
	"encoding/json"
	"maps"
)

// Object is a JSON object: a configuration, or a part of one.
type Object map[string]any

// BridgeConfig is the configuration of network n on bridge br0: dual-stack, with
// masquerade, and a default gateway. A key of changes takes the place of the same
// one; nil takes it out.
func BridgeConfig(changes Object) string {
	config := Object{
		"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
		"ipam": Object{"type": "host-local", "ranges": []any{
			[]any{Object{"subnet": "10.9.0.0/24"}}, []any{Object{"subnet": "fd09::/64"}},
		}},
	}
	maps.Copy(config, changes)
	return configOf(config)
}

// configOf is the configuration as text, without keys that are nil.
func configOf(config Object) string {
	for key, value := range config {
		if value == nil {
			delete(config, key)
		}
	}
	data, err := json.Marshal(config)
	if err != nil {
		panic(err) // what the tests write down can be marshalled
	}
	return string(data)
}

// Leases is the "ipam" of a network with one subnet, which host-local serves.
func Leases(subnet string) Object {
	return Object{"type": "host-local", "ranges": []any{[]any{Object{"subnet": subnet}}}}
}

// NATBackends are the values of portmap's "backend" and the bridge's "ipMasqBackend".
var NATBackends = []string{"nftables", "iptables"}

// DecodeJSON is any JSON as a value, for comparisons.
func DecodeJSON(t T, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return value
}
