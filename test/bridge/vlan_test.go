package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// vlanConfig is transientConfig in VLAN 100, with changes.
func vlanConfig(changes object) string {
	config := object{"vlan": 100, "bridgeLifetime": "auto"}
	maps.Copy(config, changes)
	return host.BridgeConfig(config)
}

// noGateway changes a network to one within which alone containers talk.
func noGateway(changes object) object {
	changes["isDefaultGateway"], changes["ipMasq"] = nil, nil
	return changes
}

// A network must fare on a kernel as STATUS says.
func TestVLANStatusTellsTheKernel(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	c := h.Container("c1")
	var status, add uint
	if err := h.Do(host.TryVLANs); err != nil {
		status, add = 50, 2
	}
	before, inside := h.Dump(), c.Dump()
	config := vlanConfig(nil)
	if err := h.Exec(host.Call{Plugin: "bridge", Command: "STATUS", Config: config}).Err(); host.CodeOf(err) != status {
		t.Errorf("STATUS: got %v, want code %d", err, status)
	}
	err := h.Exec(c.Call("ADD", "bridge", config)).Err()
	if host.CodeOf(err) != add {
		t.Errorf("ADD: got %v, want code %d", err, add)
	}
	if err != nil {
		mustContain(t, "ADD", err.Error(), "vlan", "100", "CONFIG_BRIDGE_VLAN_FILTERING")
		h.AssertUnchanged(before, host.Kept...)
		c.AssertUnchanged(inside)
	}
}

// One bridge, one subnet: who reaches whom is for the VLANs to say.
func TestVLANSeparates(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	before := h.Dump()
	attach := func(name, address string, changes object) (*host.Container, string) {
		changes["ipam"], changes["args"] = host.Leases("10.9.0.0/24"), object{"cni": object{"ips": []string{address}}}
		config := transientConfig(noGateway(changes))
		c := h.Container(name)
		c.MustAdd(config)
		return c, config
	}
	red1, red1Config := attach("red1", "10.9.0.11", object{"vlan": 100, "macspoofchk": true})
	red2, red2Config := attach("red2", "10.9.0.12", object{"vlan": 100})
	blue, blueConfig := attach("blue", "10.9.0.21", object{"vlan": 200})
	none, noneConfig := attach("none", "10.9.0.31", object{})
	both, bothConfig := attach("both", "10.9.0.41", object{"vlan": 100, "preserveDefaultVlan": true})

	tests := []struct {
		from  *host.Container
		to    string
		talks bool
	}{
		{red1, "10.9.0.12", true},
		{red2, "10.9.0.11", true},
		{red1, "10.9.0.21", false},
		{blue, "10.9.0.11", false},
		{blue, "10.9.0.31", false},
		{none, "10.9.0.11", false},
		{red1, "10.9.0.41", true},
		// what is sent to the default VLAN gets there, but the answer goes to VLAN 100
		{none, "10.9.0.41", false},
	}
	for _, tt := range tests {
		if err := tt.from.Expecting(tt.talks).Ping(netip.MustParseAddr(tt.to)); (err == nil) != tt.talks {
			t.Errorf("%s to %s: got %v, want it to get through: %t", tt.from.Name, tt.to, err, tt.talks)
		}
	}
	for c, config := range map[*host.Container]string{red1: red1Config, red2: red2Config, blue: blueConfig, none: noneConfig, both: bothConfig} {
		c.MustDel(config)
	}
	h.AssertUnchanged(before, host.Kept...)
}

