package bridge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// fakeIPAM installs an IPAM plugin of somebody else's that answers ADD with this
// result, and returns the call that finds it.
func fakeIPAM(h *host.Host, c *host.Container, config, result string) host.Call {
	h.MustRun("mkdir", "-p", "/opt/fake")
	h.MustRun("sh", "-c", `printf '#!/bin/sh\n[ "$CNI_COMMAND" != ADD ] || cat /opt/fake/result\n' >/opt/fake/fake; chmod +x /opt/fake/fake; cat >/opt/fake/result <<'END'
`+result+`
END`)
	call := c.Call("ADD", "bridge", config)
	call.Path = "/opt/fake"
	return call
}

// A gateway outside the subnet, and none at all in its longest spelling, are taken
// from any IPAM plugin.
func TestBridgeGatewayOfOtherIPAM(t *testing.T) {
	tests := []struct {
		name, ips string
		want      []string // of `ip route` in the container
		gateway   string   // on the bridge
	}{
		{"outside, /32", `{"address": "10.5.0.7/32", "gateway": "169.254.1.1"}`, []string{"169.254.1.1 dev eth0 scope link", "default via 169.254.1.1"}, "169.254.1.1/32"},
		{"outside, /24", `{"address": "10.5.0.7/24", "gateway": "10.6.0.1"}`, []string{"10.6.0.1 dev eth0 scope link", "default via 10.6.0.1"}, "10.6.0.1/24"},
		{"0.0.0.0 is none", `{"address": "10.5.0.7/24", "gateway": "0.0.0.0"}`, []string{"default via 10.5.0.1"}, "10.5.0.1/24"},
		{":: is none", `{"address": "fd05::7/64", "gateway": "::"}`, []string{"default via fd05::1"}, "fd05::1/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			config := host.BridgeConfig(object{"ipMasq": nil, "ipam": object{"type": "fake"}})
			call := fakeIPAM(h, c, config, `{"cniVersion": "1.1.0", "ips": [`+tt.ips+`]}`)
			added := h.Exec(call)
			if err := added.Err(); err != nil {
				t.Fatal(err)
			}
			mustContain(t, "routes", c.MustRun("sh", "-c", "ip route; ip -6 route"), tt.want...)
			mustContain(t, "bridge", h.MustRun("ip", "address", "show", "br0"), tt.gateway)
			check := c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))
			check.Path = call.Path
			if err := h.Exec(check).Err(); err != nil {
				t.Errorf("CHECK: %v", err)
			}
		})
	}
}

// SLAAC is off where IPAM gives IPv6 addresses, and left to the kernel elsewhere:
// on a network of the LAN's it is how containers get theirs.
func TestBridgeSLAAC(t *testing.T) {
	for name, tt := range map[string]struct {
		edit object
		want string
	}{
		"layer 2":    {object{"ipam": nil, "isDefaultGateway": nil, "ipMasq": nil}, "1"},
		"IPv4":       {object{"ipam": host.Leases("10.9.0.0/24")}, "1"},
		"dual stack": {nil, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			c.MustAdd(host.BridgeConfig(tt.edit))
			for _, setting := range []string{"accept_ra", "autoconf"} {
				if got := strings.TrimSpace(c.MustRun("sysctl", "-n", "net.ipv6.conf.eth0."+setting)); got != tt.want {
					t.Errorf("%s: got %s, want %s", setting, got, tt.want)
				}
			}
		})
	}
}

const readOnlySysctls = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"

// Where /proc/sys cannot be written, only what a network cannot do without fails it.
func TestBridgeReadOnlySysctls(t *testing.T) {
	tests := []struct {
		name, setup string
		edit        object
		want        []string // in the refusal; none: it works
	}{
		{"layer 2", "true", object{"ipam": nil, "isDefaultGateway": nil, "ipMasq": nil}, nil},
		{"IPv4, forwarding on", "true", object{"ipam": host.Leases("10.9.0.0/24")}, nil},
		{"dual stack, forwarding on", "true", nil, nil},
		{"forwarding off", "sysctl -qw net.ipv4.ip_forward=0", object{"ipam": host.Leases("10.9.0.0/24")}, []string{"isGateway", "net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=1"}},
		{
			"IPv6 off in the container", "ip netns exec c1 sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1", nil,
			[]string{"fd09::2/64", "disable_ipv6", "ipam.ranges"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			h.MustRun("sh", "-ec", tt.setup)
			h.MustRun("sh", "-ec", readOnlySysctls)
			before, inside := h.Dump(), c.Dump()
			err := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(tt.edit))).Err()
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want an error: %t", err, tt.want != nil)
			}
			if err == nil {
				return
			}
			mustContain(t, "error", err.Error(), tt.want...)
			h.AssertUnchanged(before, host.Kept...)
			c.AssertUnchanged(inside)
			h.AssertNoLease()
		})
	}
}

