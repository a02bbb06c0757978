package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// withPrev is the configuration as libcni gives it to CHECK.
func withPrev(t *testing.T, config, result string) string {
	t.Helper()
	var merged object
	if err := json.Unmarshal([]byte(config), &merged); err != nil {
		t.Fatal(err)
	}
	merged["prevResult"] = json.RawMessage(result)
	data, err := json.Marshal(merged)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// transientConfig is bridgeConfig of a network whose bridge goes with its last port.
func transientConfig(changes object) string {
	edit := object{"bridgeLifetime": "auto"}
	maps.Copy(edit, changes)
	return host.BridgeConfig(edit)
}

func TestBridgeContainersTalk(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	a, b := h.Container("a"), h.Container("b")
	config := host.BridgeConfig(nil)
	a.MustAdd(config)
	of := b.MustAdd(config)
	for _, gateway := range []string{"10.9.0.1", "fd09::1"} {
		of = append(of, netip.MustParseAddr(gateway))
	}
	for _, to := range append(of, host.OutsideIPv4.Addr(), host.OutsideIPv6.Addr()) {
		if err := a.Ping(to); err != nil {
			t.Error(err)
		}
	}
	b.Serve("tcp", ":80")
	h.Outside.Serve("tcp", ":80")
	seen := map[string]netip.Addr{ // by whom is a seen as whom
		"10.9.0.3:80":                                   netip.MustParseAddr("10.9.0.2"),
		host.OutsideIPv4.Addr().String() + ":80":        host.HostIPv4.Addr(),
		"[" + host.OutsideIPv6.Addr().String() + "]:80": host.HostIPv6.Addr(),
	}
	for address, want := range seen {
		reply, err := a.Request("tcp", address)
		if err != nil || reply.Seen.Addr() != want {
			t.Errorf("%s: seen as %s (%v), want %s", address, reply.Seen.Addr(), err, want)
		}
	}
}

func TestBridgeLeavesNothing(t *testing.T) {
	tests := []struct {
		name  string
		netns func(h *host.Host, c *host.Container) string
		gone  bool // the container's namespace is no more to be looked at
	}{
		{"netns as it was", func(_ *host.Host, c *host.Container) string { return c.NetNS }, false},
		{"netns empty", func(*host.Host, *host.Container) string { return "" }, false},
		{"netns deleted", func(_ *host.Host, c *host.Container) string { c.Remove(); return c.NetNS }, true},
		{"netns a plain file", func(h *host.Host, c *host.Container) string {
			c.Remove()
			h.MustRun("touch", "/run/plain")
			return "/run/plain"
		}, true},
	}
	for _, tt := range tests {
		for _, company := range []string{"last port of its bridge", "after others", "beside another"} {
			t.Run(fmt.Sprintf("%s, %s", tt.name, company), func(t *testing.T) {
				t.Parallel()
				h := host.NewRouting(t)
				config := host.BridgeConfig(nil)
				last := company == "last port of its bridge"
				switch other := h.Container("other"); {
				case last:
					config = transientConfig(nil)
				case company == "after others": // who have left the bridge
					other.MustAdd(config)
					other.MustDel(config)
				default:
					other.MustAdd(config)
				}
				c := h.Container("c1")
				host0, container0 := h.Dump(), c.Dump()
				c.MustAdd(config)
				call := c.Call("DEL", "bridge", config)
				call.NetNS = tt.netns(h, c)
				for range 2 {
					if err := h.Exec(call).Err(); err != nil {
						t.Fatal(err)
					}
				}
				h.MustRun("rm", "-f", "/run/plain")
				h.AssertUnchanged(host0, host.Kept...)
				if last {
					h.AssertNoLease()
					if files := h.MustRun("find", "/run/trestle", "-type", "f", "!", "-name", "lock", "!", "-path", "/run/trestle/nft/*"); files != "" {
						t.Errorf("got files %s, want no more than locks and what is known of tables", files)
					}
				}
				if !tt.gone {
					c.AssertUnchanged(container0)
				}
			})
		}
	}
}

// A network edited into nonsense after the ADD must still be left.
func TestBridgeDelWithEditedConfig(t *testing.T) {
	edits := map[string]object{
		"another bridge":        {"bridge": "br9"},
		"no bridge's name":      {"bridge": "longer-than-a-link-can-have"},
		"another subnet":        {"ipam": host.Leases("172.16.0.0/16")},
		"a wrong mtu":           {"mtu": -1},
		"no ipMasq":             {"ipMasq": false},
		"a wrong backend":       {"ipMasqBackend": "pf"},
		"a broken range":        {"ipam": host.Leases("10.9.0.77/24")},
		"a string for a number": {"mtu": "1500", "ipMasq": "yes"},
		"ranges no list":        {"ipam": object{"type": "host-local", "ranges": "10.9.0.0/24"}},
		"a wrong port":          {"runtimeConfig": object{"portMappings": []any{object{"hostPort": 99999, "containerPort": 80}}}},
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			before := h.Dump()
			edit["bridgeLifetime"] = "auto"
			c.MustAdd(host.BridgeConfig(nil))
			c.MustDel(host.BridgeConfig(edit))
			h.AssertUnchanged(before, host.Kept...)
			h.AssertNoLease()
			c.MustDel(host.BridgeConfig(edit)) // now only the configuration tells of a bridge
		})
	}
}

