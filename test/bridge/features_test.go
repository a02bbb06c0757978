package bridge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/test/host"
)

func mustContain(t *testing.T, what, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%s: got %q, want %q in it", what, text, want)
		}
	}
}

func TestBridgeMTU(t *testing.T) {
	tests := []struct {
		name   string
		uplink string
		mtu    int
		want   string
	}{
		{"that of the default route's link", "9000", 0, "mtu 9000"},
		{"as configured", "9000", 1400, "mtu 1400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.MustRun("ip", "link", "set", host.Uplink, "mtu", tt.uplink)
			c := h.Container("c1")
			answer := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(object{"mtu": tt.mtu})))
			result, err := answer.Result()
			if err != nil {
				t.Fatal(err)
			}
			mustContain(t, "eth0", c.MustRun("ip", "link", "show", "eth0"), tt.want)
			mustContain(t, "host veth", h.MustRun("ip", "link", "show", result.Interfaces[1].Name), tt.want)
			mustContain(t, "bridge", h.MustRun("ip", "link", "show", "br0"), tt.want)
			if got := fmt.Sprintf("mtu %d", result.Interfaces[2].Mtu); got != tt.want {
				t.Errorf("result: got %s, want %s", got, tt.want)
			}
		})
	}
}

// An address that is used again must be reachable at once, though a neighbour
// still has the entry of its last user: the reference loses 28 seconds.
func TestBridgeAddressReuse(t *testing.T) {
	tests := []struct {
		name string
		edit object
	}{
		{"MAC from the address", nil},
		{"MAC asked for", object{"runtimeConfig": object{"mac": "02:00:00:00:00:%02d"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			neighbour := h.Container("neighbour")
			neighbour.MustAdd(host.BridgeConfig(nil))
			for i := 1; i <= 3; i++ {
				edit := object{"args": object{"cni": object{"ips": []string{"10.9.0.77", "fd09::77"}}}}
				for k, v := range tt.edit {
					edit[k] = v
				}
				config := host.BridgeConfig(edit)
				if tt.edit != nil {
					config = fmt.Sprintf(strings.ReplaceAll(config, `02:00:00:00:00:%02d`, `02:00:00:00:00:%02[1]d`), i)
				}
				c := h.Container(fmt.Sprintf("c%d", i))
				c.MustAdd(config)
				for _, from := range []*host.Namespace{h.Namespace, neighbour.Namespace} {
					for _, to := range []string{"10.9.0.77", "fd09::77"} {
						if err := from.PingAtOnce(netip.MustParseAddr(to)); err != nil {
							t.Errorf("use %d: %v", i, err)
						}
					}
				}
				c.MustDel(config)
			}
		})
	}
}

func TestBridgeSharedByNetworks(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	a, b, c := h.Container("a"), h.Container("b"), h.Container("c")
	first := host.BridgeConfig(object{"ipam": host.Leases("10.1.0.0/24")})
	second := host.BridgeConfig(object{"name": "second", "ipam": host.Leases("10.2.0.0/24")})
	a.MustAdd(first)
	b.MustAdd(second)
	mustContain(t, "bridge", h.MustRun("ip", "-4", "address", "show", "br0"), "10.1.0.1/24", "10.2.0.1/24")
	if err := a.Ping(netip.MustParseAddr("10.2.0.2")); err != nil {
		t.Error(err)
	}

	before := h.Dump()
	third := object{"name": "third", "ipam": host.Leases("10.2.0.0/16")}
	err := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(third))).Err()
	if host.CodeOf(err) != 102 {
		t.Fatalf("overlap: got %v, want code 102", err)
	}
	mustContain(t, "overlap", err.Error(), "br0", "10.2.0.1/24", "10.2.0.1/16", "n, second", "ip address del")
	h.AssertUnchanged(before, host.Kept...)

	third["forceAddress"] = true // which is for the network's own address, not for another's
	if err := h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(third))).Err(); host.CodeOf(err) != 102 {
		t.Fatalf("overlap with forceAddress: got %v, want code 102", err)
	}
	h.AssertUnchanged(before, host.Kept...)
}

