package bridge

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// What persons, agents and other processes do to what is ours, and what their
// settings ask of us.

// isLeased says whether network n has given out the address.
func isLeased(t *testing.T, h *host.Host, address string) bool {
	t.Helper()
	output, err := h.Run(host.Command{Args: []string{"test", "-e", "/var/lib/cni/networks/n/" + address}})
	if err != nil {
		t.Fatal(err)
	}
	return output.Code == 0
}

// The host veth's name, a hash, says whose it is; what somebody wrote into its
// alias keeps no DEL from it, unless it says that another attachment has it: then
// link and lease both stay.
func TestBridgeDelWithAnotherAlias(t *testing.T) {
	for alias, stays := range map[string]bool{
		"pod web-1": false, "": false, "trestle:x": false, "trestle:n/other/eth0": true,
	} {
		t.Run(alias, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c, config := h.Container("c1"), host.BridgeConfig(nil)
			result, err := h.Exec(c.Call("ADD", "bridge", config)).Result()
			if err != nil {
				t.Fatal(err)
			}
			veth := result.Interfaces[1].Name
			h.MustRun("ip", "link", "set", veth, "alias", alias)
			err = h.Exec(c.Call("DEL", "bridge", config)).Err()
			if stays && host.CodeOf(err) != 102 || !stays && err != nil {
				t.Errorf("DEL: got %v, want code 102: %t", err, stays)
			}
			if got := hasLink(t, h.Namespace, veth); got != stays {
				t.Errorf("link there: %t, want %t", got, stays)
			}
			if got := isLeased(t, h, "10.9.0.2"); got != stays {
				t.Errorf("lease there: %t, want %t: it must not go while the link stands", got, stays)
			}
		})
	}
}

// An alias that is no label of an owner's harms nobody.
func TestBridgeOverlapBesideAnOddAlias(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	result, err := h.Exec(h.Container("c1").Call("ADD", "bridge", host.BridgeConfig(nil))).Result()
	if err != nil {
		t.Fatal(err)
	}
	h.MustRun("ip", "link", "set", result.Interfaces[1].Name, "alias", "trestle:x")
	err = h.Exec(h.Container("c2").Call("ADD", "bridge", host.BridgeConfig(object{"name": "second", "ipam": host.Leases("10.9.0.0/16")}))).Err()
	if host.CodeOf(err) != 102 {
		t.Errorf("got %v, want code 102", err)
	}
}

// Two ADDs of one attachment at once: one of them has the interface, and the
// other's undo does not take it away.
func TestBridgeAddedTwiceAtOnce(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"ipMasq": nil})
	for i := range 20 {
		c := h.Container(fmt.Sprint("c", i))
		errs := make([]error, 2)
		var both sync.WaitGroup
		for k := range errs {
			both.Go(func() { errs[k] = h.Exec(c.Call("ADD", "bridge", config)).Err() })
		}
		both.Wait()
		failed := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
		if len(failed) != 1 || host.CodeOf(failed[0]) != 102 {
			t.Fatalf("%s: got %v, want one of them refused with code 102", c.ID, errs)
		}
		if err := c.Ping(netip.MustParseAddr("10.9.0.1")); err != nil {
			t.Error(err)
		}
	}
}

