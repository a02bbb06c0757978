package bridge

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// copyPlugins puts copies of one of our plugins into a directory of the host.
func copyPlugins(t *testing.T, h *host.Host, names ...string) string {
	t.Helper()
	h.MustRun("mkdir", "-p", "/opt/renamed")
	for _, name := range names {
		h.MustRun("cp", filepath.Join(h.Dirs().Trestle, "bridge"), "/opt/renamed/"+name)
	}
	return "/opt/renamed"
}

// TestOtherNames: a copy under another name is the plugin that the name is about,
// as it would be with the reference plugins; where nothing tells, the runtime gets
// an error object for every command.
func TestOtherNames(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	dir := copyPlugins(t, h, "cnv-bridge", "bridge.new", "my_host-local", "host-local", "unknown", "xbridge")
	for _, name := range []string{"cnv-bridge", "bridge.new"} {
		before := h.Dump()
		call := c.Call("ADD", dir+"/"+name, host.BridgeConfig(object{"type": name, "bridgeLifetime": "auto"}))
		call.Path = dir
		if _, err := h.Exec(call).Result(); err != nil {
			t.Errorf("ADD of %s: %v", name, err)
		}
		call.Command = "VERSION"
		if answer := h.Exec(call); answer.Err() != nil || !strings.Contains(answer.Stdout, "supportedVersions") {
			t.Errorf("VERSION of %s: %s", name, answer.Stdout)
		}
		call.Command = "DEL"
		if err := h.Exec(call).Err(); err != nil {
			t.Errorf("DEL of %s: %v", name, err)
		}
		h.AssertUnchanged(before, host.Kept...)
	}
	call := c.Call("ADD", dir+"/my_host-local", host.BridgeConfig(nil))
	if result, err := h.Exec(call).Result(); err != nil || len(result.IPs) != 2 {
		t.Errorf("my_host-local: got %v, %v", result, err)
	}
	for _, name := range []string{"unknown", "xbridge"} {
		for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"} {
			answer := h.Exec(c.Call(command, dir+"/"+name, host.BridgeConfig(object{"cniVersion": "1.0.0", "type": name})))
			err := answer.Err()
			if host.CodeOf(err) != 7 || !strings.Contains(answer.Stdout, `"cniVersion": "1.0.0"`) {
				t.Fatalf("%s of %s: got %v, %s; want code 7", command, name, err, answer.Stdout)
			}
			mustContain(t, "error", err.Error(), "type", name, "host-local", "my-bridge")
		}
		answer := h.Exec(host.Call{Plugin: dir + "/" + name})
		if answer.Code == 0 || !strings.Contains(answer.Stderr, "run this program as one of") {
			t.Errorf("%s for a person: got %d, %q", name, answer.Code, answer.Stderr)
		}
	}
}

// TestNullsInPrevResult: ADD and CHECK say where, and no DEL fails of it.
func TestNullsInPrevResult(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	keys := object{"runtimeConfig": object{
		"portMappings": []any{object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
		"bandwidth":    object{"ingressRate": 8000, "ingressBurst": 8000},
	}, "mtu": 1400, "bridgeLifetime": "auto"}
	for _, list := range []string{"interfaces", "ips", "routes"} {
		prev := fmt.Sprintf(`{"cniVersion": "1.1.0", %q: [null]}`, list)
		before := h.Dump()
		c.MustAdd(host.BridgeConfig(nil))
		for _, plugin := range []string{"portmap", "firewall", "bandwidth", "tuning", "static", "host-local", "bridge"} {
			config := withPrev(t, host.BridgeConfig(keys), prev)
			if plugin != "bridge" && plugin != "host-local" && plugin != "static" {
				err := h.Exec(c.Call("ADD", plugin, config)).Err()
				if host.CodeOf(err) != 6 || !strings.Contains(err.Error(), "prevResult."+list+"[0]: null") {
					t.Errorf("ADD of %s with a null in %s: got %v, want code 6", plugin, list, err)
				}
			}
			if plugin != "tuning" && plugin != "static" { // which ask nothing of it, or have no such ipam
				if err := h.Exec(c.Call("CHECK", plugin, config)).Err(); host.CodeOf(err) != 6 {
					t.Errorf("CHECK of %s with a null in %s: got %v, want code 6", plugin, list, err)
				}
			}
			if err := h.Exec(c.Call("DEL", plugin, config)).Err(); err != nil {
				t.Errorf("DEL of %s with a null in %s: %v", plugin, list, err)
			}
		}
		h.AssertUnchanged(before, host.Kept...)
	}
}

// TestAliasOfAPerson: an alias that begins like ours and is none, of which the
// search for a bridge's networks once died. The error must be that of the overlap,
// and nothing be left.
func TestAliasOfAPerson(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.Container("c1").MustAdd(host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/16")}))
	h.MustRun("ip", "link", "add", "zz0", "master", "br0", "type", "veth", "peer", "name", "zz1")
	h.MustRun("ip", "link", "set", "zz0", "alias", "trestle:mine")
	c := h.Container("c2")
	before := h.Dump()
	err := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(object{"name": "other", "ipam": host.Leases("10.9.3.0/24")}))).Err()
	if host.CodeOf(err) != 102 {
		t.Fatalf("got %v, want code 102", err)
	}
	mustContain(t, "error", err.Error(), "10.9.3.1/24", "mine")
	h.AssertUnchanged(before, host.Kept...)
}

