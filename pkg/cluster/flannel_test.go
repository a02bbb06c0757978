package cluster_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

const flannelDual = `{"EnableIPv6": true, "Network": "10.5.0.0/16", "SubnetLen": 26, "IPv6Network": "fd05::/48", "Backend": {"Type": "vxlan", "DirectRouting": true}}`

func lease(ip string) []byte {
	return fmt.Appendf(nil, `{"PublicIP": %q, "PublicIPv6": null, "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": "f2:7a:00:00:00:01"}}`, ip)
}

// TestParseFlannel: pools and lengths as flannel has them; leases that cannot be kept are refused.
func TestParseFlannel(t *testing.T) {
	t.Parallel()
	const a, b = "10.5.34.0-26&fd05:0:0:2::-64", "10.5.34.64-26&fd05:0:0:3::-64"
	for _, test := range []struct {
		name, config string
		leases       map[string][]byte
		want, err    string
	}{
		{"both families", flannelDual, map[string][]byte{a: lease("192.0.2.1"), b: lease("192.0.2.2")}, "auto 10.5.0.0/16 26 fd05::/48 64 192.0.2.1 [10.5.34.0/26 fd05:0:0:2::/64] 192.0.2.2 [10.5.34.64/26 fd05:0:0:3::/64]", ""},
		{"as flannel fills it in", `{"Network": "10.5.0.0/23", "Backend": {"Type": "host-gw"}}`, nil, "host-gw 10.5.0.0/23 25", ""},
		{"IPv6 alone", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd05::/48", "Backend": {"Type": "wireguard"}}`, map[string][]byte{
			"0.0.0.0-0&fd05:0:0:2::-64": []byte(`{"PublicIP": "0.0.0.0", "PublicIPv6": "2001:db8::1"}`),
		}, "wireguard fd05::/48 64 2001:db8::1 [fd05:0:0:2::/64]", ""},
		{"no JSON", `{`, nil, "", "flannel's config: unexpected end"},
		{"no network", `{}`, nil, "", "pool: missing"},
		{"a backend that nobody has", `{"Network": "10.5.0.0/16"}`, nil, "", "--backend"},
		{"a lease that is none", flannelDual, map[string][]byte{a: []byte(`{`)}, "", "subnets/" + a},
		{"a key that is none", flannelDual, map[string][]byte{"x": lease("192.0.2.1")}, "", "subnets/x: it names no subnet"},
		{"no address", flannelDual, map[string][]byte{a: []byte(`{}`)}, "", "no PublicIP"},
		{"a host twice", flannelDual, map[string][]byte{a: lease("192.0.2.1"), b: lease("192.0.2.1")}, "", "are both of host 192.0.2.1"},
		{"a subnet twice", flannelDual, map[string][]byte{a: lease("192.0.2.1"), "10.5.34.0-26&fd05:0:0:9::-64": lease("192.0.2.2")}, "", "of host 192.0.2.2, overlap"},
		{"another length", flannelDual, map[string][]byte{"10.5.34.0-24": lease("192.0.2.1")}, "", "in no pool of its network, or not of its length: pods 10.5.34.0/24"},
	} {
		f, err := cluster.ParseFlannel("pods", []byte(test.config), test.leases)
		var got string
		if err == nil {
			var c cluster.Config
			c, err = f.Config("id")
			got = string(c.Backend)
		}
		for _, p := range f.Network.Pools() {
			got += fmt.Sprint(" ", p.Prefix, " ", p.SubnetLen)
		}
		for _, l := range f.Leases {
			got += fmt.Sprint(" ", l.Host, " ", l.Subnets)
		}
		if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) || test.err == "" && (err != nil || got != test.want) {
			t.Errorf("%s: got %q, %v, want %q, %q", test.name, got, err, test.want, test.err)
		}
	}
}

func TestParseSubnetEnv(t *testing.T) {
	t.Parallel()
	host := netip.MustParseAddr("192.0.2.1")
	for _, test := range []struct{ name, file, want, err string }{
		{"both families", "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/26\nFLANNEL_IPV6_NETWORK=fd05::/48\nFLANNEL_IPV6_SUBNET=fd05:0:0:2::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", "[10.5.0.0/16 cut into /26 fd05::/48 cut into /64] [10.5.34.0/26 fd05:0:0:2::/64]", ""},
		{"IPv4", "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\n", "[10.5.0.0/16 cut into /24] [10.5.34.0/24]", ""},
		{"nothing", "\n", "", "neither FLANNEL_SUBNET nor"},
		{"half", "FLANNEL_SUBNET=10.5.34.1/24\n", "", "FLANNEL_NETWORK"},
		{"nonsense", "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=x\n", "", "FLANNEL_SUBNET"},
	} {
		f, err := cluster.ParseSubnetEnv("pods", []byte(test.file), host)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: got %v, want %q", test.name, err, test.err)
			}
			continue
		}
		if got := fmt.Sprint(f.Network.Pools(), " ", f.Leases[0].Subnets); err != nil || got != test.want {
			t.Errorf("%s: got %s, %v, want %s", test.name, got, err, test.want)
		}
	}
}

// TestImport: a host that joins gets the subnets of its address's lease, and no other host does; a
// refused import changes nothing.
func TestImport(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	parse := func(leases map[string][]byte) cluster.Flannel {
		f, err := cluster.ParseFlannel("pods", []byte(flannelDual), leases)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	leases := map[string][]byte{}
	for i := range 120 { // more than one transaction
		leases[fmt.Sprintf("10.5.%d.0-26&fd05:0:0:%x::-64", i+1, i+1)] = lease(fmt.Sprint("192.0.2.", i+1))
	}
	m := newMemory()
	for range 2 { // again, for a host that came late
		if err := cluster.Import(ctx, m, parse(leases), "id"); err != nil {
			t.Fatal(err)
		}
	}
	join := func(id, address string) cluster.State {
		member := newHost(m, id)
		if err := member.Reconcile(ctx, m, cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix(address + "/24")}, MTU: 1500}); err != nil {
			t.Fatal(err)
		}
		return member.State
	}
	for address, want := range map[string]string{"192.0.2.7": "[10.5.7.0/26 fd05:0:0:7::/64]", "192.0.2.120": "[10.5.120.0/26 fd05:0:0:78::/64]"} {
		s := join("id-of-"+address, address)
		if got := fmt.Sprint(s.Subnets("pods")); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	stranger := join("stranger", "192.0.2.200")
	for _, s := range stranger.Subnets("pods") {
		for key := range leases {
			if strings.Contains("&"+key, "&"+s.Addr().String()+"-") {
				t.Errorf("a stranger got %s, which was %s's", s, leases[key])
			}
		}
	}
	if err := cluster.Import(ctx, m, parse(leases), "id"); err != nil {
		t.Errorf("after some have joined: %v", err)
	}
	taken := stranger.Subnets("pods")[0]
	before := fmt.Sprint(m.keys)
	for name, f := range map[string]cluster.Flannel{
		"is of node id-stranger": parse(map[string][]byte{taken.Addr().String() + "-26": lease("192.0.2.77")}),
		"another --network":      func() cluster.Flannel { f := parse(nil); f.Network.IPv6 = nil; return f }(),
		"--backend":              func() cluster.Flannel { f := parse(nil); f.Backend = ""; return f }(),
	} {
		if err := cluster.Import(ctx, m, f, "id"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
		if after := fmt.Sprint(m.keys); after != before {
			t.Errorf("%s: refused, and the store was %s, and is %s", name, before, after)
		}
	}
}
