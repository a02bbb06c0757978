package bridge

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// What others have on the host, and what they do to it meanwhile.

// No container may become the host's router: not by a bridge that somebody else
// made, and not by one that we have nothing to do with (CVE-2020-10749).
func TestBridgeBelievesNoContainer(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.MustRun("sh", "-c", "ip link add br0 up type bridge; ip link add docker0 up type bridge")
	h.MustRun("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.br0.accept_ra=1", "net.ipv6.conf.docker0.accept_ra=1",
		"net.ipv6.conf."+host.Uplink+".accept_ra=1")
	h.Container("c1").MustAdd(host.BridgeConfig(nil))
	for link, want := range map[string]string{"br0": "0", "docker0": "1", host.Uplink: "2"} {
		if got := strings.TrimSpace(h.MustRun("sysctl", "-n", "net.ipv6.conf."+link+".accept_ra")); got != want {
			t.Errorf("accept_ra of %s: got %s, want %s", link, got, want)
		}
	}
}

// An address may come back with another MAC; nobody must go on sending to the old one.
func TestBridgeAddressReuseWithAnotherMAC(t *testing.T) {
	asked := func(addresses ...string) object { return object{"cni": object{"ips": addresses}} }
	tests := []struct {
		name          string
		first, second object
	}{
		{"IPv6 beside another IPv4", object{"args": asked("10.9.0.77", "fd09::77")}, object{"args": asked("10.9.0.78", "fd09::77")}},
		{
			"a MAC asked for once",
			object{"args": asked("10.9.0.77", "fd09::77"), "runtimeConfig": object{"mac": "02:00:00:00:00:01"}},
			object{"args": asked("10.9.0.78", "fd09::77")},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			neighbour := h.Container("neighbour")
			neighbour.MustAdd(host.BridgeConfig(nil))
			for i, edit := range []object{tt.first, tt.second} {
				c := h.Container(fmt.Sprintf("c%d", i))
				c.MustAdd(host.BridgeConfig(edit))
				for _, from := range []*host.Namespace{h.Namespace, neighbour.Namespace} {
					if err := from.PingAtOnce(netip.MustParseAddr("fd09::77")); err != nil {
						t.Errorf("use %d: %v", i+1, err)
					}
				}
				c.MustDel(host.BridgeConfig(edit))
			}
		})
	}
}

// A dead container took its link along; its MAC check goes by GC, with and
// without a list.
func TestBridgeGCOfTheDead(t *testing.T) {
	for _, list := range []string{"[]", "null"} {
		t.Run(list, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			config := host.BridgeConfig(object{"macspoofchk": true})
			c.MustAdd(config)
			c.MustRun("ip", "link", "del", "eth0")
			call := host.Call{Plugin: "bridge", Command: "GC", Config: strings.TrimSuffix(config, "}") + `,"cni.dev/valid-attachments":` + list + `}`}
			if err := h.Exec(call).Err(); err != nil {
				t.Fatal(err)
			}
			if records := h.MustRun("find", "/run/trestle/macspoofchk", "-type", "f"); records != "" {
				t.Errorf("got records %s, want none", records)
			}
			if rules := h.MustRun("nft", "list", "ruleset"); strings.Contains(rules, "table bridge") {
				t.Errorf("got %s, want no table of the bridge family", rules)
			}
		})
	}
}

// After a flush the next ADD checks the MACs of all ports again, not of its own only.
func TestBridgeMACSpoofCheckAfterFlush(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"macspoofchk": true})
	h.Container("a").MustAdd(config)
	h.MustRun("nft", "flush", "ruleset")
	h.Container("b").MustAdd(config)
	mustContain(t, "rules", h.MustRun("nft", "list", "table", "bridge", "trestle"), "n/a/eth0", "n/b/eth0", `"veth`)
}

// The number of the container's other end means nothing outside of the namespace
// that it is in.
func TestBridgeLeavesOthersPortsAlone(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.MustRun("sh", "-c", "ip link add br0 up type bridge; ip link add name precious index 777 master br0 type veth peer name other")
	c, third := h.Container("c1"), h.Container("third")
	third.MustRun("ip", "link", "add", "name", "p0", "index", "777", "type", "veth", "peer", "name", "eth0")
	h.MustRun("ip", "-n", third.ID, "link", "set", "eth0", "netns", c.ID)
	c.MustDel(host.BridgeConfig(nil))
	h.MustRun("ip", "link", "show", "precious")
	c.MustRun("ip", "link", "show", "eth0")
}

