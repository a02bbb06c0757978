package bridge

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trestle-cni/trestle/pkg/cni"
)

var owner = cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}

func address(prefix, gateway string) Address {
	a := Address{Prefix: netip.MustParsePrefix(prefix)}
	if gateway != "" {
		a.Gateway = netip.MustParseAddr(gateway)
	}
	return a
}

func leased(dst, gateway string) LeasedRoute {
	r := LeasedRoute{Route: Route{Dst: netip.MustParsePrefix(dst), Table: mainTable}}
	if gateway != "" {
		r.Gateway = netip.MustParseAddr(gateway)
	}
	return r
}

func routeStrings(routes []Route) []string {
	var all []string
	for _, r := range routes {
		all = append(all, r.String())
	}
	return all
}

func TestPlanRoutes(t *testing.T) {
	scoped := leased("10.9.0.0/16", "")
	scoped.Scope, scoped.scopeSet = 253, true
	full := leased("10.8.0.0/16", "10.1.0.9")
	full.MTU, full.AdvMSS, full.Priority, full.Table = 1400, 1360, 50, 100
	tests := []struct {
		name           string
		addresses      []Address
		routes         []LeasedRoute
		defaultGateway bool
		want           []string
	}{
		{"none", []Address{address("10.1.0.2/24", "10.1.0.1")}, nil, false, nil},
		{
			"isDefaultGateway, dual stack",
			[]Address{address("10.1.0.2/24", "10.1.0.1"), address("fd00::2/64", "fd00::1")},
			nil, true,
			[]string{"route 0.0.0.0/0 via 10.1.0.1", "route ::/0 via fd00::1 metric 1024"},
		},
		{
			"a route without gateway goes by that of the first address of its family",
			[]Address{address("fd00::2/64", "fd00::1"), address("10.1.0.2/24", "10.1.0.1"), address("10.2.0.2/24", "10.2.0.1")},
			[]LeasedRoute{leased("10.7.0.0/16", ""), leased("fd07::/16", "")},
			false,
			[]string{"route 10.7.0.0/16 via 10.1.0.1", "route fd07::/16 via fd00::1 metric 1024"},
		},
		{
			// the reference fails with EEXIST here
			"isDefaultGateway beside IPAM's default route that names no gateway",
			[]Address{address("10.1.0.2/24", "10.1.0.1")},
			[]LeasedRoute{leased("0.0.0.0/0", "")},
			true,
			[]string{"route 0.0.0.0/0 via 10.1.0.1"},
		},
		{
			"a gateway outside the subnet is put on the link first",
			[]Address{address("10.1.0.2/32", "169.254.1.1")},
			[]LeasedRoute{leased("0.0.0.0/0", "")},
			false,
			[]string{"route 169.254.1.1/32 scope 253", "route 0.0.0.0/0 via 169.254.1.1"},
		},
		{
			"a default route of IPAM's stands alone",
			[]Address{address("10.1.0.2/24", "10.1.0.1"), address("10.2.0.2/24", "10.2.0.1")},
			[]LeasedRoute{leased("0.0.0.0/0", "10.1.0.5")},
			true,
			[]string{"route 0.0.0.0/0 via 10.1.0.5"},
		},
		{
			"one default route for a family",
			[]Address{address("10.1.0.2/24", "10.1.0.1"), address("10.2.0.2/24", "10.2.0.1")},
			nil, true,
			[]string{"route 0.0.0.0/0 via 10.1.0.1"},
		},
		{"link scope keeps the gateway away", []Address{address("10.1.0.2/24", "10.1.0.1")}, []LeasedRoute{scoped}, false, []string{"route 10.9.0.0/16 scope 253"}},
		{"all fields", []Address{address("10.1.0.2/24", "10.1.0.1")}, []LeasedRoute{full}, false, []string{"route 10.8.0.0/16 via 10.1.0.9 table 100 metric 50 mtu 1400 advmss 1360"}},
		{"no gateway anywhere", []Address{address("10.1.0.2/24", "")}, []LeasedRoute{leased("10.7.0.0/16", "")}, false, []string{"route 10.7.0.0/16 scope 253"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := NewPlan(Config{Bridge: "br", DefaultGateway: tt.defaultGateway}, owner, Lease{tt.addresses, tt.routes})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, routeStrings(plan.Container.Routes)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPlanGateways(t *testing.T) {
	tests := []struct {
		name      string
		addresses []Address
		want      []string
		v4, v6    bool
	}{
		{"IPAM named it", []Address{address("10.1.0.2/24", "10.1.0.254")}, []string{"10.1.0.254/24"}, true, false},
		{"first of the subnet otherwise", []Address{address("10.1.0.2/24", "")}, []string{"10.1.0.1/24"}, true, false},
		{"of a subnet of two", []Address{address("10.1.0.2/31", "")}, []string{"10.1.0.3/31"}, true, false},
		{"dual stack", []Address{address("10.1.0.2/24", ""), address("fd00::2/64", "")}, []string{"10.1.0.1/24", "fd00::1/64"}, true, true},
		{"outside the subnet", []Address{address("10.1.0.2/32", "169.254.1.1")}, []string{"169.254.1.1/32"}, true, false},
		{"layer 2", nil, nil, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := NewPlan(Config{Bridge: "br", Gateway: true}, owner, Lease{Addresses: tt.addresses})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, g := range plan.Bridge.Gateways {
				got = append(got, g.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if plan.Forward4 != tt.v4 || plan.Forward6 != tt.v6 {
				t.Errorf("forwarding: got %t and %t, want %t and %t", plan.Forward4, plan.Forward6, tt.v4, tt.v6)
			}
		})
	}
}

func TestPlanRefusals(t *testing.T) {
	tests := []struct {
		name    string
		config  Config
		address Address
	}{
		{"IPv6 on a small MTU", Config{MTU: 1200}, address("fd00::2/64", "")},
		{"no room for a gateway", Config{Gateway: true}, address("10.1.0.2/32", "")},
		{"the container's own address", Config{Gateway: true}, address("10.1.0.2/24", "10.1.0.2")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewPlan(tt.config, owner, Lease{Addresses: []Address{tt.address}})
			if cni.CodeOf(err) != cni.CodeConfig {
				t.Errorf("got %v, want an error of code %d", err, cni.CodeConfig)
			}
		})
	}
}

func TestPlanMAC(t *testing.T) {
	asked := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	v4, v6 := address("10.1.0.2/24", ""), address("fd00::2/64", "")
	tests := []struct {
		name      string
		asked     net.HardwareAddr
		addresses []Address
		want      string
		announce  []netip.Addr
	}{
		{"from IPv4", nil, []Address{v4}, "0a:58:0a:01:00:02", nil},
		{"from IPv4, though second", nil, []Address{v6, v4}, "0a:58:0a:01:00:02", []netip.Addr{v6.Prefix.Addr()}},
		{"asked for", asked, []Address{v4}, "02:00:00:00:00:01", []netip.Addr{v4.Prefix.Addr()}},
		{"layer 2: chosen when the link is made", nil, nil, "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := NewPlan(Config{MAC: tt.asked}, owner, Lease{Addresses: tt.addresses})
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.Container.MAC.String(); got != tt.want || !slices.Equal(plan.Container.Announce, tt.announce) {
				t.Errorf("got %s, announced %v; want %s, %v", got, plan.Container.Announce, tt.want, tt.announce)
			}
		})
	}
	six := macFromAddress(v6.Prefix.Addr())
	if six[0]&3 != 2 || six.String() != macFromAddress(v6.Prefix.Addr()).String() {
		t.Errorf("IPv6: got %s, want a local unicast address, the same each time", six)
	}
}

func TestNames(t *testing.T) {
	name := HostName(owner)
	if len(name) != 15 || !isHostName(name) || name != HostName(owner) {
		t.Errorf("got %q, want 15 bytes, the same each time", name)
	}
	if isHostName("veth1a2b3c4d") || isHostName("vethpair-of-me1") {
		t.Error("another suite's name is taken for ours")
	}
	if label, ok := Label(aliasOf(owner)); !ok || label != owner.String() {
		t.Errorf("got %q from the alias, want %q", label, owner)
	}
	if mac := newBridgeMAC(); !IsOurs(mac) || mac[0]&3 != 2 {
		t.Errorf("got %s, want a local unicast address with our mark", mac)
	}
}

// MAC, routes and host veth of prevResult take precedence over the plan of the configuration.
func TestPlanFromResult(t *testing.T) {
	result := &cni.Result{
		Interfaces: []*types100.Interface{
			{Name: "br", Mac: "02:74:72:00:00:01"},
			{Name: "vethabc", Mac: "02:00:00:00:00:02"},
			{Name: "eth0", Mac: "02:00:00:00:00:03", Mtu: 1400, Sandbox: "/run/netns/x"},
		},
		IPs: []*types100.IPConfig{
			{Interface: types100.Int(2), Address: *toIPNet(netip.MustParsePrefix("10.1.0.2/24")), Gateway: net.IP{10, 1, 0, 1}},
			{Interface: types100.Int(0), Address: *toIPNet(netip.MustParsePrefix("10.9.0.2/24"))},
		},
		Routes: []*types.Route{{Dst: *toIPNet(netip.MustParsePrefix("0.0.0.0/0"))}},
	}
	got, err := PlanFromResult(Config{Bridge: "br", Gateway: true}, owner, result, "/run/netns/x")
	if err != nil {
		t.Fatal(err)
	}
	if got.Port.Name != "vethabc" || got.Container.MAC.String() != "02:00:00:00:00:03" || got.Container.MTU != 0 {
		t.Errorf("got port %s, MAC %s, MTU %d, want no MTU to compare", got.Port.Name, got.Container.MAC, got.Container.MTU)
	}
	want := []Address{address("10.1.0.2/24", "10.1.0.1")}
	if diff := cmp.Diff(want, got.Container.Addresses, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	if _, err := PlanFromResult(Config{}, owner, result, "/run/netns/other"); cni.CodeOf(err) != cni.CodeMismatch {
		t.Errorf("another container's result: got %v, want code %d", err, cni.CodeMismatch)
	}
}

func TestDiff(t *testing.T) {
	plan := func() State {
		s, err := NewPlan(Config{Bridge: "br", Gateway: true, DefaultGateway: true, Hairpin: true}, owner,
			Lease{Addresses: []Address{address("10.1.0.2/24", "")}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	tests := []struct {
		name   string
		change func(*State)
		want   []string
	}{
		{"as planned", func(*State) {}, nil},
		{"more than planned", func(s *State) {
			s.Bridge.Promisc = true
			s.Bridge.MAC = net.HardwareAddr{2, 2, 2, 2, 2, 2}
			s.Port.MAC = net.HardwareAddr{2, 2, 2, 2, 2, 3}
			s.Forward6 = true
			s.Container.Addresses = append(s.Container.Addresses, address("10.5.0.2/24", ""))
			s.Container.Routes = append(s.Container.Routes, Route{Dst: netip.MustParsePrefix("10.77.0.0/16")})
		}, nil},
		{"bridge gone", func(s *State) { s.Bridge = Bridge{} }, []string{"bridge: want br, have none"}},
		{"port gone", func(s *State) { s.Port = Port{} }, []string{"host interface: want " + HostName(owner) + ", have none"}},
		{"unplugged", func(s *State) { s.Port.Bridge = "" }, []string{"host interface " + HostName(owner) + " master: want br, have none"}},
		{"hairpin off", func(s *State) { s.Port.Hairpin = false }, []string{"host interface " + HostName(owner) + " hairpin: want on, have off"}},
		{"gateway gone", func(s *State) { s.Bridge.Gateways = nil }, []string{"gateway address on br: want 10.1.0.1/24, have []"}},
		{"address gone", func(s *State) { s.Container.Addresses = nil }, []string{"container interface eth0 address: want 10.1.0.2/24, have none"}},
		{"route another", func(s *State) { s.Container.Routes[0].Gateway = netip.MustParseAddr("10.1.0.9") }, []string{
			"container interface eth0: want route 0.0.0.0/0 via 10.1.0.1, have route 0.0.0.0/0 via 10.1.0.9",
		}},
		{"down", func(s *State) { s.Container.Up = false }, []string{"container interface eth0 up: want on, have off"}},
		{"forwarding off", func(s *State) { s.Forward4 = false }, []string{"sysctl net.ipv4.ip_forward: want on, have off"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			have := plan()
			tt.change(&have)
			var got []string
			for _, d := range Diff(plan(), have) {
				got = append(got, d.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