// A host that has IPv6 switched off says so to a dual-stack network, by the field,
// the setting and the way out; to ADD before anything is changed, and to STATUS.
func TestBridgeHostWithoutIPv6(t *testing.T) {
	for _, setup := range []string{
		"sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
		"ip link add br0 up type bridge; sysctl -qw net.ipv6.conf.br0.disable_ipv6=1",
	} {
		t.Run(setup, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.MustRun("sh", "-c", setup)
			c := h.Container("c1")
			before := h.Dump()
			for call, code := range map[*host.Call]uint{
				ptr(c.Call("ADD", "bridge", host.BridgeConfig(nil))):                  2,
				{Plugin: "bridge", Command: "STATUS", Config: host.BridgeConfig(nil)}: 50,
			} {
				err := h.Exec(*call).Err()
				if host.CodeOf(err) != code {
					t.Fatalf("%s: got %v, want code %d", call.Command, err, code)
				}
				mustContain(t, call.Command, err.Error(), "ipam.ranges[1]", "disable_ipv6=0", "take the IPv6 range out")
			}
			h.AssertUnchanged(before, host.Kept...)
			c.MustAdd(host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24")})) // which needs none
		})
	}
}

func ptr[T any](v T) *T { return &v }

// The host veth has no link-local address, which would cost each DEL a second grace
// period on a host that forwards IPv6; the container has one unless it is told not to.
func TestBridgeLinkLocal(t *testing.T) {
	for _, inside := range []bool{true, false} {
		t.Run(fmt.Sprint(inside), func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			result, err := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(object{"ipv6LinkLocal": inside}))).Result()
			if err != nil {
				t.Fatal(err)
			}
			veth := result.Interfaces[1].Name
			if got := h.MustRun("ip", "-6", "address", "show", "dev", veth); got != "" {
				t.Errorf("got %s, want no address on the host veth", got)
			}
			mustContain(t, veth, h.MustRun("ip", "-details", "link", "show", veth), "addrgenmode none")
			has := func() bool { return strings.Contains(c.MustRun("ip", "-6", "address", "show", "dev", "eth0"), "fe80:") }
			if inside {
				host.Await(t, "the kernel gives the container a link-local address", has)
			} else if has() {
				t.Error("got a link-local address in the container, want none")
			}
		})
	}
}

// An IPv6 address is the container's own when ADD returns: the kernel inserts its
// local route by a worker, and drops what comes before. On the first ADD of all the
// bridge's is there, too.
func TestBridgeIPv6IsThereAtOnce(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	for i := range 40 {
		config := host.BridgeConfig(object{"ipMasq": nil, "bridgeLifetime": "auto"})
		c := h.Container(fmt.Sprint("c", i))
		of := c.MustAdd(config)
		for where, address := range map[*host.Namespace]netip.Addr{c.Namespace: of[1], h.Namespace: netip.MustParseAddr("fd09::1")} {
			if got := where.MustRun("ip", "-6", "route", "show", "table", "local", address.String()); !strings.Contains(got, "local "+address.String()) {
				t.Errorf("ADD %d: got %q in %s, want the local route of %s", i, got, where.Name, address)
			}
		}
		c.MustDel(config)
	}
}

// Below 1.1.0 a result has no such fields of routes, and CHECK compares what it has.
func TestBridgeCheckOfRoutesInOldVersions(t *testing.T) {
	ipam := host.Leases("10.9.0.0/24")
	ipam["routes"] = []any{
		object{"dst": "10.50.0.0/16", "mtu": 1300, "priority": 9},
		object{"dst": "10.51.0.0/16", "table": 77},
		object{"dst": "0.0.0.0/0", "priority": 50},
	}
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			config := host.BridgeConfig(object{"cniVersion": version, "ipam": ipam, "ipMasq": nil, "isDefaultGateway": nil, "isGateway": true})
			added := h.Exec(c.Call("ADD", "bridge", config))
			if err := added.Err(); err != nil {
				t.Fatal(err)
			}
			check := c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))
			if err := h.Exec(check).Err(); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			c.MustRun("ip", "route", "del", "10.51.0.0/16", "table", "77")
			if err := h.Exec(check).Err(); host.CodeOf(err) != 103 {
				t.Errorf("CHECK without a route: got %v, want code 103", err)
			}
		})
	}
}