// Two networks on one bridge, each with its gateway in its VLAN.
func TestVLANGateway(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	before := h.Dump()
	red := vlanConfig(nil)
	blue := vlanConfig(object{"name": "blue", "vlan": 200, "ipam": host.Leases("10.10.0.0/24")})
	c, other := h.Container("c1"), h.Container("c2")
	added := h.Exec(c.Call("ADD", "bridge", red))
	result, err := added.Result()
	if err != nil {
		t.Fatal(err)
	}
	other.MustAdd(blue)
	for _, to := range []netip.Addr{
		netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1"), host.OutsideIPv4.Addr(), host.OutsideIPv6.Addr(),
		netip.MustParseAddr("10.10.0.2"), // routed by the host, from VLAN to VLAN
	} {
		if err := c.Ping(to); err != nil {
			t.Error(err)
		}
	}
	if got := len(result.Interfaces); got != 4 {
		t.Fatalf("got %d interfaces, want bridge, host veth, container interface and VLAN interface", got)
	}
	gateway := result.Interfaces[3]
	mac := strings.TrimSpace(h.MustRun("cat", "/sys/class/net/br0.100/address"))
	if gateway.Name != "br0.100" || gateway.Mac != mac || gateway.Sandbox != "" {
		t.Errorf("got %v, want br0.100 with MAC %s on the host", gateway, mac)
	}
	mustContain(t, "br0.100", h.MustRun("ip", "-d", "address", "show", "dev", "br0.100"), "vlan protocol 802.1Q id 100", "10.9.0.1/24", "fd09::1/64")
	mustContain(t, "br0.200", h.MustRun("ip", "address", "show", "dev", "br0.200"), "10.10.0.1/24")
	if got := h.MustRun("ip", "-4", "address", "show", "dev", "br0"); got != "" {
		t.Errorf("got %s, want no address on the bridge itself", got)
	}
	if got := h.MustRun("sysctl", "-n", "net.ipv6.conf.br0/100.accept_ra"); got != "0\n" {
		t.Errorf("accept_ra of br0.100: got %s, want 0: no container shall announce routes to the host", got)
	}
	if err := h.Exec(c.Call("CHECK", "bridge", withPrev(t, red, added.Stdout))).Err(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	c.MustDel(red)
	if err := other.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Errorf("the other network suffered: %v", err)
	}
	other.MustDel(blue)
	h.AssertUnchanged(before, host.Kept...)
}

// Tagged frames of a trunk's VLANs pass between containers, and no others.
func TestVLANTrunk(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	before := h.Dump()
	trunk := transientConfig(object{
		"ipMasq": nil, "ipam": host.Leases("10.9.0.0/24"),
		"vlanTrunk": []any{object{"minID": 200, "maxID": 210}, object{"id": 300}},
	})
	access := transientConfig(object{"name": "access", "isDefaultGateway": nil, "ipMasq": nil, "ipam": nil, "vlan": 205})
	a, b, c := h.Container("a"), h.Container("b"), h.Container("c")
	a.MustAdd(trunk)
	b.MustAdd(trunk)
	c.MustAdd(access)
	for i, end := range []*host.Container{a, b} {
		for _, id := range []int{205, 300, 211} {
			link := fmt.Sprintf("eth0.%d", id)
			end.MustRun("ip", "link", "add", "link", "eth0", "name", link, "type", "vlan", "id", fmt.Sprint(id))
			end.MustRun("ip", "address", "add", fmt.Sprintf("10.%d.0.%d/24", id%256, i+1), "dev", link)
			end.MustRun("ip", "link", "set", link, "up")
		}
	}
	c.MustRun("ip", "address", "add", "10.205.0.3/24", "dev", "eth0")
	for to, talks := range map[string]bool{
		"10.205.0.2": true,  // in a range
		"10.205.0.3": true,  // an access port of that VLAN
		"10.44.0.2":  true,  // 300, by itself
		"10.211.0.2": false, // beside the range
		"10.9.0.3":   true,  // without a tag: VLAN 1, as with the reference
		"10.9.0.1":   true,  // and so to the gateway
	} {
		if err := a.Expecting(talks).Ping(netip.MustParseAddr(to)); (err == nil) != talks {
			t.Errorf("%s: got %v, want it to get through: %t", to, err, talks)
		}
	}
	a.MustDel(trunk)
	b.MustDel(trunk)
	c.MustDel(access)
	h.AssertUnchanged(before, host.Kept...)
}

