package fuzz

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

var commands = []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"}

// soundConfig has all keys of a plugin.
func soundConfig(plugin string) object {
	config := object{"cniVersion": "1.1.0", "name": "n", "type": plugin}
	if plugin == "bridge" || plugin == "host-local" || plugin == "static" {
		maps.Copy(config, object{
			"bridge": "br0", "bridgeLifetime": "auto", "isDefaultGateway": true, "ipMasq": true, "macspoofchk": true, "mtu": 1400,
			"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}, "mac": "0a:58:0a:01:00:08"},
			"capabilities":  object{"portMappings": true},
			"ipam": object{
				"type": "host-local", "ranges": []any{[]any{object{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.20", "gateway": "10.9.0.1"}}},
				"routes": []any{object{"dst": "0.0.0.0/0", "gw": "10.9.0.1", "priority": 5}}, "resolvConf": "/etc/resolv.conf",
				"addresses": []any{object{"address": "10.9.0.9/24", "gateway": "10.9.0.1"}},
			},
		})
		return config
	}
	maps.Copy(config, object{
		"snat": true, "backend": "nftables", "ingressRate": 800000, "ingressBurst": 800000, "ingressPolicy": "same-bridge",
		"mac": "0a:58:0a:01:00:07", "mtu": 1400, "sysctl": object{"net.core.somaxconn": "512"},
		"runtimeConfig": object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"}}},
		"prevResult": object{
			"cniVersion": "1.1.0",
			"interfaces": []any{object{"name": "br0"}, object{"name": "eth0", "sandbox": "/run/netns/c1"}},
			"ips":        []any{object{"address": "10.9.0.5/24", "gateway": "10.9.0.1", "interface": 1}},
		},
		"cni.dev/valid-attachments": []any{object{"containerID": "c1", "ifname": "eth0"}},
	})
	return config
}

// FuzzPlugin gives each plugin, by each command, any standard input and any CNI_ARGS. What
// is refused leaves nothing, and what is taken is taken back by DEL. A seed but 0 also
// puts something else in the place of some of the input's values.
func FuzzPlugin(f *testing.F) {
	p := newPlace(f)
	plugins := host.Plugins()
	for i, plugin := range plugins {
		for j := range commands {
			f.Add(uint8(i), uint8(j), mustJSON(soundConfig(plugin)), "IgnoreUnknown=1;IP=10.9.0.9/24", uint64(i+j))
		}
	}
	f.Add(uint8(0), uint8(0), `{"cniVersion":"9.9.9","name":"n"`, "=;;IP", uint64(0))
	f.Fuzz(func(t *testing.T, plugin, command uint8, config, args string, seed uint64) {
		if strings.Contains(args, "\x00") || len(config)+len(args) > 1<<16 {
			return // no environment can hold the one, and the other only takes time
		}
		if seed != 0 {
			config = mutate(config, random(seed))
		}
		name, verb := plugins[int(plugin)%len(plugins)], commands[int(command)%len(commands)]
		before := p.trace(t)
		if ok := p.call(t, verb, name, config, args); ok && verb == "ADD" {
			p.del(t, name, config, args)
			p.leaves(t, before, "ADD and DEL by "+name+" of "+config+" "+args)
			return
		}
		p.leaves(t, before, verb+" by "+name+" of "+config+" "+args)
	})
}

// nasty is what may stand where something else is expected.
var nasty = []any{
	nil,
	[]any{nil},
	object{},
	"", " ", "..", "../../x", "x/y", "/", "/dev/null", "/run/netns/c1", "/proc/self/ns/net", "\u0000", "\n", "\"", "é", strings.Repeat("a", 300),
	-1, 0, 1, 65535, 65536, int64(4294967295), 1e300, 0.5, true, false, "0.0.0.0", "::", "0.0.0.0/0", "::/0", "10.9.0.1/32", "10.9.0.255/24", "255.255.255.255", "224.0.0.1", "fe80::1%eth0",
	"127.0.0.1", "::1", "::ffff:10.9.0.7", "10.9.0.7/24", "fd09::/64", "tcp", "sctp", "host-local", "static", "bridge", "lo", "eth0", "uplink0", "br0", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00",
	"0.1.0", "0.2.0", "1.0.0", "iptables", "firewalld", "auto", "isolated",
}

// mutate puts something nasty, or another of the input's values, in the place of up to three values.
func mutate(config string, r *rand.Rand) string {
	for range 1 + r.IntN(3) {
		var value any
		if json.Unmarshal([]byte(config), &value) != nil {
			return config
		}
		set := host.Places(value)
		if len(set) == 0 {
			return config
		}
		set[r.IntN(len(set))](nasty[r.IntN(len(nasty))])
		config = mustJSON(value)
	}
	return config
}

// FuzzEnvironment gives the plugins any container, interface, namespace and path.
func FuzzEnvironment(f *testing.F) {
	p := newPlace(f)
	plugins := host.Plugins()
	for i := range plugins {
		f.Add(uint8(i), "ADD", "c1", "eth0", "/run/netns/c1", "/run/fuzz")
	}
	f.Add(uint8(0), "ADD", "../c1", "eth0/..", "/proc/self/ns/mnt", "relative::/")
	f.Add(uint8(1), "DEL", strings.Repeat("c", 300), "all", "/dev/null", "")
	f.Add(uint8(2), "add", "c1", "eth\"0", "", "\xff")
	f.Fuzz(func(t *testing.T, plugin uint8, command, id, ifName, netns, path string) {
		name := plugins[int(plugin)%len(plugins)]
		call := host.Call{Plugin: name, Command: command, ContainerID: id, IfName: ifName, NetNS: netns, Path: p.Dirs().Trestle + ":" + path, Config: mustJSON(soundConfig(name))}
		for _, text := range []string{command, id, ifName, netns, path} {
			if strings.Contains(text, "\x00") || len(text) > 1<<12 {
				return // no environment can hold the one, and the other only takes time
			}
		}
		before := p.trace(t)
		ok := command == "" || p.exec(t, call) // without a command a plugin says who it is
		if command != "ADD" || !ok {
			p.leaves(t, before, command+" by "+name)
			return
		}
		call.Command = "DEL"
		if !p.exec(t, call) {
			t.Errorf("DEL by %s of what its ADD has taken fails: %+v", name, call)
		}
		p.leaves(t, before, "ADD and DEL by "+name)
	})
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }
