package bridge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func hasLink(t *testing.T, n *host.Namespace, name string) bool {
	t.Helper()
	output, err := n.Run(host.Command{Args: []string{"ip", "link", "show", name}})
	if err != nil {
		t.Fatal(err)
	}
	return output.Code == 0
}

func gcCall(config, list string) host.Call {
	return host.Call{Plugin: "bridge", Command: "GC", Config: strings.TrimSuffix(config, "}") + `,"cni.dev/valid-attachments":` + list + `}`}
}

// The bridge outlives its last container: whoever listens on the gateway address
// and what an administrator set on it stay, and the last DEL asks no more of the
// kernel than any other.
func TestBridgeOutlivesItsContainers(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(nil)
	first, second := h.Container("first"), h.Container("second")
	first.MustAdd(config)
	second.MustAdd(config)
	h.Serve("tcp", "10.9.0.1:53")
	h.MustRun("ip", "link", "set", "br0", "type", "bridge", "ageing_time", "12300")
	mac := h.MustRun("cat", "/sys/class/net/br0/address")
	sent := func(c *host.Container) int {
		t.Helper()
		call := c.Call("DEL", "bridge", config)
		call.Strace = &host.Strace{Syscalls: "sendto,recvfrom"}
		answer := h.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		return answer.Trace.Calls["sendto"] + answer.Trace.Calls["recvfrom"]
	}
	if one, last := sent(first), sent(second); one != last || one == 0 {
		t.Errorf("DEL: %d messages, the last one %d, want the same", one, last)
	}
	mustContain(t, "bridge", h.MustRun("ip", "-details", "address", "show", "br0"), "10.9.0.1/24", "fd09::1/64", "ageing_time 12300")

	again := h.Container("again")
	again.MustAdd(config)
	if reply, err := again.Request("tcp", "10.9.0.1:53"); err != nil || reply.Server != h.Name {
		t.Errorf("listener on the gateway address: got %q, %v", reply.Server, err)
	}
	if now := h.MustRun("cat", "/sys/class/net/br0/address"); now != mac {
		t.Errorf("the bridge's MAC went from %s to %s", mac, now)
	}
}

// With "auto" our bridge goes with its last port, and without at a GC with an
// empty list, but neither where it carries anything that is not ours.
func TestBridgeThatCarriesMore(t *testing.T) {
	tests := []struct {
		name  string
		setup string // run on the host while the container is attached
		undo  string // and what lets the bridge go then
	}{
		{"nothing more", "true", ""},
		{"a macvlan", "ip link add link br0 name mv0 type macvlan", "ip link del mv0"},
		{"a macvlan in a container", "ip link add link br0 name mv0 netns second type macvlan; ip -n second link set mv0 up", "ip -n second link del mv0"},
		{"a port", "ip link add p0 master br0 type veth peer name p1", "ip link del p0"},
		{"an address", "ip address add 10.99.0.1/24 dev br0", "ip address del 10.99.0.1/24 dev br0"},
		{"another MAC", "ip link set br0 address 02:00:00:00:00:01", "ip link set br0 address 02:74:72:00:00:01"},
	}
	for _, tt := range tests {
		for _, lifetime := range []any{"auto", nil} {
			t.Run(fmt.Sprint(tt.name, ", ", lifetime), func(t *testing.T) {
				t.Parallel()
				h := host.NewRouting(t)
				c := h.Container("c1")
				h.Container("second")
				config := host.BridgeConfig(object{"bridgeLifetime": lifetime})
				before := h.Dump()
				c.MustAdd(config)
				h.MustRun("sh", "-ec", tt.setup)
				c.MustDel(config)
				for _, list := range []string{"null", `[{"containerID":"elsewhere","ifname":"eth0"}]`} {
					if err := h.Exec(gcCall(config, list)).Err(); err != nil {
						t.Fatal(err)
					}
				}
				if got, want := hasLink(t, h.Namespace, "br0"), lifetime == nil || tt.undo != ""; got != want {
					t.Fatalf("after the last DEL: bridge there: %t, want %t", got, want)
				}
				for _, command := range []string{"true", tt.undo} {
					if command == "" {
						break
					}
					h.MustRun("sh", "-ec", command)
					if err := h.Exec(gcCall(config, "[]")).Err(); err != nil {
						t.Fatal(err)
					}
					if got, want := hasLink(t, h.Namespace, "br0"), command == "true" && tt.undo != ""; got != want {
						t.Fatalf("after GC: bridge there: %t, want %t", got, want)
					}
				}
				h.AssertUnchanged(before, host.Kept...)
				if records := h.MustRun("ls", "/run/trestle/bridge/gateways"); records != "" {
					t.Errorf("got records %s of addresses that are gone", records)
				}
			})
		}
	}
}