// What a port's VLANs are, to the letter, and that the reference makes the same
// of it where it is right.
func TestVLANsOfPort(t *testing.T) {
	host.NewWithVLANs(t)
	trunk := []any{object{"minID": 200, "maxID": 202}, object{"id": 300}}
	const access = " PVID Egress Untagged"
	tests := []struct {
		name  string
		setup string
		edit  object
		want  []string
		alone bool // no comparison with the reference
	}{
		{"access", "", object{"vlan": 100}, []string{"100" + access}, false},
		{"access, default kept", "", object{"vlan": 100, "preserveDefaultVlan": true}, []string{"1 Egress Untagged", "100" + access}, false},
		{"trunk", "", object{"vlanTrunk": trunk}, []string{"1" + access, "200", "201", "202", "300"}, false},
		{"trunk, default kept", "", object{"vlanTrunk": trunk, "preserveDefaultVlan": true}, []string{"1" + access, "200", "201", "202", "300"}, false},
		{"trunk and access", "", object{"vlan": 100, "vlanTrunk": trunk}, []string{"100" + access, "200", "201", "202", "300"}, false},
		{"tagged VLAN 1", "", object{"vlan": 100, "vlanTrunk": []any{object{"id": 1}}}, []string{"1", "100" + access}, false},
		// the reference makes VLAN 201 a tagged one
		{"access in the trunk", "", object{"vlan": 201, "vlanTrunk": trunk}, []string{"200", "201" + access, "202", "300"}, true},
		{"another default", "ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 10", object{"vlan": 100}, []string{"100" + access}, false},
		{"another default, kept", "ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 10", object{"vlan": 100, "preserveDefaultVlan": true}, []string{"10 Egress Untagged", "100" + access}, false},
		{"no default", "ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0", object{"vlan": 100}, []string{"100" + access}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dirs := []func(host.Dirs) string{func(d host.Dirs) string { return d.Trestle }, func(d host.Dirs) string { return d.Reference }}
			if tt.alone {
				dirs = dirs[:1]
			}
			for i, dir := range dirs {
				h := host.NewRouting(t)
				if tt.setup != "" {
					h.MustRun(strings.Fields(tt.setup)...)
				}
				c := h.Container("c1")
				config := host.BridgeConfig(noGateway(tt.edit))
				call := c.Call("ADD", dir(h.Dirs())+"/bridge", config)
				call.Path = dir(h.Dirs())
				answer := h.Exec(call)
				result, err := answer.Result()
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, vlansOf(t, h, result.Interfaces[1].Name)); diff != "" {
					t.Errorf("%s: -want +got:\n%s", call.Plugin, diff)
				}
				if i > 0 {
					continue
				}
				if err := h.Exec(c.Call("CHECK", "bridge", withPrev(t, config, answer.Stdout))).Err(); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
		})
	}
}

// vlansOf lists what `bridge vlan` shows of a port.
func vlansOf(t *testing.T, h *host.Host, port string) []string {
	t.Helper()
	var ports []struct {
		VLANs []struct {
			VLAN, VLANEnd int
			Flags         []string
		}
	}
	if err := json.Unmarshal([]byte(h.MustRun("bridge", "-json", "vlan", "show", "dev", port)), &ports); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, p := range ports {
		for _, v := range p.VLANs {
			for id := v.VLAN; id <= max(v.VLAN, v.VLANEnd); id++ {
				list = append(list, strings.Join(append([]string{fmt.Sprint(id)}, v.Flags...), " "))
			}
		}
	}
	return list
}

// However many VLANs pass, the kernel gets as many messages as for one.
func TestVLANTrunkOfAll(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	var odd []any
	for id := 1; id <= 4094; id += 2 {
		odd = append(odd, object{"id": id})
	}
	messages := map[string]int{}
	for name, trunk := range map[string][]any{
		"one": {object{"id": 300}}, "all": {object{"minID": 1, "maxID": 4094}}, "odd": odd,
	} {
		c := h.Container(name)
		config := host.BridgeConfig(noGateway(object{"vlan": 100, "vlanTrunk": trunk}))
		h.Container(name + "-before").MustAdd(config) // makes the bridge
		call := c.Call("ADD", "bridge", config)
		call.Strace = &host.Strace{Syscalls: "sendto,sendmsg"}
		answer := h.Exec(call)
		result, err := answer.Result()
		if err != nil {
			t.Fatal(err)
		}
		// those about VLANs: how often the port is looked at until it forwards is chance
		messages[name] = strings.Count(answer.Trace.Text, "ifi_family=AF_BRIDGE")
		check := c.Call("CHECK", "bridge", withPrev(t, config, answer.Stdout))
		if err := h.Exec(check).Err(); err != nil {
			t.Errorf("%s: CHECK: %v", name, err)
		}
		h.MustRun("bridge", "vlan", "del", "dev", result.Interfaces[1].Name, "vid", "100")
		if err := h.Exec(check).Err(); host.CodeOf(err) != 103 || len(err.Error()) > 100_000 {
			t.Errorf("%s: CHECK without the access VLAN: got %v, want code 103", name, err)
		}
	}
	if messages["one"] == 0 || messages["all"] != messages["one"] || messages["odd"] != messages["one"] {
		t.Errorf("got %v messages, want the same for all", messages)
	}
}