// Nobody but root can keep an ADD waiting: what is locked, nobody else may open.
func TestBridgeLocksAreRoots(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.Container("c1").MustAdd(host.BridgeConfig(nil))
	for path, mode := range map[string]string{"/run/trestle/bridge": "700", "/run/trestle/bridge/lock": "600"} {
		if got := strings.TrimSpace(h.MustRun("stat", "-c", "%a", path)); got != mode {
			t.Errorf("%s: got mode %s, want %s", path, got, mode)
		}
	}
	config := host.BridgeConfig(nil)
	c := h.Container("c2")
	output, trace, err := h.Trace(host.Strace{Syscalls: "flock"}, host.Command{
		// anybody may open, and so lock, a namespace of his own
		Args: []string{"flock", "/proc/self/ns/net", h.Dirs().Trestle + "/bridge"},
		Env: []string{
			"CNI_COMMAND=ADD", "CNI_CONTAINERID=c2", "CNI_IFNAME=eth0", "CNI_NETNS=" + c.NetNS, "CNI_PATH=" + h.Dirs().Trestle,
			"PATH=" + os.Getenv("PATH"),
		},
		Stdin: config,
	})
	if err != nil || output.Code != 0 || trace.Calls["flock"] < 2 || strings.Contains(trace.Text, "EAGAIN") {
		t.Errorf("ADD beside a lock of the namespace: %v %s, want it not to meet that lock:\n%s", err, output.Stdout, trace.Text)
	}
}

// Links come and go on a busy host while GC lists them.
func TestBridgeGCWhileLinksChange(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(nil)
	keep := h.Container("keep")
	keep.MustAdd(config)
	var many strings.Builder
	for i := range 300 {
		fmt.Fprintf(&many, "link add p%d type veth peer name q%d\n", i, i)
	}
	if output, err := h.Run(host.Command{Args: []string{"ip", "-batch", "-"}, Stdin: many.String()}); err != nil || output.Code != 0 {
		t.Fatalf("make links: %v %s", err, output.Stderr)
	}
	done := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			_, _ = h.Run(host.Command{Args: []string{"sh", "-c", "for i in 1 2 3 4 5 6 7 8; do ip link add churn$i type bridge; ip link del churn$i; done"}}) // only to disturb
		}
	})
	for range 30 {
		if err := h.Exec(gcCall(config, `[{"containerID":"keep","ifname":"eth0"}]`)).Err(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	churn.Wait()
	if err := keep.Ping(netip.MustParseAddr("10.9.0.1")); err != nil {
		t.Error(err)
	}
}

// All ports of a bridge have its MTU, whatever the uplink, the configuration or
// the network has by then.
func TestBridgeMTUOfTheBridge(t *testing.T) {
	tests := []struct {
		name   string
		first  object // who made the bridge
		then   string // run on the host
		second object
		want   string // of all
	}{
		{"the uplink shrinks", nil, "ip link set " + host.Uplink + " mtu 1420", nil, "mtu 1500"},
		{"the uplink grows", nil, "ip link set " + host.Uplink + " mtu 9000", nil, "mtu 1500"},
		{"mtu set later", nil, "true", object{"mtu": 1400}, "mtu 1500"},
		{"another network's mtu", object{"mtu": 1400}, "true", object{"name": "second", "ipam": host.Leases("10.10.0.0/24"), "mtu": 1450}, "mtu 1400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			var all []string
			for i, edit := range []object{tt.first, tt.second} {
				c := h.Container(fmt.Sprint("c", i))
				result, err := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(edit))).Result()
				if err != nil {
					t.Fatal(err)
				}
				h.MustRun("sh", "-c", tt.then)
				all = append(all, h.MustRun("ip", "link", "show", result.Interfaces[1].Name), c.MustRun("ip", "link", "show", "eth0"))
				if got := fmt.Sprintf("mtu %d", result.Interfaces[2].Mtu); got != tt.want {
					t.Errorf("result %d: got %s, want %s", i, got, tt.want)
				}
			}
			for _, link := range append(all, h.MustRun("ip", "link", "show", "br0")) {
				mustContain(t, "link", link, tt.want)
			}
		})
	}
}