// Whoever deletes a bridge, no record tells of its addresses after the next GC, with a
// list or without, or after the next ADD.
func TestBridgeDeletedByOthers(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := host.BridgeConfig(nil)
	records := func() int { return strings.Count(h.MustRun("ls", "/run/trestle/bridge/gateways"), "\n") }
	for name, next := range map[string]func(){
		"GC without a list": func() {
			if err := h.Exec(host.Call{Plugin: "bridge", Command: "GC", Config: config}).Err(); err != nil {
				t.Error(err)
			}
		},
		"GC with a list": func() {
			if err := h.Exec(gcCall(config, `[{"containerID":"c1","ifname":"eth0"}]`)).Err(); err != nil {
				t.Error(err)
			}
		},
		"ADD": func() {
			c.MustAdd(config)
			if got := records(); got != 2 {
				t.Errorf("after ADD: %d records, want those of the new bridge's two addresses", got)
			}
			c.MustDel(transientConfig(nil))
		},
	} {
		c.MustAdd(config)
		c.MustDel(config)
		if got := records(); got != 2 {
			t.Fatalf("%d records of two addresses", got)
		}
		h.MustRun("ip", "link", "del", "br0")
		if next(); records() != 0 {
			t.Errorf("%s: %d records of a bridge that is gone", name, records())
		}
	}
}

// A bridge that a killed ADD left idle is what the next one takes.
func TestBridgeLeftByAKill(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(nil)
	killed := h.Container("c1").Call("ADD", "bridge", config)
	for n := 1; !hasLink(t, h.Namespace, "br0"); n++ {
		killed.Strace = &host.Strace{Syscalls: "sendto", Inject: []string{fmt.Sprintf("sendto:signal=KILL:when=%d", n)}}
		if h.Exec(killed).Trace.Injected == 0 {
			t.Fatal("no kill left a bridge")
		}
	}
	mac := h.MustRun("cat", "/sys/class/net/br0/address")
	c := h.Container("c2")
	c.MustAdd(config)
	if now := h.MustRun("cat", "/sys/class/net/br0/address"); now != mac {
		t.Errorf("the bridge's MAC went from %s to %s", mac, now)
	}
	for _, gateway := range []string{"10.9.0.1", "fd09::1"} {
		if err := c.Ping(netip.MustParseAddr(gateway)); err != nil {
			t.Error(err)
		}
	}
}

// The records of /run may be lost under a running bridge: the next ADD says again whose
// its addresses are, or it would stay for ever.
func TestBridgeWhoseRecordsWereLost(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := host.BridgeConfig(nil)
	h.Container("first").MustAdd(config)
	h.MustRun("rm", "-rf", "/run/trestle")
	c.MustAdd(config)
	if got := strings.Count(h.MustRun("ls", "/run/trestle/bridge/gateways"), "\n"); got != 2 {
		t.Errorf("got %d records of two addresses", got)
	}
	if err := h.Exec(gcCall(config, "[]")).Err(); err != nil {
		t.Fatal(err)
	}
	if hasLink(t, h.Namespace, "br0") {
		t.Error("the idle bridge stays")
	}
}

// So does a GC after the last DEL, where no ADD comes any more; an address that somebody
// else gave the bridge keeps it.
func TestBridgeWhoseRecordsWereLostBeforeDel(t *testing.T) {
	t.Parallel()
	for _, lifetime := range []any{nil, "auto"} {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprint(lifetime, shared), func(t *testing.T) {
				t.Parallel()
				h := host.NewRouting(t)
				c := h.Container("c1")
				config := host.BridgeConfig(object{"bridgeLifetime": lifetime})
				c.MustAdd(config)
				h.MustRun("rm", "-rf", "/run/trestle")
				if shared {
					h.MustRun("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
				}
				c.MustDel(config)
				if err := h.Exec(gcCall(config, "[]")).Err(); err != nil {
					t.Fatal(err)
				}
				if got := hasLink(t, h.Namespace, "br0"); got != shared {
					t.Errorf("got the idle bridge kept %v, want %v", got, shared)
				}
				h.MustRun("sh", "-c", "ip link delete br0 2>&-; true")
			})
		}
	}
}