func TestVLANCheck(t *testing.T) {
	host.NewWithVLANs(t)
	tests := []struct {
		name  string
		spoil []string
		want  []string // in the message; none: CHECK passes
	}{
		{"untouched", nil, nil},
		{"another VLAN let through by somebody", []string{"bridge vlan add dev $HOSTVETH vid 500"}, nil},
		{"access VLAN gone", []string{"bridge vlan del dev $HOSTVETH vid 100"}, []string{"VLANs", "untagged 100", "have untagged 0"}},
		{"access VLAN tagged", []string{"bridge vlan add dev $HOSTVETH vid 100"}, []string{"have untagged 0"}},
		{"VLAN of the trunk gone", []string{"bridge vlan del dev $HOSTVETH vid 301"}, []string{"tagged 300-302", "have untagged 100, tagged 300 302"}},
		{"VLAN of the trunk untagged", []string{"bridge vlan add dev $HOSTVETH vid 301 untagged"}, []string{"tagged 300 302"}},
		{"default VLAN back", []string{"bridge vlan add dev $HOSTVETH vid 1"}, []string{"default VLAN gone", "default VLAN kept"}},
		{"filtering off", []string{"ip link set br0 type bridge vlan_filtering 0"}, []string{"vlan_filtering: want on, have off"}},
		{"bridge itself taken out", []string{"bridge vlan del dev br0 vid 100 self"}, []string{"reaches br0.100", "want 100, have none"}},
		{"VLAN interface gone", []string{"ip link del br0.100"}, []string{"VLAN interface: want br0.100, have none"}},
		{"VLAN interface of another VLAN", []string{"ip link del br0.100", "ip link add link br0 name br0.100 type vlan id 7"}, []string{"VLAN interface: want br0.100, have none"}},
		{"gateway gone", []string{"ip address del 10.9.0.1/24 dev br0.100"}, []string{"gateway address on br0.100: want 10.9.0.1/24"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			c := h.Container("c1")
			config := vlanConfig(object{"vlanTrunk": []any{object{"minID": 300, "maxID": 302}}})
			added := h.Exec(c.Call("ADD", "bridge", config))
			result, err := added.Result()
			if err != nil {
				t.Fatal(err)
			}
			for _, command := range tt.spoil {
				h.MustRun(strings.Fields(strings.ReplaceAll(command, "$HOSTVETH", result.Interfaces[1].Name))...)
			}
			err = h.Exec(c.Call("CHECK", "bridge", withPrev(t, config, added.Stdout))).Err()
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want an error: %t", err, tt.want != nil)
			}
			if err != nil {
				mustContain(t, "CHECK", err.Error(), tt.want...)
			}
		})
	}
}

// A bridge of ours that was made without filtering gets it; its other ports talk on,
// and the rest of it is left as it is.
func TestVLANOnPlainBridge(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	h.MustRun("ip", "link", "add", "br0", "address", "02:74:72:00:00:b0", "mtu", "1400", "up", "type", "bridge", "ageing_time", "12300")
	plain := host.BridgeConfig(noGateway(object{"name": "plain"}))
	a, b := h.Container("a"), h.Container("b")
	a.MustAdd(plain)
	b.MustAdd(plain)
	filtered := strings.NewReplacer("vlan_filtering=0", "vlan_filtering=1").Replace(h.Dump())
	c := h.Container("c1")
	config := vlanConfig(noGateway(object{}))
	c.MustAdd(config)
	if err := a.Ping(netip.MustParseAddr("10.9.0.3")); err != nil {
		t.Error(err)
	}
	c.MustDel(config)
	h.AssertUnchanged(filtered, host.Kept...)
}