// An administrator's bridge has an MTU already; and a bridge of ours that is empty
// takes the one that is configured by now.
func TestBridgeMTUOfABridgeThatExists(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.MustRun("ip", "link", "set", host.Uplink, "mtu", "9000")
	h.MustRun("ip", "link", "add", "br0", "mtu", "1450", "up", "type", "bridge")
	a, b := h.Container("a"), h.Container("b")
	a.MustAdd(host.BridgeConfig(nil))
	mustContain(t, "eth0 on the administrator's", a.MustRun("ip", "link", "show", "eth0"), "mtu 1450")
	c := h.Container("c")
	c.MustAdd(host.BridgeConfig(object{"mtu": 1400}))
	mustContain(t, "eth0 on the administrator's, mtu set", c.MustRun("ip", "link", "show", "eth0"), "mtu 1450")

	own := object{"name": "own", "bridge": "br1", "ipam": host.Leases("10.10.0.0/24")}
	b.MustAdd(host.BridgeConfig(own))
	b.MustDel(host.BridgeConfig(own))
	mustContain(t, "our empty bridge", h.MustRun("ip", "link", "show", "br1"), "mtu 9000")
	own["mtu"] = 1400
	b.MustAdd(host.BridgeConfig(own))
	mustContain(t, "eth0 on our empty bridge", b.MustRun("ip", "link", "show", "eth0"), "mtu 1400")
	mustContain(t, "our empty bridge", h.MustRun("ip", "link", "show", "br1"), "mtu 1400")
}

// A gateway that would cut the host off its own is refused before anything is
// changed, and what only looks like it is not.
func TestBridgeGatewayElsewhere(t *testing.T) {
	tests := []struct {
		name  string
		setup string
		edit  object
		link  string // named by the refusal; "": none
	}{
		{"the host's LAN", "true", object{"ipam": host.Leases("192.0.2.0/24")}, host.Uplink},
		{"a part of it", "true", object{"ipam": host.Leases("192.0.2.128/25")}, host.Uplink},
		{"what holds it", "true", object{"ipam": host.Leases("192.0.0.0/16")}, host.Uplink},
		{"IPv6", "true", object{"ipam": host.Leases("2001:db8::/64")}, host.Uplink},
		{"a route", "ip route add 10.9.0.0/16 via 192.0.2.1", nil, host.Uplink},
		{"a link that is down", "ip link add other type bridge; ip address add 10.9.0.1/24 dev other", nil, "other"},
		{"another bridge of ours", "true", object{"bridge": "br1", "name": "second"}, "br0"},
		{"the router's address", "ip route add 10.80.0.0/16 via 10.9.0.1 onlink dev " + host.Uplink, nil, host.Uplink},
		{"an address of an overlay's", "ip link add fl0 type bridge; ip address add 10.9.0.0/32 dev fl0; ip link set fl0 up", nil, ""},
		{"a tunnel's aggregate", "ip tuntap add tun0 mode tun; ip link set tun0 up; ip route add 10.0.0.0/8 dev tun0", nil, ""},
		{"a tunnel with that very network", "ip tuntap add tun0 mode tun; ip link set tun0 up; ip route add 10.9.0.0/24 dev tun0", nil, "tun0"},
		{"default routes", "ip route add default via 192.0.2.1 metric 77", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			if tt.edit["name"] == "second" {
				h.Container("first").MustAdd(host.BridgeConfig(nil))
			}
			h.MustRun("sh", "-ec", tt.setup)
			before := h.Dump()
			err := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(tt.edit))).Err()
			if tt.link == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if host.CodeOf(err) != 102 {
				t.Fatalf("got %v, want code 102", err)
			}
			mustContain(t, "error", err.Error(), " of "+tt.link, "another subnet")
			h.AssertUnchanged(before, host.Kept...)
			assertNoLeaseOf(t, h, c)
		})
	}
}

func assertNoLeaseOf(t *testing.T, h *host.Host, c *host.Container) {
	t.Helper()
	if output, err := h.Run(host.Command{Args: []string{"grep", "-rl", "--exclude-dir=.trestle", "^" + c.ID + "\r", "/var/lib/cni/networks"}}); err != nil || output.Stdout != "" {
		t.Errorf("%s still has %s (%v)", c.ID, output.Stdout, err)
	}
}
