package validate

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/conflist"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/plugins/registry"
)

// usual are rules with Trestle's plugins, and other installed ones.
func usual(more ...string) Rules {
	plugins := registry.Plugins()
	ours := slices.Sorted(maps.Keys(plugins))
	return Rules{
		Keys: registry.Keys, Ours: ours,
		Parse:     func(name string, r *cni.Request) error { return plugins[name]().Validate(r) },
		Installed: func(name string) bool { return slices.Contains(ours, name) || slices.Contains(more, name) },
		Versions:  func(string) []string { return nil },
		Path:      []string{"/opt/cni/bin"},
	}
}

// problems writes the files and returns their mistakes, without the directory.
func problems(t *testing.T, r Rules, files ...string) []string {
	t.Helper()
	dir := t.TempDir()
	var names []string
	for i, content := range files {
		name := filepath.Join(dir, string(rune('a'+i))+".conflist")
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	found, err := r.Files(names)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range found {
		all = append(all, strings.ReplaceAll(p.String(), dir+"/", ""))
	}
	return all
}

// plugin is a list with one plugin, which begins in line 2.
func plugin(keys string) string {
	return "{\"cniVersion\": \"1.0.0\", \"name\": \"n\", \"plugins\": [\n{" + keys + "}]}"
}

const hostLocal = `"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}`

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name, list string
		want       []string
	}{
		{"nothing", plugin(hostLocal), nil},
		{"every remark is welcome", plugin(hostLocal + `, "_comment": "x", "//": 1`), nil},
		{"case does not matter", plugin(strings.Replace(hostLocal, "ranges", "Ranges", 1) + `, "IPMASQ": true`), nil},
		{"a list of trestle-node", `{"cniVersion": "1.0.0", "name": "n", "io.trestle.node": "a", "plugins": [{"type": "loopback"}]}`, nil},
		{"null is left out", plugin(hostLocal + `, "mtu": null`), nil},

		{"a key that is misspelt", plugin(hostLocal + `, "ipMsaq": true`), []string{"a.conflist:2:93: plugins[0].ipMsaq: nobody reads this key; is it ipMasq?"}},
		{
			"below ipam", plugin(`"type": "bridge", "ipam": {"type": "host-local", "resolveConf": "/x", "ranges": [[{"subnet": "10.1.0.0/24", "rangeStarts": "10.1.0.9"}]]}`),
			[]string{
				"a.conflist:2:51: plugins[0].ipam.resolveConf: nobody reads this key; is it resolvConf?",
				"a.conflist:2:110: plugins[0].ipam.ranges[0][0].rangeStarts: nobody reads this key; is it rangeStart?",
			},
		},
		{"in a list of objects", plugin(hostLocal + `, "vlanTrunk": [{"id": 5}, {"minId": 6, "maxIDs": 7}]`), []string{"a.conflist:2:131: plugins[0].vlanTrunk[1].maxIDs: nobody reads this key; is it maxID?"}},
		{"a key that stands elsewhere", plugin(hostLocal + `, "subnet": "10.1.0.0/24"`), []string{"a.conflist:2:93: plugins[0].subnet: nobody reads this key here; it is ipam.subnet"}},
		{"a key of another plugin", plugin(hostLocal + `, "ingressPolicy": "open"`), []string{"a.conflist:2:93: plugins[0].ingressPolicy: nobody reads this key here; plugin firewall does"}},
		{"a key that nobody has", plugin(hostLocal + `, "frobnicate": 1`), []string{"a.conflist:2:93: plugins[0].frobnicate: nobody reads this key"}},
		{"a plugin's key at the list", `{"cniVersion": "1.0.0", "name": "n", "capabilities": {}, "plugins": [{"type": "loopback"}]}`, []string{"a.conflist:1:38: capabilities: nobody reads this key here; it belongs in a plugin's {…}"}},
		{"a key of the list", `{"cniVersion": "1.0.0", "name": "n", "plugin": [], "plugins": [{"type": "loopback"}]}`, []string{"a.conflist:1:38: plugin: nobody reads this key; is it plugins?"}},
		{"twice", plugin(hostLocal + `, "mtu": 1400, "MTU": 1500`), []string{"a.conflist:2:106: plugins[0].MTU: this key occurs twice; the last one counts"}},
		{"other plugins' keys are not known", plugin(`"type": "macvlan", "master": "eth0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}`), nil},

		{"text for a number", plugin(hostLocal + `, "mtu": "1400"`), []string{`a.conflist:2:100: plugins[0].mtu: text "1400", where it takes a whole number`}},
		{"a fraction", plugin(hostLocal + `, "mtu": 1400.5`), []string{`a.conflist:2:100: plugins[0].mtu: the number 1400.5, where it takes a whole number`}},
		{"text for true", plugin(hostLocal + `, "ipMasq": "true"`), []string{`a.conflist:2:103: plugins[0].ipMasq: text "true", where it takes true or false`}},
		{"an object for a list", plugin(hostLocal + `, "vlanTrunk": {"id": 5}`), []string{`a.conflist:2:106: plugins[0].vlanTrunk: an object, where it takes a list of objects`}},
		{"a number in a list of texts", plugin(hostLocal + `, "dns": {"nameservers": ["192.0.2.1", 7]}`), []string{`a.conflist:2:116: plugins[0].dns.nameservers: a list with the number 7, where it takes a list of texts`}},

		{"a value that the plugin refuses", plugin(hostLocal + `, "vlan": 99999`), []string{"a.conflist:2:101: plugins[0].vlan: 99999 is out of bounds; use 1 to 4094, or 0 for none"}},
		{"one that the IPAM plugin refuses", plugin(`"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}]]}`), []string{"a.conflist:2:100: plugins[0].ipam.ranges[0][0].gateway: 10.2.0.1 is outside 10.1.0.0/24; name an address of the subnet, or 0.0.0.0 or :: for none"}},
		{"one that portmap refuses", plugin(`"type": "portmap", "backend": "pf", "capabilities": {"portMappings": true}`), []string{`a.conflist:2:32: plugins[0].backend: unknown backend "pf"; use "nftables", "iptables", or leave it out`}},

		{"no capabilities", plugin(`"type": "portmap"`), []string{`a.conflist:2:1: plugins[0].capabilities: "capabilities": {"portMappings": true} is missing: without it runtimes send nothing, and the plugin does nothing`}},
		{"one that is off", plugin(`"type": "bandwidth", "capabilities": {"bandwidth": false}`), []string{`a.conflist:2:39: plugins[0].capabilities: "capabilities": {"bandwidth": true} is missing: without it runtimes send nothing, and the plugin does nothing`}},
		{"what the list says itself", plugin(`"type": "bandwidth", "ingressRate": 1000000, "ingressBurst": 1000000`), nil},
		{"one that no runtime knows", plugin(hostLocal + `, "capabilities": {"macs": true}`), []string{"a.conflist:2:110: plugins[0].capabilities.macs: no runtime knows this capability; is it mac?"}},

		{"a plugin that is missing", plugin(`"type": "ipvlan"`), []string{`a.conflist:2:10: plugins[0].type: plugin "ipvlan" is not in /opt/cni/bin`}},
		{"one that is misspelt", plugin(`"type": "bidge"`), []string{`a.conflist:2:10: plugins[0].type: plugin "bidge" is not in /opt/cni/bin; is it bridge?`}},
		{"an IPAM plugin that is missing", plugin(`"type": "bridge", "ipam": {"type": "dhcp", "daemonSocketPath": "/x"}`), []string{`a.conflist:2:37: plugins[0].ipam.type: plugin "dhcp" is not in /opt/cni/bin`}},
		{"no type", plugin(`"bridge": "br0"`), []string{`a.conflist:2:1: plugins[0].type: missing: which plugin?`}},

		{"no name", `{"cniVersion": "1.0.0", "plugins": [{"type": "loopback"}]}`, []string{"a.conflist:1:1: name: missing: a network has a name"}},
		{"a name that no runtime takes", `{"cniVersion": "1.0.0", "name": "a b", "plugins": [{"type": "loopback"}]}`, []string{`a.conflist:1:33: name: "a b": no runtime accepts this name; use letters and digits, with . _ - between them`}},
		{"no version", `{"name": "n", "plugins": [{"type": "loopback"}]}`, []string{"a.conflist:1:1: cniVersion: missing, and then it is 0.1.0, without GC and STATUS; say 1.0.0"}},
		{"a version that nobody knows", `{"cniVersion": "1.5.0", "name": "n", "plugins": [{"type": "loopback"}]}`, []string{`a.conflist:1:16: cniVersion: "1.5.0" is not a version of CNI; use one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0`}},
		{"plugins that are no list", `{"cniVersion": "1.0.0", "name": "n", "plugins": {}}`, []string{"a.conflist:1:49: plugins: an object, where it takes a list of objects"}},
		{"no plugins", `{"cniVersion": "1.0.0", "name": "n", "plugins": []}`, []string{"a.conflist:1:49: plugins: a network list has plugins, and this one has none"}},

		{"a comma at the end", "{\"cniVersion\": \"1.0.0\",\n}", []string{"a.conflist:2:1: invalid JSON: invalid character '}' looking for beginning of object key string; runtimes accept no comments, and no comma before a closing bracket"}},
		{"half of it", `{"cniVersion": `, []string{"a.conflist:1:15: invalid JSON: unexpected end of JSON input; runtimes accept no comments, and no comma before a closing bracket"}},
		{"nothing in it", "", []string{"a.conflist:1:1: the file is empty"}},
		{"no object", "[]", []string{"a.conflist:1:1: a network list is an object, {…}"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := problems(t, usual("macvlan"), test.list); !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// TestTogether: several lists with one name, or with overlapping subnets.
func TestTogether(t *testing.T) {
	one := plugin(hostLocal)
	got := problems(t, usual(), one, one, strings.Replace(strings.Replace(one, `"n"`, `"m"`, 1), "10.1.0.0/24", "10.1.0.128/25", 1), one)
	want := []string{
		`b.conflist:1:33: name: "n" is also the name of a.conflist, and runtimes use that one`,
		`c.conflist:2:74: plugins[0].ipam.ranges[0][0].subnet: 10.1.0.128/25 overlaps with 10.1.0.0/24 of network n (a.conflist): two containers may get the same address`,
		`c.conflist:2:74: plugins[0].ipam.ranges[0][0].subnet: 10.1.0.128/25 overlaps with 10.1.0.0/24 of network n (b.conflist): two containers may get the same address`,
		`d.conflist:1:33: name: "n" is also the name of a.conflist, and runtimes use that one`,
		`d.conflist:2:74: plugins[0].ipam.ranges[0][0].subnet: 10.1.0.0/24 overlaps with 10.1.0.128/25 of network m (c.conflist): two containers may get the same address`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestVersions: versions that a plugin or a runtime does not support.
func TestVersions(t *testing.T) {
	r := usual("dhcp")
	r.Versions = func(name string) []string { return map[string][]string{"dhcp": {"0.4.0", "1.0.0"}}[name] }
	r.Runtimes = []Runtime{{"containerd", "1.6.20", "1.0.0"}, {"crio", "1.33.0", "1.1.0"}}
	list := strings.Replace(plugin(`"type": "bridge", "ipam": {"type": "dhcp"}`), "1.0.0", "1.1.0", 1)
	want := []string{
		"a.conflist:1:16: cniVersion: containerd 1.6.20 cannot read results of 1.1.0; say 1.0.0",
		"a.conflist:1:16: cniVersion: plugin dhcp does not support 1.1.0; it supports 0.4.0, 1.0.0",
	}
	if got := problems(t, r, list); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// one that there is not is said once, and not again for each plugin
	if got := problems(t, r, strings.Replace(list, "1.1.0", "7", 1)); len(got) != 1 || !strings.Contains(got[0], `"7" is not a version of CNI`) {
		t.Errorf("got %q, want one line about version 7", got)
	}
}

// TestShipped: the lists that come with Trestle have no mistakes.
func TestShipped(t *testing.T) {
	lists, err := conflist.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range lists {
		data, err := conflist.Files.ReadFile(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got := problems(t, usual(), string(data)); len(got) > 0 {
			t.Errorf("%s: got %q, want nothing", entry.Name(), got)
		}
	}
}
