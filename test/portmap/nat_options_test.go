package portmap

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/plugins/translator"
	"github.com/trestle-cni/trestle/test/host"
)

// TestNATMasquerade is what others see as the source of what a network sends.
func TestNATMasquerade(t *testing.T) {
	t.Parallel()
	subnets := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:1::/64")}
	outside := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128")}
	fixed := nat.Masquerade{SNAT4: netip.MustParseAddr("192.0.2.77"), SNAT6: netip.MustParseAddr("2001:db8::77")}
	for _, backend := range host.NATBackends {
		for _, tt := range []struct {
			name             string
			policy           nat.Masquerade
			seen, seenNearby [2]string // IPv4, IPv6; by the outside, and by a container on another bridge
		}{
			{"as it is", nat.Masquerade{}, [2]string{"192.0.2.2", "2001:db8::2"}, [2]string{"10.2.0.1", "fd00:2::1"}},
			{"at random", nat.Masquerade{RandomFully: true}, [2]string{"192.0.2.2", "2001:db8::2"}, [2]string{"10.2.0.1", "fd00:2::1"}},
			{"outside excluded", nat.Masquerade{Exclude: outside}, [2]string{"10.1.0.5", "fd00:1::5"}, [2]string{"10.2.0.1", "fd00:2::1"}},
			{"fixed addresses", fixed, [2]string{"192.0.2.77", "2001:db8::77"}, [2]string{"192.0.2.77", "2001:db8::77"}},
		} {
			t.Run(backend+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, false)
				n.MustRun("ip", "address", "add", "192.0.2.77/24", "dev", "uplink0")
				n.MustRun("ip", "address", "add", "2001:db8::77/64", "dev", "uplink0", "nodad", "preferred_lft", "0")
				for _, route := range []string{"10.1.0.0/24 via 192.0.2.2", "fd00:1::/64 via 2001:db8::2"} {
					n.Outside.MustRun("sh", "-c", "ip route add "+route)
				}
				for _, protocol := range []string{"tcp", "udp"} {
					n.Outside.Serve(protocol, ":80")
					n.other.Serve(protocol, ":80")
					n.neighbour.Serve(protocol, ":80")
				}
				tt.policy.Prefixes = subnets
				err := n.Do(func() error {
					conn, h := translator.Open()
					var undo cni.Undo
					owner := cni.Owner{Network: "blue", ContainerID: "c1", IfName: "eth0"}
					defer conn.Close()
					return h.Add(nat.Attachment{Owner: owner, Masquerade: &tt.policy, MasqueradeBackend: nat.Backend(backend)}, &undo)
				})
				if err != nil {
					t.Fatal(err)
				}
				for i, addresses := range [][3]string{{"192.0.2.1:80", "10.2.0.7:80", "10.1.0.6:80"}, {"[2001:db8::1]:80", "[fd00:2::7]:80", "[fd00:1::6]:80"}} {
					for _, protocol := range []string{"tcp", "udp"} {
						own := [2]string{"10.1.0.5", "fd00:1::5"}[i]
						for to, want := range map[string]string{addresses[0]: tt.seen[i], addresses[1]: tt.seenNearby[i], addresses[2]: own} {
							reply, err := n.c1.Request(protocol, to)
							if err != nil || reply.Seen.Addr().String() != want {
								t.Errorf("%s to %s: got %v, %v, want it seen as %s", protocol, to, reply, err, want)
							}
						}
					}
				}
			})
		}
	}
}

// TestNATPortOptions is who reaches a port that is mapped otherwise than usual.
func TestNATPortOptions(t *testing.T) {
	t.Parallel()
	seen := func(list ...string) []string { return list }
	for _, tt := range []struct {
		name, keys string
		setup      []string
		// what c1 sees of: another host, the host by its address, by 127.0.0.1,
		// itself, a neighbour, a container on another bridge; "" is no answer
		ipv4 []string
	}{
		{"nothing masqueraded/nftables", `"snat": false, "backend": "nftables"`, nil, seen("192.0.2.1", "192.0.2.2", "", "", "", "10.2.0.7")},
		{"nothing masqueraded/iptables", `"snat": false, "backend": "iptables"`, nil, seen("192.0.2.1", "192.0.2.2", "", "", "", "10.2.0.7")},
		{"all masqueraded/nftables", `"masqAll": true, "backend": "nftables"`, nil, seen("10.1.0.1", "10.1.0.1", "10.1.0.1", "10.1.0.1", "10.1.0.1", "10.1.0.1")},
		{"all masqueraded/iptables", `"masqAll": true, "backend": "iptables"`, nil, seen("10.1.0.1", "10.1.0.1", "10.1.0.1", "10.1.0.1", "10.1.0.1", "10.1.0.1")},
		{"another mark", `"markMasqBit": 5, "backend": "iptables"`, nil, seen("192.0.2.1", "192.0.2.2", "10.1.0.1", "10.1.0.1", "10.1.0.1", "10.2.0.7")},
		{"conditions", `"conditionsV4": ["-s", "192.0.2.0/24"]`, nil, seen("192.0.2.1", "192.0.2.2", "", "", "", "")},
		{"somebody else's chain", `"externalSetMarkChain": "KUBE-MARK-MASQ"`, []string{
			"iptables -t nat -N KUBE-MARK-MASQ", "iptables -t nat -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
			"iptables -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
			"ip6tables -t nat -N KUBE-MARK-MASQ",
		}, seen("192.0.2.1", "192.0.2.2", "10.1.0.1", "10.1.0.1", "10.1.0.1", "10.2.0.7")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			for _, command := range tt.setup {
				n.MustRun("sh", "-c", command)
			}
			n.mapPorts(t, tt.keys, natMapping("tcp", "", 8080, 80))
			for i, s := range n.sources(true, "") {
				s.sees = tt.ipv4[i]
				s.ask(t, "tcp", 8080, "")
			}
		})
	}
}

// TestNATManyPorts: more than one message, and more than one rule, can hold.
func TestNATManyPorts(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			var mappings []string
			for i := range 300 {
				mappings = append(mappings, natMapping("tcp", "", 10000+i, 80), natMapping("udp", "192.0.2.2", 10000+i, 80))
			}
			n.mapPorts(t, fmt.Sprintf(`"backend": %q`, backend), mappings...)
			for _, port := range []int{10000, 10014, 10015, 10128, 10299} {
				for _, protocol := range []string{"tcp", "udp"} {
					n.sources(true, "")[0].ask(t, protocol, port, "")
				}
			}
		})
	}
}