// A network that moves to another subnet takes its own former gateway off the
// bridge, and nobody else's.
func TestBridgeForceAddress(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.Container("other").MustAdd(host.BridgeConfig(object{"name": "other", "ipam": host.Leases("10.1.0.0/24")}))
	h.MustRun("ip", "address", "add", "10.3.0.1/24", "dev", "br0")
	h.Container("old").MustAdd(host.BridgeConfig(nil))
	moved := object{"ipam": host.Leases("10.10.0.0/24")}
	h.Container("kept").MustAdd(host.BridgeConfig(moved)) // without the key nothing goes
	mustContain(t, "bridge", h.MustRun("ip", "-4", "address", "show", "br0"), "10.9.0.1/24", "10.10.0.1/24")

	moved["ipam"], moved["forceAddress"] = host.Leases("10.8.0.0/13"), true // holds both former ones
	moved["ipam"] = object{"type": "host-local", "ranges": []any{[]any{object{"subnet": "10.8.0.0/14", "rangeStart": "10.11.0.2"}}}}
	c := h.Container("new")
	c.MustAdd(host.BridgeConfig(moved))
	addresses := h.MustRun("ip", "address", "show", "br0")
	mustContain(t, "bridge", addresses, "10.1.0.1/24", "10.3.0.1/24", "10.8.0.1/14", "fd09::1/64")
	for _, former := range []string{"10.9.0.1/24", "10.10.0.1/24"} {
		if strings.Contains(addresses, former) {
			t.Errorf("got %s, want the network's former %s gone", addresses, former)
		}
	}
	if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Error(err)
	}
}

// A bridge that somebody else made stays, and a gateway can be put on it though
// it has no ports and therefore no MAC of its own.
func TestBridgeThatExists(t *testing.T) {
	for _, setup := range []string{
		"ip link add br0 type bridge",
		// its MAC is that of its lowest port, and goes with it
		"ip link add br0 type bridge; ip link add x type veth peer name y; ip link set x master br0; ip link del x",
	} {
		t.Run(setup, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.MustRun("sh", "-c", setup)
			c := h.Container("c1")
			config := host.BridgeConfig(nil)
			c.MustAdd(config)
			mac := h.MustRun("cat", "/sys/class/net/br0/address")
			// an id without the MAC is that of a bridge which does not take frames for it (5.10)
			if id := strings.TrimSpace(h.MustRun("cat", "/sys/class/net/br0/bridge/bridge_id")); "8000."+strings.ReplaceAll(strings.TrimSpace(mac), ":", "") != id {
				t.Errorf("the bridge with MAC %s has id %s", mac, id)
			}
			h.Container("c2").MustAdd(config)
			if again := h.MustRun("cat", "/sys/class/net/br0/address"); again != mac {
				t.Errorf("the bridge's MAC went from %s to %s", mac, again)
			}
			if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
				t.Error(err)
			}
			c.MustDel(config)
			h.MustRun("ip", "link", "show", "br0")
		})
	}
}

// The kernel gives a bridge 1023 ports.
func TestBridgeFull(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	var batch strings.Builder
	batch.WriteString("link add br0 up type bridge\n")
	for i := range 1023 {
		fmt.Fprintf(&batch, "link add p%d master br0 type veth peer name q%d\n", i, i)
	}
	output, err := h.Run(host.Command{Args: []string{"ip", "-batch", "-"}, Stdin: batch.String()})
	if err != nil || output.Code != 0 {
		t.Fatalf("fill the bridge: %v %s", err, output.Stderr)
	}
	c := h.Container("c1")
	before := h.Dump()
	err = h.Exec(c.Call("ADD", "bridge", host.BridgeConfig(nil))).Err()
	if host.CodeOf(err) != 102 {
		t.Fatalf("got %v, want code 102", err)
	}
	mustContain(t, "error", err.Error(), "br0 is full", "1023")
	h.AssertUnchanged(before, host.Kept...)
}

