package suite

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/plugins/registry"
	"github.com/trestle-cni/trestle/test/host"
)

// chainedKeys are those of all chained plugins; each takes what is its own.
var chainedKeys = object{
	"snat": true, "markMasqBit": 13, "conditionsV4": []any{"-s", "10.0.0.0/8"}, "backend": "nftables",
	"ingressRate": 800000, "ingressBurst": 800000, "egressRate": 800000, "egressBurst": 800000,
	"ingressPolicy": "same-bridge", "internal": true, "iptablesAdminChainName": "CNI-X", "firewalldZone": "trusted",
	"mac": "0a:58:0a:01:00:07", "mtu": 1400, "sysctl": object{"net.core.somaxconn": "512"},
	"runtimeConfig": object{
		"portMappings": []any{object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"}},
		"bandwidth":    object{"ingressRate": 800000, "ingressBurst": 800000},
		"mac":          "0a:58:0a:01:00:08",
	},
	"prevResult": object{
		"cniVersion": "1.1.0",
		"interfaces": []any{object{"name": "veth1", "mac": "02:00:00:00:00:09"}, object{"name": "eth0", "sandbox": "/run/netns/c1"}},
		"ips":        []any{object{"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 1}},
		"routes":     []any{object{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "table": 100}},
		"dns":        object{"nameservers": []any{"10.1.0.1"}},
	},
}

var leasingKeys = object{
	"bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "vlanTrunk": []any{object{"minID": 5, "maxID": 9}, object{"id": 3}},
	"masquerade":    object{"exclude": []any{"192.0.2.0/24"}},
	"dns":           object{"nameservers": []any{"10.9.0.1"}},
	"capabilities":  object{"portMappings": true},
	"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}, "ips": []any{"10.9.0.77/24"}, "ipRanges": []any{[]any{object{"subnet": "10.9.0.0/24"}}}},
	"args":          object{"cni": object{"mac": "0a:58:0a:01:00:09", "ips": []any{"10.9.0.78/24"}}},
	"ipam": object{
		"type": "host-local", "dataDir": "/run/leases", "addresses": []any{object{"address": "10.9.0.9/24", "gateway": "10.9.0.1"}},
		"ranges": []any{[]any{object{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.20", "rangeEnd": "10.9.0.90", "gateway": "10.9.0.1"}}},
		"routes": []any{object{"dst": "0.0.0.0/0", "gw": "10.9.0.1", "priority": 5}},
	},
	"prevResult":                object{"cniVersion": "1.1.0", "interfaces": []any{object{"name": "br0"}}, "ips": []any{object{"address": "10.9.0.9/24"}}},
	"cni.dev/valid-attachments": []any{object{"containerID": "c1", "ifname": "eth0"}},
}

// TestNonsenseIsAnswered puts a null, and a list of one, in the place of each value of
// a configuration: every command of every plugin answers, with
// success or an error object that is no accident.
func TestNonsenseIsAnswered(t *testing.T) {
	for _, plugin := range host.Plugins() {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			h := host.New(t)
			c, _ := h.AttachedContainer("c1")
			keys := chainedKeys
			if plugin == "bridge" || plugin == "host-local" || plugin == "static" {
				keys, c = leasingKeys, h.Container("c2") // where no eth0 is in the way
			}
			config := object{"cniVersion": "1.1.0", "name": "n", "type": plugin}
			maps.Copy(config, keys)
			for _, nonsense := range append(mutations(t, config), furtherKeys(t, plugin, config)...) {
				for _, command := range []string{"ADD", "CHECK", "STATUS", "GC", "DEL"} {
					mustAnswer(t, h, c.Call(command, plugin, nonsense))
				}
			}
		})
	}
}

func mustAnswer(t *testing.T, h *host.Host, call host.Call) {
	t.Helper()
	answer := h.Exec(call)
	if answer.Code == 0 {
		return
	}
	err := answer.Err()
	switch {
	case host.CodeOf(err) == 0:
		t.Errorf("%s %s: %v", call.Command, call.Config, err)
	case strings.Contains(err.Error(), "Go struct") || strings.Contains(err.Error(), "Go value"):
		t.Errorf("%s %s: got %v, want the words of who wrote the configuration", call.Command, call.Config, err)
	case strings.Contains(err.Error(), "internal error"):
		t.Errorf("%s %s: got %v, want an error that somebody thought of", call.Command, call.Config, err)
	case !strings.Contains(answer.Stdout, `"cniVersion"`):
		t.Errorf("%s %s: got %s, want a cniVersion in it", call.Command, call.Config, answer.Stdout)
	}
}

// furtherKeys are copies of a configuration, each with a null or a list of one for a key
// that the plugin reads and the configuration has not.
func furtherKeys(t *testing.T, plugin string, config object) []string {
	t.Helper()
	var all []string
	for _, key := range registry.Keys(plugin) {
		if _, has := config[key.Path]; has || strings.ContainsAny(key.Path, ".[ ") {
			continue // what is nested has its place among the mutations
		}
		for _, value := range []any{nil, []any{1}} {
			more := maps.Clone(config)
			more[key.Path] = value
			data, err := json.Marshal(more)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(data))
		}
	}
	return all
}

// mutations are copies of a configuration, each with one value replaced.
func mutations(t *testing.T, config object) []string {
	t.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i := range len(host.Places(host.DecodeJSON(t, string(data)))) {
		for _, other := range []any{nil, []any{nil}} {
			copied := host.DecodeJSON(t, string(data))
			host.Places(copied)[i](other)
			text, err := json.Marshal(copied)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(text))
		}
	}
	return all
}

func TestMutations(t *testing.T) {
	got := mutations(t, object{"a": []any{1}, "b": "x"})
	want := `{"a":null,"b":"x"} {"a":[null],"b":"x"} {"a":[null],"b":"x"} {"a":[[null]],"b":"x"} {"a":[1],"b":null} {"a":[1],"b":[null]}`
	if text := strings.Join(got, " "); text != want {
		t.Errorf("got %s, want %s", text, want)
	}
}