// An ADD that fails when all the links are there leaves none of them, nor what it
// changed of a bridge that was there before, whoever made that.
func TestVLANFailureLeavesNothing(t *testing.T) {
	host.NewWithVLANs(t)
	unreachable := host.Leases("10.9.0.0/24")
	unreachable["routes"] = []any{object{"dst": "10.50.0.0/16", "gw": "10.77.0.1"}}
	for _, setup := range []string{
		"true",
		"ip link add br0 address 02:74:72:00:00:b0 up type bridge", // as if we had made it
		"ip link add br0 address 02:00:00:00:00:09 up type bridge vlan_filtering 1",
		"ip link add br0 address 02:74:72:00:00:b0 up type bridge; ip link set br0 down",
	} {
		t.Run(setup, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.MustRun("sh", "-c", setup)
			c := h.Container("c1")
			before, inside := h.Dump(), c.Dump()
			err := h.Exec(c.Call("ADD", "bridge", vlanConfig(object{"ipam": unreachable}))).Err()
			if err == nil {
				t.Fatal("got no error for a route that cannot be")
			}
			mustContain(t, "error", err.Error(), "10.50.0.0/16", "10.77.0.1")
			h.AssertUnchanged(before, host.Kept...)
			c.AssertUnchanged(inside)
			h.AssertNoLease()
		})
	}
}

// An administrator's bridge that does not filter carries the tagged traffic of
// others: it is not ours to change. Where it filters, its ports are ours to tag.
func TestVLANOnAnothersBridge(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	h.MustRun("sh", "-ec", "ip link add br0 up type bridge; ip netns add vm; ip netns add lan")
	for i, name := range []string{"vm", "lan"} {
		h.MustRun("sh", "-ec", fmt.Sprintf(`ip link add p%[1]s type veth peer name eth0 netns %[1]s; ip link set p%[1]s master br0 up; ip -n %[1]s link set eth0 up
			ip -n %[1]s link add link eth0 name eth0.10 type vlan id 10; ip -n %[1]s link set eth0.10 up; ip -n %[1]s address add 198.51.100.%[2]d/24 dev eth0.10`, name, i+1))
	}
	tagged := func() { t.Helper(); h.MustRun("ip", "netns", "exec", "vm", "ping", "-c1", "-W30", "198.51.100.2") }
	tagged()
	c, config := h.Container("c1"), vlanConfig(noGateway(object{}))
	before := h.Dump()
	for _, call := range []host.Call{c.Call("ADD", "bridge", config), {Plugin: "bridge", Command: "STATUS", Config: config}} {
		err := h.Exec(call).Err()
		if want := map[string]uint{"ADD": 2, "STATUS": 50}[call.Command]; host.CodeOf(err) != want {
			t.Fatalf("%s: got %v, want code %d", call.Command, err, want)
		}
		mustContain(t, call.Command, err.Error(), "vlan", "100", "br0", "vlan_filtering 1")
	}
	h.AssertUnchanged(before, append(host.Kept, "neighbour", "fdb")...)
	tagged()
	c.MustDel(config)
	tagged()
	h.MustRun("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
	c.MustAdd(config)
}

// What another network needs of the bridge is not undone.
func TestVLANFailureSparesOthers(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	config := vlanConfig(nil)
	c := h.Container("c1")
	c.MustAdd(config)
	before := h.Dump()
	unreachable := host.Leases("10.10.0.0/24")
	unreachable["routes"] = []any{object{"dst": "10.50.0.0/16", "gw": "10.77.0.1"}}
	if err := h.Exec(h.Container("c2").Call("ADD", "bridge", vlanConfig(object{"name": "other", "vlan": 200, "ipam": unreachable}))).Err(); err == nil {
		t.Fatal("got no error for a route that cannot be")
	}
	h.AssertUnchanged(before, host.Kept...)
	if err := c.Ping(host.OutsideIPv4.Addr()); err != nil {
		t.Error(err)
	}
}

// eachRequest runs ADDs with a fault at the first netlink request, the second …,
// and repair after each; then the host must be as it was. Of the container the
// tests of the bridge without VLANs take care.
func eachRequest(t *testing.T, h *host.Host, c *host.Container, fault string, repair func(host.Answer)) {
	t.Helper()
	before := h.Dump()
	for n := 1; ; n++ {
		call := c.Call("ADD", "bridge", vlanConfig(nil))
		call.Strace = &host.Strace{Syscalls: "sendto", Inject: []string{fmt.Sprintf("sendto:%s:when=%d", fault, n)}}
		answer := h.Exec(call)
		repair(answer)
		h.AssertUnchanged(before, host.Kept...)
		if t.Failed() || answer.Trace.Injected == 0 {
			t.Logf("request %d: the plugin said %s", n, answer.Stdout)
			return
		}
	}
}

// TestVLANStepFails lets each netlink request of an ADD fail in turn, on a bridge
// of ours that does not filter yet.
func TestVLANStepFails(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	addBridge := func() { h.MustRun("ip", "link", "add", "br0", "address", "02:74:72:00:00:b0", "up", "type", "bridge") }
	addBridge()
	c := h.Container("c1")
	eachRequest(t, h, c, "error=EIO", func(answer host.Answer) {
		if answer.Code == 0 || answer.Trace.Injected > 1 {
			// it could do without, or the undoing was hit as well, on another thread
			c.MustDel(vlanConfig(nil)) // its bridge goes along
			addBridge()
		}
	})
}

// TestVLANKilled kills an ADD at each netlink request in turn; DEL leaves nothing.
func TestVLANKilled(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	c := h.Container("c1")
	eachRequest(t, h, c, "signal=KILL", func(host.Answer) { c.MustDel(vlanConfig(nil)) })
}

func TestVLANGatewayNameTaken(t *testing.T) {
	host.NewWithVLANs(t)
	for kind, setup := range map[string]string{
		"bridge": "ip link add br0.100 type bridge",
		"veth":   "ip link add br0.100 type veth peer name elsewhere",
		"vlan":   "ip link add link " + host.Uplink + " name br0.100 type vlan id 100",
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := host.NewRouting(t)
			h.MustRun(strings.Fields(setup)...)
			c := h.Container("c1")
			before := h.Dump()
			err := h.Exec(c.Call("ADD", "bridge", vlanConfig(nil))).Err()
			if host.CodeOf(err) != 102 {
				t.Fatalf("got %v, want code 102", err)
			}
			mustContain(t, "error", err.Error(), "vlan: 100", "br0.100", "is a "+kind)
			h.AssertUnchanged(before, host.Kept...)
		})
	}
}