func TestBridgeLayer2(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := transientConfig(object{"ipam": nil, "isDefaultGateway": nil})
	a, b := h.Container("a"), h.Container("b")
	before := h.Dump()
	for i, c := range []*host.Container{a, b} {
		answer := h.Exec(c.Call("ADD", "bridge", config))
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		c.MustRun("ip", "address", "add", fmt.Sprintf("10.5.0.%d/24", i+1), "dev", "eth0")
		if err := h.Exec(c.Call("CHECK", "bridge", withPrev(t, config, answer.Stdout))).Err(); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	if err := a.Ping(netip.MustParseAddr("10.5.0.2")); err != nil {
		t.Error(err)
	}
	for _, c := range []*host.Container{a, b} {
		c.MustDel(config)
	}
	h.AssertUnchanged(before, host.Kept...)
}

func TestBridgePortFlags(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	isolated := host.BridgeConfig(object{"portIsolation": true})
	a, b, c := h.Container("a"), h.Container("b"), h.Container("c")
	a.MustAdd(isolated)
	b.MustAdd(isolated)
	c.MustAdd(host.BridgeConfig(object{"promiscMode": true}))
	if err := a.Briefly().Ping(netip.MustParseAddr("10.9.0.3")); err == nil {
		t.Error("an isolated port reaches another one")
	}
	for _, to := range []string{"10.9.0.1", "10.9.0.4", "fd09::4"} {
		if err := a.Ping(netip.MustParseAddr(to)); err != nil {
			t.Error(err)
		}
	}
	mustContain(t, "bridge", h.MustRun("ip", "-d", "link", "show", "br0"), "promiscuity 1", "PROMISC")
}

func TestBridgeMACSpoofCheck(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	checked := transientConfig(object{"macspoofchk": true})
	before := h.Dump()
	a, b := h.Container("a"), h.Container("b")
	added := h.Exec(a.Call("ADD", "bridge", checked))
	if err := added.Err(); err != nil {
		t.Fatal(err)
	}
	b.MustAdd(checked)
	peer := netip.MustParseAddr("10.9.0.3")
	if err := a.Ping(peer); err != nil {
		t.Error(err)
	}
	mustContain(t, "rules", h.MustRun("nft", "list", "table", "bridge", "trestle"), "n/a/eth0", "n/b/eth0")
	if err := h.Exec(a.Call("CHECK", "bridge", withPrev(t, checked, added.Stdout))).Err(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	a.MustRun("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
	if err := a.Briefly().Ping(peer); err == nil {
		t.Error("a forged MAC got through")
	}
	a.MustDel(checked)
	if err := b.Ping(netip.MustParseAddr("10.9.0.1")); err != nil {
		t.Error(err)
	}
	b.MustDel(checked)
	h.AssertUnchanged(before, host.Kept...)
}

// The check is not NAT's: it goes at DEL on a host without any NAT of ours.
func TestBridgeMACSpoofCheckWithoutNAT(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	for name, config := range map[string]string{
		"routed":  transientConfig(object{"macspoofchk": true, "ipMasq": nil}),
		"layer 2": transientConfig(object{"macspoofchk": true, "ipMasq": nil, "isDefaultGateway": nil, "ipam": object{}}),
	} {
		before := h.Dump()
		c := h.Container("c1")
		c.MustAdd(config)
		mustContain(t, name, h.MustRun("nft", "list", "ruleset"), "n/c1/eth0")
		c.MustDel(config)
		c.Remove()
		h.AssertUnchanged(before, host.Kept...)
	}
}

func TestBridgeIPv6(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.MustRun("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf."+host.Uplink+".accept_ra=1")
	c := h.Container("c1")
	c.MustRun("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
	c.MustAdd(host.BridgeConfig(nil))
	settings := []struct {
		where      *host.Namespace
		name, want string
	}{
		{h.Namespace, "net.ipv6.conf.all.forwarding", "1"},
		{h.Namespace, "net.ipv4.ip_forward", "1"},
		{h.Namespace, "net.ipv6.conf." + host.Uplink + ".accept_ra", "2"},
		{h.Namespace, "net.ipv6.conf.br0.accept_ra", "0"},
		{c.Namespace, "net.ipv6.conf.eth0.accept_ra", "0"},
		{c.Namespace, "net.ipv6.conf.eth0.autoconf", "0"},
		{c.Namespace, "net.ipv6.conf.eth0.disable_ipv6", "0"},
	}
	for _, s := range settings {
		if got := strings.TrimSpace(s.where.MustRun("sysctl", "-n", s.name)); got != s.want {
			t.Errorf("%s in %s: got %s, want %s", s.name, s.where.Name, got, s.want)
		}
	}
	if err := c.Ping(host.OutsideIPv6.Addr()); err != nil {
		t.Error(err)
	}
	if tentative := c.MustRun("ip", "-6", "address", "show", "dev", "eth0", "tentative"); strings.Contains(tentative, "fd09") {
		t.Errorf("got %s, want the address usable at once", tentative)
	}
}

func TestBridgeDAD(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"enabledad": true, "args": object{"cni": object{"ips": []string{"fd09::77"}}}})
	first := h.Container("first")
	first.MustAdd(config)
	if tentative := first.MustRun("ip", "-6", "address", "show", "dev", "eth0", "tentative"); strings.Contains(tentative, "fd09") {
		t.Errorf("got %s, want detection to be over", tentative)
	}
	// somebody takes the address behind IPAM's back
	h.MustRun("rm", "/var/lib/cni/networks/n/fd09::77")
	second := h.Container("second")
	before := h.Dump()
	err := h.Exec(second.Call("ADD", "bridge", config)).Err()
	if err == nil {
		t.Fatal("got no error, though a neighbour has the address")
	}
	mustContain(t, "error", err.Error(), "fd09::77", "duplicate")
	h.AssertUnchanged(before, host.Kept...)
}

func TestBridgeQuietIPv4(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := host.BridgeConfig(object{"ipv6LinkLocal": false, "ipam": host.Leases("10.9.0.0/24")})
	result, err := h.Exec(c.Call("ADD", "bridge", config)).Result()
	if err != nil {
		t.Fatal(err)
	}
	for where, link := range map[*host.Namespace]string{c.Namespace: "eth0", h.Namespace: result.Interfaces[1].Name} {
		if got := where.MustRun("ip", "-6", "address", "show", "dev", link); strings.Contains(got, "fe80") {
			t.Errorf("got %s, want no link-local address", got)
		}
	}
	if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Error(err)
	}
}

func TestBridgeRoutesWithAllFields(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	ipam := host.Leases("10.9.0.0/24")
	ipam["routes"] = []any{
		object{"dst": "10.50.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 9, "table": 77},
		object{"dst": "10.51.0.0/16", "gw": "10.9.0.9"},
		object{"dst": "0.0.0.0/0"},
		object{"dst": "10.52.0.0/16", "scope": 253},
	}
	config := host.BridgeConfig(object{"ipam": ipam})
	added := h.Exec(c.Call("ADD", "bridge", config))
	if err := added.Err(); err != nil {
		t.Fatal(err)
	}
	mustContain(t, "table 77", c.MustRun("ip", "route", "show", "table", "77"), "10.50.0.0/16 via 10.9.0.1", "mtu 1300", "advmss 1200", "metric 9")
	mustContain(t, "main table", c.MustRun("ip", "route"), "10.51.0.0/16 via 10.9.0.9", "default via 10.9.0.1", "10.52.0.0/16 dev eth0 scope link")
	check := c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))
	if err := h.Exec(check).Err(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	c.MustRun("ip", "route", "change", "10.50.0.0/16", "via", "10.9.0.1", "mtu", "1299", "advmss", "1200", "metric", "9", "table", "77")
	if err := h.Exec(check).Err(); host.CodeOf(err) != 103 {
		t.Errorf("CHECK of a changed route: got %v, want code 103", err)
	}
}

// An IPAM plugin of somebody else's is executed, and its errors keep their code.
func TestBridgeOtherIPAM(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	before := h.Dump()
	for _, verb := range []string{"ADD", "DEL"} {
		call := c.Call(verb, "bridge", transientConfig(nil))
		call.Path = h.Dirs().Reference
		call.Strace = &host.Strace{Syscalls: "execve"}
		answer := h.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		if len(answer.Trace.Execs) != 2 || answer.Trace.Execs[1] != h.Dirs().Reference+"/host-local" {
			t.Errorf("%s ran %v, want the other host-local once", verb, answer.Trace.Execs)
		}
	}
	h.AssertUnchanged(before, host.Kept...)
	call := c.Call("ADD", "bridge", host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/32")}))
	call.Path = h.Dirs().Reference
	err := h.Exec(call).Err()
	if err == nil {
		t.Fatal("got no error for a pool without an address")
	}
	mustContain(t, "error", err.Error(), "plugin host-local")
	h.AssertUnchanged(before, host.Kept...)
}

func TestBridgeGC(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"macspoofchk": true})
	other := transientConfig(object{"name": "other", "ipam": host.Leases("10.7.0.0/24")})
	before := h.Dump()
	keep, drop, unlisted := h.Container("keep"), h.Container("drop"), h.Container("unlisted")
	unlisted.MustAdd(other)
	keep.MustAdd(config)
	withKeep := h.Dump()
	drop.MustAdd(config)
	withBoth := h.Dump()

	gc := func(list string) {
		t.Helper()
		call := host.Call{Plugin: "bridge", Command: "GC", Config: strings.TrimSuffix(config, "}") + list + "}"}
		if err := h.Exec(call).Err(); err != nil {
			t.Fatal(err)
		}
	}
	gc("")
	h.AssertUnchanged(withBoth, host.Kept...)
	gc(`,"cni.dev/valid-attachments":[{"containerID":"keep","ifname":"eth0"}]`)
	h.AssertUnchanged(withKeep, host.Kept...)
	gc(`,"cni.dev/valid-attachments":[]`)
	h.AssertNoLease()
	if err := unlisted.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Errorf("another network suffered: %v", err)
	}
	unlisted.MustDel(other)
	h.AssertUnchanged(before, host.Kept...)
}