func TestBridgeRefusals(t *testing.T) {
	ranges := func(r ...object) object {
		set := []any{}
		for _, one := range r {
			set = append(set, one)
		}
		return object{"ipam": object{"type": "host-local", "ranges": []any{set}}}
	}
	tests := []struct {
		name   string
		edit   object
		call   func(*host.Call)
		code   uint
		wanted []string
	}{
		{"broken JSON", nil, func(c *host.Call) { c.Config = c.Config[:20] }, 6, []string{"network configuration"}},
		{"unknown version", object{"cniVersion": "3.0.0"}, nil, 1, []string{"cniVersion", "3.0.0"}},
		{"no name", object{"name": nil}, nil, 7, []string{"name"}},
		{"name climbs", object{"name": "../x"}, nil, 7, []string{"name", "../x"}},
		{"container id", nil, func(c *host.Call) { c.ContainerID = "a/b" }, 4, []string{"CNI_CONTAINERID", "a/b"}},
		{"ifname", nil, func(c *host.Call) { c.IfName = "a/b" }, 4, []string{"CNI_IFNAME", "a/b"}},
		{"ifname taken", nil, func(c *host.Call) { c.IfName = "lo" }, 102, []string{"CNI_IFNAME", "lo", "choose another"}},
		{"netns missing", nil, func(c *host.Call) { c.NetNS = "/run/netns/none" }, 4, []string{"CNI_NETNS", "/run/netns/none"}},
		{"netns a plain file", nil, func(c *host.Call) { c.NetNS = "/etc/hostname" }, 4, []string{"CNI_NETNS", "/etc/hostname"}},
		{"host bits", ranges(object{"subnet": "10.9.0.5/24"}), nil, 7, []string{"ipam.ranges[0][0].subnet", "10.9.0.5/24"}},
		{"gateway outside", ranges(object{"subnet": "10.9.0.0/24", "gateway": "10.8.0.1"}), nil, 7, []string{"ipam.ranges[0][0].gateway", "10.8.0.1"}},
		{"range backwards", ranges(object{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.9", "rangeEnd": "10.9.0.3"}), nil, 7, []string{"rangeEnd", "10.9.0.3"}},
		{"ranges overlap", ranges(object{"subnet": "10.9.0.0/24"}, object{"subnet": "10.9.0.0/25"}), nil, 7, []string{"ipam.ranges[0][1]", "overlaps"}},
		{"mtu too small", object{"mtu": 10}, nil, 7, []string{"mtu", "10"}},
		{"mtu too small for IPv6", object{"mtu": 1000}, nil, 7, []string{"mtu", "1000", "1280"}},
		{"hairpin with promisc", object{"hairpinMode": true, "promiscMode": true}, nil, 7, []string{"hairpinMode", "promiscMode"}},
		{"no such IPAM", object{"ipam": object{"type": "no-such"}}, nil, 7, []string{"ipam.type", "no-such", "CNI_PATH"}},
		{"masquerade backend", object{"ipMasqBackend": "pf"}, nil, 7, []string{"ipMasqBackend", "pf", "nftables"}},
		{"port mapping without IPAM", object{"ipam": nil, "ipMasq": nil, "isDefaultGateway": nil, "runtimeConfig": object{
			"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}},
		}}, nil, 7, []string{"runtimeConfig.portMappings[0]", "8080/tcp", "no address", "ipam", "layer 2"}},
		{"bridge is no bridge", object{"bridge": host.Uplink}, nil, 102, []string{"bridge", host.Uplink, "veth"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			h.MustRun("sh", "-c", "echo x >/etc/hostname")
			host0, container0 := h.Dump(), c.Dump()
			call := c.Call("ADD", "bridge", host.BridgeConfig(tt.edit))
			if tt.call != nil {
				tt.call(&call)
			}
			err := h.Exec(call).Err()
			if host.CodeOf(err) != tt.code {
				t.Errorf("got %v, want code %d", err, tt.code)
			}
			for _, want := range tt.wanted {
				if err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			h.AssertUnchanged(host0, host.Kept...)
			c.AssertUnchanged(container0)
			h.AssertNoLease()
		})
	}
}

func TestBridgeRunsNoProcess(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := host.BridgeConfig(nil)
	for _, verb := range []string{"ADD", "DEL"} {
		call := c.Call(verb, "bridge", config)
		call.Strace = &host.Strace{Syscalls: "execve"}
		answer := h.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		if len(answer.Trace.Execs) != 1 {
			t.Errorf("%s ran %v, want the plugin alone", verb, answer.Trace.Execs)
		}
	}
}

// What an ADD finds missing of its own, on or off, and what CHECK says then.
func TestBridgeCheck(t *testing.T) {
	tests := []struct {
		name  string
		spoil []string // run on the host; "@" first: in the container
		want  []string // in the message; none: CHECK passes
	}{
		{"untouched", nil, nil},
		{"capture on the bridge", []string{"ip link set br0 promisc on"}, nil},
		{"udev's MAC on the host end", []string{"ip link set $HOSTVETH address 02:00:00:00:00:77"}, nil},
		{"extra address and route", []string{"@ip address add 10.77.0.1/24 dev eth0", "@ip route add 10.78.0.0/16 via 10.9.0.1"}, nil},
		{"address gone", []string{"@ip address del 10.9.0.2/24 dev eth0"}, []string{"address", "10.9.0.2/24"}},
		{"default route gone", []string{"@ip route del default"}, []string{"route 0.0.0.0/0 via 10.9.0.1", "have none"}},
		{"IPv6 route another", []string{"@ip -6 route replace default via fd09::77 dev eth0"}, []string{"route ::/0", "fd09::77"}},
		{"MAC changed", []string{"@ip link set eth0 down", "@ip link set eth0 address 02:00:00:00:00:99", "@ip link set eth0 up", "@ip route add default via 10.9.0.1"}, []string{"MAC", "02:00:00:00:00:99"}},
		{"bridge down", []string{"ip link set br0 down"}, []string{"bridge br0 up: want on"}},
		{"host veth down", []string{"ip link set $HOSTVETH down"}, []string{"up: want on, have off"}},
		{"down", []string{"@ip link set eth0 down"}, []string{"up: want on, have off"}},
		{"unplugged", []string{"ip link set $HOSTVETH nomaster"}, []string{"master: want br0, have none"}},
		{"hairpin off", []string{"bridge link set dev $HOSTVETH hairpin off"}, []string{"hairpin: want on"}},
		{"gateway gone", []string{"ip address del 10.9.0.1/24 dev br0"}, []string{"gateway", "10.9.0.1/24"}},
		{"forwarding off", []string{"sysctl -qw net.ipv4.ip_forward=0"}, []string{"ip_forward"}},
		{"rules flushed", []string{"nft flush ruleset"}, []string{"chain postrouting of nftables table inet trestle"}},
		{"lease gone", []string{"rm /var/lib/cni/networks/n/10.9.0.2"}, []string{"10.9.0.2"}},
		{"interface gone", []string{"@ip link del eth0"}, []string{"eth0", "none"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			config := host.BridgeConfig(object{"hairpinMode": true})
			added := h.Exec(c.Call("ADD", "bridge", config))
			result, err := added.Result()
			if err != nil {
				t.Fatal(err)
			}
			for _, command := range tt.spoil {
				where := h.Namespace
				if command[0] == '@' {
					where, command = c.Namespace, command[1:]
				}
				where.MustRun(strings.Fields(strings.ReplaceAll(command, "$HOSTVETH", result.Interfaces[1].Name))...)
			}
			err = h.Exec(c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))).Err()
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want an error: %t", err, tt.want != nil)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}