// Two networks may share a gateway; the failed ADD of one must not take it away.
func TestBridgeSharedGatewayStays(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	ports := object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}}
	h.Container("holder").MustAdd(host.BridgeConfig(object{"name": "o", "bridge": "br9", "ipam": host.Leases("10.55.0.0/24"), "runtimeConfig": ports}))
	half := func(name, start, end string) object {
		return object{"name": name, "ipam": object{"type": "host-local", "subnet": "10.9.0.0/24", "rangeStart": start, "rangeEnd": end}}
	}
	b := h.Container("b")
	b.MustAdd(host.BridgeConfig(half("second", "10.9.0.100", "10.9.0.200")))
	first := half("first", "10.9.0.2", "10.9.0.99")
	first["runtimeConfig"] = ports
	if err := h.Exec(h.Container("a").Call("ADD", "bridge", host.BridgeConfig(first))).Err(); host.CodeOf(err) != 102 {
		t.Fatalf("got %v, want code 102: the port is taken", err)
	}
	if err := b.Ping(netip.MustParseAddr("10.9.0.1")); err != nil {
		t.Error(err)
	}
}

// What a failed ADD did to a bridge of somebody else's it undoes. The bridge's MAC is chosen, so that the kernel has
// entered it into the forwarding database: before a bridge's first port that is all that an ADD changes for good on 5.10.
func TestBridgeUndoesWhatOthersOwn(t *testing.T) {
	tests := []struct{ name, setup string }{
		{"promiscuous", "ip link add br0 up address 02:00:00:00:00:09 type bridge"},
		{"an address beside", "ip link add br0 up address 02:00:00:00:00:09 type bridge; ip address add 10.99.0.254/24 brd + dev br0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			ports := object{"portMappings": []any{object{"hostPort": 8080, "containerPort": 80}}}
			h.Container("holder").MustAdd(host.BridgeConfig(object{"name": "o", "bridge": "br9", "ipam": host.Leases("10.55.0.0/24"), "runtimeConfig": ports}))
			h.MustRun("sh", "-c", tt.setup)
			c := h.Container("c1")
			before := h.Dump()
			config := host.BridgeConfig(object{"promiscMode": true, "forceAddress": true, "runtimeConfig": ports})
			if err := h.Exec(c.Call("ADD", "bridge", config)).Err(); host.CodeOf(err) != 102 {
				t.Fatalf("got %v, want code 102: the port is taken", err)
			}
			h.AssertUnchanged(before, host.Kept...)
		})
	}
}

// What later plugins of the list did is no fault of ours.
func TestBridgeCheckAfterLaterPlugins(t *testing.T) {
	const ours, theirs = `{"dst":"0.0.0.0/0","gw":"10.9.0.1"}`, `{"dst":"10.61.0.0/16","gw":"10.60.0.1"}`
	tests := []struct {
		name   string
		spoil  string // run in the container
		routes string // of the result
	}{
		{"the default route dropped", "ip route del default", ``},
		{"another interface with routes", "true", ours + "," + theirs},
		{"MTU changed without a word", "ip link set eth0 mtu 1400", ours},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			config := host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24")})
			added := h.Exec(c.Call("ADD", "bridge", config))
			var result map[string]any
			if err := json.Unmarshal([]byte(added.Stdout), &result); added.Err() != nil || err != nil {
				t.Fatal(added.Err(), err)
			}
			c.MustRun(strings.Fields(tt.spoil)...)
			result["routes"] = json.RawMessage("[" + tt.routes + "]")
			edited, err := json.Marshal(result)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Exec(c.Call("CHECK", "bridge", withPrev(t, config, string(edited)))).Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// An IPAM plugin that gives no address has failed, whatever it says.
func TestBridgeIPAMWithoutAddress(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.MustRun("sh", "-c", `mkdir -p /opt/odd; printf '#!/bin/sh\n[ "$CNI_COMMAND" != ADD ] || echo "{\\"cniVersion\\":\\"1.1.0\\"}"\n' >/opt/odd/odd; chmod +x /opt/odd/odd`)
	c := h.Container("c1")
	before := h.Dump()
	call := c.Call("ADD", "bridge", host.BridgeConfig(object{"ipam": object{"type": "odd"}}))
	call.Path = "/opt/odd"
	err := h.Exec(call).Err()
	if host.CodeOf(err) != 6 {
		t.Fatalf("got %v, want code 6", err)
	}
	mustContain(t, "error", err.Error(), "ipam.type", "odd", "no address")
	h.AssertUnchanged(before)
}