// TestNamespaceOnOldKernels: before 4.11 the kernel does not say what kind a
// namespace is.
func TestNamespaceOnOldKernels(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := `{"cniVersion": "1.0.0", "name": "n", "type": "loopback"}`
	for _, tt := range []struct {
		netns string
		code  uint
	}{{c.NetNS, 0}, {"/etc/passwd", 4}, {"/proc/self/status", 4}, {"/dev/null", 4}} {
		call := c.Call("ADD", "loopback", config)
		call.NetNS, call.Strace = tt.netns, &host.Strace{Syscalls: "ioctl", Inject: []string{"ioctl:error=ENOTTY"}}
		answer := h.Exec(call)
		if got := host.CodeOf(answer.Err()); got != tt.code || answer.Trace.Injected == 0 && tt.code == 0 {
			t.Errorf("%s: got %v, %d ioctls failed; want code %d", tt.netns, answer.Err(), answer.Trace.Injected, tt.code)
		}
	}
}

// TestIPAMWithoutANamespace: host-local and static alone, as the reference's README
// calls them, answer as the reference does.
func TestIPAMWithoutANamespace(t *testing.T) {
	t.Parallel()
	ours, theirs := host.NewRouting(t), host.NewRouting(t)
	for _, plugin := range []string{"host-local", "static"} {
		config := `{"cniVersion": "0.3.1", "name": "examplenet", "ipam": {"type": "host-local", "ranges": [[{"subnet": "203.0.113.0/24"}]],
			"addresses": [{"address": "203.0.113.9/24"}], "dataDir": "/run/cni-example"}}`
		for i, netns := range []string{"/dev/null", "/run/netns/none", "dummy"} {
			call := host.Call{Plugin: plugin, Command: "ADD", ContainerID: "example", NetNS: netns, IfName: fmt.Sprint("dummy", i), Config: config}
			got := ours.Exec(call)
			call.Plugin = theirs.Reference(plugin)
			want := theirs.Exec(call)
			if got.Code != 0 || want.Code != 0 {
				t.Fatalf("%s with %s: got %s, want %s", plugin, netns, got.Stdout, want.Stdout)
			}
			if diff := cmp.Diff(host.DecodeJSON(t, want.Stdout), host.DecodeJSON(t, got.Stdout)); diff != "" {
				t.Errorf("%s with %s: -reference +trestle\n%s", plugin, netns, diff)
			}
			call.Plugin, call.Command = plugin, "DEL"
			if err := ours.Exec(call).Err(); err != nil {
				t.Errorf("DEL of %s with %s: %v", plugin, netns, err)
			}
		}
	}
	left := ours.Do(func() error {
		files, err := filepath.Glob("/run/cni-example/examplenet/203.*")
		if err == nil && len(files) > 0 {
			err = fmt.Errorf("still leased: %v: %w", files, os.ErrExist)
		}
		return err
	})
	if left != nil {
		t.Error(left)
	}
}