func TestBridgeStatus(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(nil)
	before := h.Dump()
	call := host.Call{Plugin: "bridge", Command: "STATUS", Config: config}
	if err := h.Exec(call).Err(); err != nil {
		t.Error(err)
	}
	h.AssertUnchanged(before)

	ipam := host.Leases("10.9.0.0/30")
	ipam["statusWhenFull"] = "unavailable"
	small := host.BridgeConfig(object{"ipam": ipam})
	h.Container("c1").MustAdd(small) // takes the only address
	call.Config = small
	err := h.Exec(call).Err()
	if host.CodeOf(err) != 50 {
		t.Fatalf("pool exhausted: got %v, want code 50", err)
	}
	mustContain(t, "error", err.Error(), "10.9.0.0/30")

	call.Config = config
	output, runErr := h.Run(host.Command{
		Args:  []string{"setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", h.Dirs().Trestle + "/bridge"},
		Env:   []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + h.Dirs().Trestle},
		Stdin: config,
	})
	if runErr != nil || output.Code == 0 || !strings.Contains(output.Stdout, `"code": 50`) {
		t.Errorf("without CAP_NET_ADMIN: got %v %s, want code 50", runErr, output.Stdout)
	}
}

// TestBridgeWithoutFiles: a process that may open few files is told so, and not that its
// CNI_NETNS is no namespace.
func TestBridgeWithoutFiles(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	h.Container("c1")
	before := h.Dump()
	for files := 3; files < 6; files++ { // 3 are standard input, output and error
		output, err := h.Run(host.Command{
			Args:  []string{"prlimit", fmt.Sprintf("--nofile=%d", files), h.Dirs().Trestle + "/bridge"},
			Env:   []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/c1", "CNI_PATH=" + h.Dirs().Trestle},
			Stdin: host.BridgeConfig(nil),
		})
		if err != nil || !strings.Contains(output.Stdout, "too many open files") {
			t.Errorf("with %d files: got %v %s, want what is wrong", files, err, output.Stdout)
		}
	}
	h.AssertUnchanged(before)
}

