package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

type object = map[string]any

// sound are configurations without a mistake. Each list has its first entry: the tests put
// the wrong one after it.
var sound = map[string]object{
	"bridge": {
		"vlanTrunk":     []any{object{"id": 5}},
		"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}},
	},
	"host-local": {
		"ipam": object{
			"ranges": []any{[]any{object{"subnet": "10.1.0.0/24"}}},
			"routes": []any{object{"dst": "0.0.0.0/0"}},
		},
		"runtimeConfig": object{"ipRanges": []any{[]any{object{"subnet": "10.2.0.0/24"}}}},
	},
	"portmap": {"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}}},
	"static": {"ipam": object{
		"addresses": []any{object{"address": "10.1.0.5/24"}},
		"routes":    []any{object{"dst": "0.0.0.0/0"}},
	}},
}

// companions are what an entry of a list needs beside a wrong key, so that only that is wrong.
var companions = map[string]object{
	"ipam.ranges[][].":             {"subnet": "10.3.0.0/24"},
	"runtimeConfig.ipRanges[][].":  {"subnet": "10.3.0.0/24"},
	"ipam.routes[].":               {"dst": "10.4.0.0/16"},
	"ipam.addresses[].":            {"address": "10.3.0.5/24"},
	"vlanTrunk[].minID":            {"maxID": 9},
	"vlanTrunk[].maxID":            {"minID": 9},
	"runtimeConfig.portMappings[]": {"hostPort": 8081, "containerPort": 81},
	"ipam.rangeStart":              {"subnet": "10.3.0.0/24"},
	"ipam.rangeEnd":                {"subnet": "10.3.0.0/24"},
	"ipam.gateway":                 {"subnet": "10.3.0.0/24"},
	"ingressRate":                  {"ingressBurst": 8000},
	"ingressBurst":                 {"ingressRate": 8000},
	"egressRate":                   {"egressBurst": 8000},
	"egressBurst":                  {"egressRate": 8000},
}

// companionsOf are those of the key's path.
func companionsOf(path string) object {
	beside := object{}
	for of, all := range companions {
		if of == path || strings.HasPrefix(path, of) || strings.HasSuffix(path, "."+of) {
			maps.Copy(beside, all)
		}
	}
	return beside
}

// wrongValues are values of the right type that no plugin takes, by the end of the key's path.
var wrongValues = map[string]any{
	"subnet": "10.1.0/24", "rangeStart": "10.1", "rangeEnd": "10.3.0.256", "gateway": "10.1.0.1/24", "exclude[]": "10.1", "ipam.dataDir": "leases",
	"statusWhenFull": "maybe", "lockTimeout": "soon", "ips[]": "10.1", "CNI_ARGS IP": "10.1", "CNI_ARGS GATEWAY": "10.1",
	"address": "10.1.0.5", "dst": "default", "gw": "10.1.0.1/24",
	"routes[].mtu": -1, "advmss": -1, "priority": int64(1 << 32), "table": int64(1 << 32), "scope": 256,
	"mac": "0a:58", "CNI_ARGS MAC": "0a:58", "mtu": 67, "txQLen": -1, "bridge": "a/b", "bridgeLifetime": "never", "ipMasqBackend": "ebtables",
	"backend": "ebtables", "vlan": 4095, "id": 0, "minID": 0, "maxID": 4095, "ipam.type": "../x",
	"snatIP4": "10.1", "snatIP6": "fd00", "hostPort": 65536, "containerPort": 0, "protocol": "icmp", "hostIP": "10.1", "markMasqBit": 32,
	"ingressPolicy": "closed", "ingressRate": 7, "egressRate": 7, "ingressBurst": int64(1 << 36), "egressBurst": int64(1 << 36),
}

// anyText are keys whose text is not looked at when the configuration is read.
var anyText = []string{
	"conditionsV4[]", "conditionsV6[]", "externalSetMarkChain", "nerdctlID", "firewalldZone", "iptablesAdminChainName",
	"ipam.resolvConf", "dataDir", // an absolute path of host-local alone; tuning's is as the reference plugin's
	"dns.domain", "dns.nameservers[]", "dns.options[]", "dns.search[]", "ipam.dns.domain", "ipam.dns.nameservers[]", "ipam.dns.options[]", "ipam.dns.search[]",
}

// wrongValue is the entry of wrongValues for the key with the longest end.
func wrongValue(path string) (value any, known bool) {
	longest := ""
	for end, wrong := range wrongValues {
		if (end == path || strings.HasSuffix(path, "."+end)) && len(end) > len(longest) {
			longest, value, known = end, wrong, true
		}
	}
	return value, known
}

// TestErrorsNameTheKey: for each key of each plugin, a wrong type and a wrong value are
// refused by a message that begins with the full path; for a value, it goes on with that and
// with a way out.
func TestErrorsNameTheKey(t *testing.T) {
	for name, wired := range Plugins() {
		plugin := wired()
		if err := validate(plugin, with(sound[name], "", nil), nil); err != nil {
			t.Fatalf("%s: a sound configuration: %v", name, err)
		}
		for _, key := range plugin.Keys() {
			if !isRead(name, key) {
				continue
			}
			path := key.Path + strings.Repeat("[]", strings.Count(key.Type, "list of "))
			if path != key.Path {
				assertType(t, plugin, key.Path, "x")
			}
			assertType(t, plugin, path, wrongType(key.Type))
			if ends := strings.HasSuffix; !ends(key.Type, "string") && !ends(key.Type, "integer") && key.Type != "any" || isAnyText(path) {
				continue
			}
			value, known := wrongValue(path)
			if !known {
				t.Errorf("%s: no wrong value for %s; add one to wrongValues, or the key to anyText", name, path)
				continue
			}
			assertNamed(t, plugin, path, value)
		}
	}
}

// isRead says whether the plugin itself reads the key when it reads the configuration.
func isRead(plugin string, key cni.Key) bool {
	return key.Path != "ipam.type" || plugin == "bridge" // else the main plugin has read it
}

func isAnyText(path string) bool { return slices.Contains(anyText, path) }

func assertType(t *testing.T, plugin cni.Plugin, path string, value any) {
	t.Helper()
	if strings.HasPrefix(path, "CNI_ARGS ") || path == "ipam.lockTimeout" { // which may be of two types
		return
	}
	got := validate(plugin, with(sound[plugin.Name], path, value), nil)
	if want := concrete(sound[plugin.Name], path) + ": "; got == nil || !strings.HasPrefix(got.Error(), want) || strings.Contains(got.Error(), "\n") {
		t.Errorf("%s: %v in the place of %s: got %v, want %s… alone", plugin.Name, value, path, got, want)
	}
}

func assertNamed(t *testing.T, plugin cni.Plugin, path string, value any) {
	t.Helper()
	config, args := with(sound[plugin.Name], path, value), map[string]string{}
	if variable, is := strings.CutPrefix(path, "CNI_ARGS "); is {
		config = with(sound[plugin.Name], "", nil)
		args[variable] = fmt.Sprint(value)
	}
	got := validate(plugin, config, args)
	at := concrete(sound[plugin.Name], path)
	if got == nil || cni.CodeOf(got) != cni.CodeConfig && cni.CodeOf(got) != cni.CodeDecode {
		t.Errorf("%s: %s %v: got %v, want it refused", plugin.Name, at, value, got)
		return
	}
	said := got.Error()
	if rest, ok := strings.CutPrefix(said, at+": "); !ok || !strings.Contains(rest, fmt.Sprint(value)) || !strings.Contains(rest, "; ") {
		t.Errorf("%s: %s %v: got %q, want the path, the value and a way out", plugin.Name, at, value, said)
	}
	if strings.Contains(said, "\n") {
		t.Errorf("%s: %s %v: got %q, want one mistake", plugin.Name, at, value, said)
	}
}

// wrongType is no value of the type.
func wrongType(of string) any {
	if strings.HasSuffix(of, "string") {
		return 5
	}
	return "x"
}

func validate(p cni.Plugin, config object, args map[string]string) error {
	config["cniVersion"], config["name"], config["type"] = "1.1.0", "n", p.Name
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return p.Validate(&cni.Request{
		Command: cni.Add, Owner: cni.Owner{Network: "n", ContainerID: "c1", IfName: "eth0"}, Version: "1.1.0", Args: args, Stdin: data,
	})
}

// with is a copy of the configuration that has the value at the path; in lists, in one more
// entry at the end of the innermost one.
func with(config object, path string, value any) object {
	data, err := json.Marshal(config)
	if err != nil {
		panic(err)
	}
	changed := object{}
	if err := json.Unmarshal(data, &changed); err != nil {
		panic(err)
	}
	if changed == nil {
		changed = object{}
	}
	if path != "" {
		put(changed, path, path, value)
	}
	return changed
}

// put puts the value at what is left of the path.
func put(in object, left, path string, value any) {
	step, rest, more := strings.Cut(left, ".")
	key := strings.TrimRight(step, "[]")
	depth := strings.Count(step, "[]")
	if depth > 0 {
		if !more {
			maps.Copy(in, companionsOf(path))
		}
		list, _ := in[key].([]any)
		in[key] = appended(list, depth, func() any { return below(object{}, rest, more, path, value) })
		return
	}
	if !more {
		maps.Copy(in, companionsOf(path))
		in[key] = value
		return
	}
	next, _ := in[key].(object)
	if next == nil {
		next = object{}
	}
	in[key] = below(next, rest, true, path, value)
}

func below(in object, rest string, more bool, path string, value any) any {
	if !more {
		return value
	}
	put(in, rest, path, value)
	return in
}

func appended(list []any, depth int, entry func() any) []any {
	if depth == 1 {
		return append(list, entry())
	}
	var inner []any
	if len(list) > 0 {
		inner, _ = list[len(list)-1].([]any)
		list = list[:len(list)-1]
	}
	return append(list, appended(inner, depth-1, entry))
}

// concrete is the path with the indices where with puts the value.
func concrete(config object, path string) string {
	in := any(config)
	var steps []string
	for step := range strings.SplitSeq(path, ".") {
		key := strings.TrimRight(step, "[]")
		o, _ := in.(object)
		in = o[key]
		for depth := strings.Count(step, "[]"); depth > 0; depth-- {
			list, _ := in.([]any)
			at := max(0, len(list)-1)
			if depth == 1 {
				at, in = len(list), nil
			} else if len(list) > 0 {
				in = list[at]
			}
			key += fmt.Sprintf("[%d]", at)
		}
		steps = append(steps, key)
	}
	return strings.Join(steps, ".")
}