// TestMalformedArgs: CNI_ARGS counts where something of it is used, and not at DEL.
func TestMalformedArgs(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	chained := withPrev(t, host.BridgeConfig(object{"runtimeConfig": object{}}), `{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24"}]}`)
	configs := map[string]string{"loopback": host.BridgeConfig(nil), "portmap": chained, "firewall": chained, "bandwidth": chained}
	for plugin, config := range configs {
		for _, command := range []string{"ADD", "DEL"} {
			call := c.Call(command, plugin, config)
			call.Args = "nonsense"
			if err := h.Exec(call).Err(); err != nil {
				t.Errorf("%s of %s: %v", command, plugin, err)
			}
		}
	}
	for _, plugin := range []string{"bridge", "host-local", "static", "tuning"} {
		call := c.Call("ADD", plugin, chained)
		call.Args = "IgnoreUnknown=1;nonsense"
		if err := h.Exec(call).Err(); host.CodeOf(err) != 4 || !strings.Contains(err.Error(), `CNI_ARGS: "nonsense"`) {
			t.Errorf("ADD of %s: got %v, want code 4", plugin, err)
		}
		call.Command = "DEL"
		if err := h.Exec(call).Err(); err != nil {
			t.Errorf("DEL of %s: %v", plugin, err)
		}
	}
}

// TestRouteFieldsReachOtherPlugins: the reference's ptp with our host-local sets
// what it sets with its own, in every version.
func TestRouteFieldsReachOtherPlugins(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			routes := map[string]string{}
			for _, suite := range []string{"reference", "trestle"} {
				h := host.NewRouting(t)
				c := h.Container("c1")
				call := c.Call("ADD", h.Reference("ptp"), host.BridgeConfig(object{"cniVersion": version, "type": "ptp", "ipMasq": nil, "ipam": object{
					"type": "host-local", "ranges": []any{[]any{object{"subnet": "10.9.0.0/24"}}},
					"routes": []any{object{"dst": "10.200.0.0/16", "priority": 300}, object{"dst": "10.201.0.0/16", "table": 100}},
				}}))
				call.Path = h.Dirs().Trestle + ":" + h.Dirs().Reference
				if suite == "reference" {
					call.Path = h.Dirs().Reference
				}
				if err := h.Exec(call).Err(); err != nil {
					t.Fatal(err)
				}
				routes[suite] = h.MustRun("ip", "-n", "c1", "-4", "route", "show", "table", "all") // IPv6's come when the kernel has time
			}
			if diff := cmp.Diff(routes["reference"], routes["trestle"]); diff != "" {
				t.Errorf("-with the reference's host-local +with ours:\n%s", diff)
			}
			mustContain(t, "routes", routes["trestle"], "metric 300")
		})
	}
}

// TestBridgeCheckOfRouteFields: what the ADD answered in an older version is enough
// for its own CHECK.
func TestBridgeCheckOfRouteFields(t *testing.T) {
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			config := host.BridgeConfig(object{"cniVersion": version, "ipam": object{
				"type": "host-local", "ranges": []any{[]any{object{"subnet": "10.9.0.0/24"}}},
				"routes": []any{object{"dst": "10.200.0.0/16", "priority": 300, "mtu": 1300, "advmss": 1200}, object{"dst": "10.201.0.0/16", "table": 100}, object{"dst": "0.0.0.0/0", "priority": 50}},
			}})
			added := h.Exec(c.Call("ADD", "bridge", config))
			if err := added.Err(); err != nil {
				t.Fatal(err)
			}
			if err := h.Exec(c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))).Err(); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			c.MustRun("ip", "route", "change", "10.200.0.0/16", "via", "10.9.0.1", "metric", "300", "mtu", "1200")
			if err := h.Exec(c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))).Err(); host.CodeOf(err) != 103 {
				t.Errorf("CHECK after the route changed: got %v, want code 103", err)
			}
		})
	}
}

// TestBridgeCheckOfOddRoutes: CHECK recognizes routes that the kernel shows otherwise than they
// were asked for: by a gateway of the other family, with a larger MTU or MSS than a route can have.
func TestBridgeCheckOfOddRoutes(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := host.BridgeConfig(object{"cniVersion": "1.1.0", "ipam": object{
		"type": "host-local", "ranges": []any{[]any{object{"subnet": "10.9.0.0/24"}}, []any{object{"subnet": "fd09::/64"}}},
		"routes": []any{
			object{"dst": "10.50.0.0/16", "gw": "fd09::1"},
			object{"dst": "10.51.0.0/16", "mtu": 65535, "advmss": 65535},
			object{"dst": "fd50::/16", "mtu": 70000, "table": uint32(math.MaxUint32), "priority": uint32(math.MaxUint32)},
		},
	}})
	added := h.Exec(c.Call("ADD", "bridge", config))
	if err := added.Err(); err != nil {
		t.Fatal(err)
	}
	check := c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))
	if err := h.Exec(check).Err(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	c.MustRun("ip", "route", "change", "10.50.0.0/16", "via", "inet6", "fd09::9")
	if err := h.Exec(check).Err(); host.CodeOf(err) != 103 || !strings.Contains(err.Error(), "via fd09::9") {
		t.Errorf("CHECK after the gateway changed: got %v, want code 103", err)
	}
}

// TestBridgeRoutesThatDoNotFit: a number of a route that the kernel would cut is refused, from
// whichever IPAM plugin.
func TestBridgeRoutesThatDoNotFit(t *testing.T) {
	t.Parallel()
	h, _, call := lookingCall(t, `{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}],
		"routes": [{"dst": "10.50.0.0/16", "table": 4294967396}]}`, nil)
	if err := h.Exec(call).Err(); host.CodeOf(err) != 6 || !strings.Contains(err.Error(), "IPAM plugin looking: routes[0].table: 4294967396 is out of bounds") {
		t.Errorf("got %v, want code 6 and the key", err)
	}
}

// TestUnspecifiedGatewayIsNone: 0.0.0.0 and :: say that there is no gateway, from
// whichever IPAM plugin.
func TestUnspecifiedGatewayIsNone(t *testing.T) {
	const answer = `{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24", "gateway": "0.0.0.0"}, {"address": "fd09::7/64", "gateway": "::"}],
		"routes": [{"dst": "10.50.0.0/16", "gw": "0.0.0.0", "scope": 253}]}`
	for _, isGateway := range []bool{true, false} {
		t.Run(fmt.Sprintf("isGateway %t", isGateway), func(t *testing.T) {
			t.Parallel()
			h, c, call := lookingCall(t, answer, object{"isGateway": isGateway})
			added := h.Exec(call)
			result, err := added.Result()
			if err != nil {
				t.Fatal(err)
			}
			for _, ip := range result.IPs {
				if named := ip.Gateway != nil; named != isGateway || named && ip.Gateway.IsUnspecified() {
					t.Errorf("got gateway %v of %v", ip.Gateway, ip.Address)
				}
			}
			const stray = "0.0.0.0 dev"
			if routes := h.MustRun("ip", "-n", "c1", "route"); strings.Contains(routes, stray) || !strings.Contains(routes, "10.50.0.0/16 dev eth0 scope link") {
				t.Errorf("got routes\n%s", routes)
			}
			call.Command, call.Config = "CHECK", withPrev(t, call.Config, added.Stdout)
			if err := h.Exec(call).Err(); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			c.Remove()
		})
	}
}

// TestLeaseStaysWithItsLink: an address is not given to the next container while
// this one may still use it, whatever keeps the link from going.
func TestLeaseStaysWithItsLink(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := host.BridgeConfig(object{"ipMasq": nil, "ipam": host.Leases("10.9.0.0/30")})
	c.MustAdd(config)
	for _, command := range []string{"DEL", "GC"} {
		call := c.Call(command, "bridge", withKeys(t, config, object{"cni.dev/valid-attachments": []any{}}))
		call.Strace = &host.Strace{Syscalls: "sendto", Inject: []string{"sendto:error=EPERM"}}
		answer := h.Exec(call)
		if answer.Err() == nil || answer.Trace.Injected == 0 {
			t.Fatalf("%s: got %v, %d messages refused; want an error", command, answer.Err(), answer.Trace.Injected)
		}
	}
	if err := h.Exec(h.Container("c2").Call("ADD", "bridge", config)).Err(); host.CodeOf(err) != 101 {
		t.Errorf("ADD of another container: got %v, want code 101: no address is free", err)
	}
	c.MustDel(config)
	h.AssertNoLease()
}