// TestStatusOfFullRecords: an ADD needs records, so STATUS fails while they cannot be written.
func TestStatusOfFullRecords(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	config := host.BridgeConfig(nil)
	const chained = `{"cniVersion": "1.1.0", "name": "n", "type": %q}`
	h.MustRun("sh", "-c", "mkdir -p /run/trestle && mount -t tmpfs -o size=64k,mode=700 none /run/trestle")
	for _, trouble := range []struct{ name, makes, ends, want string }{
		{"full", "dd if=/dev/zero of=/run/trestle/full 2>/dev/null || true", "rm /run/trestle/full", "no space left"},
		{"read-only", "mount -o remount,ro /run/trestle", "mount -o remount,rw /run/trestle", "read-only"},
	} {
		h.MustRun("sh", "-c", trouble.makes)
		if err := h.Exec(c.Call("ADD", "bridge", config)).Err(); host.CodeOf(err) != 5 {
			t.Errorf("%s: ADD: got %v, want code 5", trouble.name, err)
		}
		for plugin, config := range map[string]string{
			"bridge": config, "portmap": fmt.Sprintf(chained, "portmap"), "firewall": fmt.Sprintf(chained, "firewall"), "tuning": fmt.Sprintf(chained, "tuning"),
		} {
			status := host.Call{Plugin: plugin, Command: "STATUS", Config: config}
			if err := h.Exec(status).Err(); host.CodeOf(err) != 50 || !strings.Contains(err.Error(), "/run/trestle: "+trouble.want) {
				t.Errorf("%s: STATUS of %s: got %v, want code 50 and %q", trouble.name, plugin, err, trouble.want)
			}
			h.MustRun("sh", "-c", trouble.ends)
			if err := h.Exec(status).Err(); err != nil {
				t.Errorf("%s no more: STATUS of %s: %v", trouble.name, plugin, err)
			}
			h.MustRun("sh", "-c", trouble.makes)
		}
		h.MustRun("sh", "-c", trouble.ends)
	}
}