// The reference's gateway in a VLAN is a veth pair. Containers of both suites
// live with it.
func TestVLANGatewayOfTheReference(t *testing.T) {
	t.Parallel()
	h := host.NewWithVLANs(t)
	// with it the reference's own containers reach nobody outside: masquerading
	// happens while the frame passes the bridge, to its port with the gateway
	h.MustRun("sysctl", "-qew", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0")
	config := vlanConfig(object{"ipMasqBackend": "nftables"})
	theirs, ours := h.Container("theirs"), h.Container("ours")
	call := theirs.Call("ADD", h.Dirs().Reference+"/bridge", config)
	call.Path = h.Dirs().Reference
	answers := map[*host.Container]host.Answer{theirs: h.Exec(call), ours: h.Exec(ours.Call("ADD", "bridge", config))}
	for c, answer := range answers {
		if err := answer.Err(); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
	}
	if err := h.Exec(ours.Call("CHECK", "bridge", withPrev(t, config, answers[ours].Stdout))).Err(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	for _, c := range []*host.Container{theirs, ours} {
		for _, to := range []netip.Addr{netip.MustParseAddr("10.9.0.1"), host.OutsideIPv4.Addr()} {
			if err := c.Ping(to); err != nil {
				t.Error(err)
			}
		}
		c.MustDel(config)
	}
	h.AssertNoLease()
}

func TestVLANAnswersAsTheReference(t *testing.T) {
	host.NewWithVLANs(t)
	tests := []struct {
		name string
		edit object
	}{
		{"access, gateway", object{"vlan": 100}},
		{"access, no gateway", noGateway(object{"vlan": 100})},
		{"access, layer 2 gateway", object{"vlan": 100, "ipam": nil, "ipMasq": nil, "isDefaultGateway": nil, "isGateway": true}},
		{"access and trunk", object{"vlan": 100, "vlanTrunk": []any{object{"minID": 200, "maxID": 202}, object{"id": 300}}, "preserveDefaultVlan": true}},
		{"trunk", object{"vlanTrunk": []any{object{"id": 300}}}},
	}
	for _, tt := range tests {
		for _, version := range []string{"0.4.0", "1.1.0"} {
			t.Run(tt.name+", "+version, func(t *testing.T) {
				t.Parallel()
				compareWithReference(t, tt.edit, version)
			})
		}
	}
}