// The reference's containers are left by our DEL, too.
func TestBridgeDetachesTheReferencesContainers(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"ipMasqBackend": "nftables"})
	c, stranger := h.Container("c1"), h.Container("stranger")
	h.MustRun("ip", "link", "add", "eth0", "netns", stranger.ID, "type", "veth", "peer", "name", "elsewhere")
	add := c.Call("ADD", h.Dirs().Reference+"/bridge", config)
	add.Path = h.Dirs().Reference
	if err := h.Exec(add).Err(); err != nil {
		t.Fatal(err)
	}
	c.MustDel(config)
	h.AssertNoLease()
	if out, err := c.Run(host.Command{Args: []string{"ip", "link", "show", "eth0"}}); err != nil || out.Code == 0 {
		t.Errorf("got %s %v, want eth0 gone", out.Stdout, err)
	}
	stranger.MustDel(config) // whose eth0 is on no bridge of ours
	stranger.MustRun("ip", "link", "show", "eth0")
}

func TestBridgeByLibcni(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	network := h.Network(`{"cniVersion":"1.1.0","name":"n","plugins":[` + host.BridgeConfig(nil) + `]}`)
	c := h.Container("c1")
	if err := network.Status(); err != nil {
		t.Error(err)
	}
	if _, err := network.Add(c.Attachment()); err != nil {
		t.Fatal(err)
	}
	if err := network.Check(c.Attachment()); err != nil {
		t.Error(err)
	}
	if err := network.GC(&libcni.GCArgs{}); err != nil {
		t.Error(err)
	}
	h.AssertNoLease()
}

// A network that declares the capability portMappings at the bridge needs no
// portmap after it: one process does the whole chain.
func TestBridgeMapsPorts(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c, neighbour := h.Container("c1"), h.Container("neighbour")
	mapped := host.BridgeConfig(object{"runtimeConfig": object{"portMappings": []any{
		object{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
	}}})
	before := h.Dump()
	neighbour.MustAdd(transientConfig(nil))
	withNeighbour := h.Dump()
	call := c.Call("ADD", "bridge", mapped)
	call.Strace = &host.Strace{Syscalls: "execve"}
	added := h.Exec(call)
	if err := added.Err(); err != nil {
		t.Fatal(err)
	}
	if len(added.Trace.Execs) != 1 {
		t.Errorf("ADD ran %v, want the plugin alone", added.Trace.Execs)
	}
	c.Serve("tcp", ":80")
	for _, from := range []*host.Namespace{h.Outside, h.Namespace, c.Namespace, neighbour.Namespace} {
		for _, to := range []netip.Addr{host.HostIPv4.Addr(), host.HostIPv6.Addr()} {
			if reply, err := from.Request("tcp", netip.AddrPortFrom(to, 8080).String()); err != nil || reply.Server != c.Name {
				t.Errorf("%s to %s: got %q, %v, want %s", from.Name, to, reply.Server, err, c.Name)
			}
		}
	}
	if reply, err := h.Request("tcp", "127.0.0.1:8080"); err != nil || reply.Server != c.Name {
		t.Errorf("127.0.0.1: got %q, %v", reply.Server, err)
	}
	check := c.Call("CHECK", "bridge", withPrev(t, mapped, added.Stdout))
	if err := h.Exec(check).Err(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	other := h.Container("other")
	held := h.Dump()
	err := h.Exec(other.Call("ADD", "bridge", mapped)).Err()
	if host.CodeOf(err) != 102 {
		t.Fatalf("taken port: got %v, want code 102", err)
	}
	mustContain(t, "taken port", err.Error(), "tcp/8080", "container c1 of network n", "10.9.0.3:80")
	h.AssertUnchanged(held, host.Kept...)

	h.MustRun("nft", "flush", "ruleset")
	if err := h.Exec(check).Err(); host.CodeOf(err) != 103 {
		t.Errorf("CHECK of flushed rules: got %v, want code 103", err)
	}
	c.MustDel(host.BridgeConfig(nil))
	other.MustAdd(mapped)
	other.MustDel(host.BridgeConfig(nil))
	// the chains and empty maps go with the last of all
	h.AssertUnchanged(withNeighbour, append(host.Kept, "nft ")...)
	if rules := h.MustRun("nft", "list", "ruleset"); strings.Contains(rules, "8080") {
		t.Errorf("got %s, want no mapping of 8080", rules)
	}
	neighbour.MustDel(transientConfig(nil))
	h.AssertUnchanged(before, host.Kept...)
}
