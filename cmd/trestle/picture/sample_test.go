package picture

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/pkg/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func prefixes(all ...string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, s := range all {
		parsed = append(parsed, prefix(s))
	}
	return parsed
}

// bareHost has an uplink with a VLAN on it, and a link of another program.
func bareHost() *inventory.Snapshot {
	return &inventory.Snapshot{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Links: []inventory.Link{
			{Index: 1, Name: "lo", Kind: "device", MTU: 65536, Up: true, Operational: "unknown", PeerNetNS: -1, Addresses: prefixes("127.0.0.1/8", "::1/128")},
			{Index: 2, Name: "eth0", Kind: "device", MAC: "52:54:00:12:34:56", MTU: 1500, Up: true, Operational: "up", PeerNetNS: -1, Addresses: prefixes("192.0.2.2/24", "2001:db8::2/64", "fe80::5054:ff:fe12:3456/64")},
			{Index: 3, Name: "eth0.20", Kind: "vlan", MTU: 1500, Up: true, Operational: "up", Peer: 2, PeerNetNS: -1, VLAN: 20, Addresses: prefixes("198.51.100.7/26")},
			{Index: 4, Name: "wg0", Kind: "wireguard", MTU: 1420, Up: true, Operational: "unknown", PeerNetNS: -1, Addresses: prefixes("10.99.0.1/24")},
		},
		Routes: []inventory.Route{
			{To: prefix("0.0.0.0/0"), Gateway: addr("192.0.2.1"), Link: "eth0"},
			{To: prefix("::/0"), Gateway: addr("2001:db8::1"), Link: "eth0"},
			{To: prefix("192.0.2.0/24"), Link: "eth0"},
		},
	}
}

func pool(subnet string, used, dead uint64) inventory.Pool {
	p := prefix(subnet)
	first := p.Addr().Next()
	last := p.Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for bit := bits; bit < 128; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	r := ipam.Range{Subnet: p, First: first, Last: netip.AddrFrom16(last).Unmap(), Gateway: first}
	if p.Addr().Is4() {
		r.Last = r.Last.Prev()
	}
	return inventory.Pool{Subnet: p, First: r.First, Last: r.Last, Gateway: first, Size: r.Size(), Used: used, Dead: dead, Range: r}
}

func port(protocol, host, container string) inventory.Port {
	return inventory.Port{Protocol: protocol, Host: netip.MustParseAddrPort(host), Container: netip.MustParseAddrPort(container), Backend: "nftables"}
}

// smallHost is README's host: a network with two pods and a dead container, and a network without
// containers.
func smallHost() *inventory.Snapshot {
	s := bareHost()
	s.Links = append(s.Links,
		inventory.Link{Index: 5, Name: "trestle0", Kind: "bridge", MAC: "02:74:72:00:00:01", MTU: 1500, Up: true, Operational: "up", PeerNetNS: -1, Ours: true, Addresses: prefixes("10.22.0.1/16", "fd6c:4ae9:71d3:22::1/64")},
		inventory.Link{Index: 6, Name: "veth04d3b3f2", Kind: "veth", MTU: 1500, Up: true, Operational: "up", Master: "trestle0", Peer: 2, PeerNetNS: 0, Ours: true},
		inventory.Link{Index: 7, Name: "veth9a01c77e", Kind: "veth", MTU: 1500, Up: true, Operational: "up", Master: "trestle0", Peer: 2, PeerNetNS: 1, Ours: true},
	)
	s.Networks = []inventory.Network{
		{
			Name: "trestle", File: "/etc/cni/net.d/10-trestle.conflist", Driver: "bridge", Bridge: "trestle0", Masquerade: true, Gateway: true, Ports: true, IPAM: "host-local",
			Pools: []inventory.Pool{pool("10.22.0.0/16", 3, 1), pool("fd6c:4ae9:71d3:22::/64", 3, 1)}, Attachments: 3, Dead: 1,
		},
		{
			Name: "vault", File: "/etc/cni/net.d/90-vault.conflist", Driver: "bridge", Bridge: "br-vault", Gateway: true, Internal: true, IngressPolicy: "published", IPAM: "host-local",
			Pools: []inventory.Pool{pool("10.24.0.0/24", 0, 0)},
		},
	}
	alive := inventory.Evidence{Lease: true, Record: true, Link: true, Cache: true}
	s.Attachments = []inventory.Attachment{
		{
			Network: "trestle", Container: "4d7a9e2b", IfName: "eth0", Name: "web", State: inventory.Alive, NetNS: "/run/netns/web", HostLink: "veth04d3b3f2", Bridge: "trestle0",
			Addresses: []netip.Addr{addr("10.22.0.2"), addr("fd6c:4ae9:71d3:22::2")}, MAC: "0a:58:0a:16:00:02", Evidence: alive, ByTrestle: true,
			Ports: []inventory.Port{port("tcp", "0.0.0.0:8080", "10.22.0.2:80"), port("tcp", "[::]:8080", "[fd6c:4ae9:71d3:22::2]:80"), port("udp", "192.0.2.2:5353", "10.22.0.2:53")},
		},
		{
			Network: "trestle", Container: "8c11f0aa", IfName: "eth0", Name: "db", State: inventory.Alive, NetNS: "/run/netns/db", HostLink: "veth9a01c77e", Bridge: "trestle0",
			Addresses: []netip.Addr{addr("10.22.0.3"), addr("fd6c:4ae9:71d3:22::3")}, MAC: "0a:58:0a:16:00:03", Evidence: alive, ByTrestle: true,
		},
		{
			Network: "trestle", Container: "lost", IfName: "eth0", State: inventory.Dead, NetNS: "/run/netns/lost",
			Addresses: []netip.Addr{addr("10.22.0.4"), addr("fd6c:4ae9:71d3:22::4")}, Evidence: inventory.Evidence{Lease: true}, ByTrestle: true,
		},
	}
	return s
}

// crowd adds a network with a bridge and containers.
func crowd(s *inventory.Snapshot, name, subnet string, count int, called func(i int) inventory.Attachment) {
	p := pool(subnet, uint64(count), 0)
	bridge := "br-" + name
	s.Links = append(s.Links, inventory.Link{
		Index: len(s.Links) + 1, Name: bridge, Kind: "bridge", MAC: "02:74:72:00:00:02", MTU: 1500, Up: true, Operational: "up", PeerNetNS: -1, Ours: true,
		Addresses: []netip.Prefix{netip.PrefixFrom(p.Gateway, p.Subnet.Bits())},
	})
	address := p.Gateway
	for i := range count {
		address = address.Next()
		a := called(i)
		a.Network, a.IfName, a.Bridge, a.ByTrestle = name, "eth0", bridge, true
		a.Addresses = append(a.Addresses, address)
		a.HostLink = fmt.Sprintf("veth%08x", uint32(len(s.Networks)*1000+i+1)*2654435761)
		if a.State == "" {
			a.State = inventory.Alive
		}
		if a.State == inventory.Dead {
			p.Dead++
			a.HostLink, a.Evidence = "", inventory.Evidence{Lease: true}
		} else {
			a.Evidence = inventory.Evidence{Lease: true, Record: true, Link: true, Cache: true}
			s.Links = append(s.Links, inventory.Link{Index: len(s.Links) + 1, Name: a.HostLink, Kind: "veth", MTU: 1500, Up: true, Operational: "up", Master: bridge, Peer: 2, PeerNetNS: i, Ours: true})
		}
		if i%9 == 4 {
			a.Ports = []inventory.Port{
				port("tcp", fmt.Sprintf("0.0.0.0:%d", 8000+i), address.String()+":80"),
				port("tcp", fmt.Sprintf("0.0.0.0:%d", 18443+i), address.String()+":443"),
			}
		}
		s.Attachments = append(s.Attachments, a)
	}
	s.Networks = append(s.Networks, inventory.Network{
		Name: name, File: "/etc/cni/net.d/90-" + name + ".conflist", Driver: "bridge", Bridge: bridge, Masquerade: true, Gateway: true, Ports: true,
		IngressPolicy: "published", IPAM: "host-local", Pools: []inventory.Pool{p}, Attachments: count,
	})
}

// middlingHost has forty containers on three networks.
func middlingHost() *inventory.Snapshot {
	s := bareHost()
	crowd(s, "back", "10.24.4.0/22", 9, func(i int) inventory.Attachment {
		return inventory.Attachment{Name: fmt.Sprintf("db-%d", i), Container: fmt.Sprintf("b%d", i)}
	})
	crowd(s, "web", "10.24.0.0/22", 28, func(i int) inventory.Attachment {
		a := inventory.Attachment{Name: fmt.Sprintf("web-%d", i), Container: fmt.Sprintf("w%d", i)}
		if i == 5 {
			a.Name = "a-name-that-somebody-had-a-lot-of-time-for-when-it-was-given"
		}
		if i == 11 {
			a.State = inventory.Dead
		}
		return a
	})
	crowd(s, "six", "fd6c:4ae9:71d3:77::/64", 3, func(i int) inventory.Attachment {
		return inventory.Attachment{Name: fmt.Sprintf("web-%d", i), Container: fmt.Sprintf("w%d", i)}
	})
	s.Links = append(s.Links,
		inventory.Link{Index: 901, Name: "docker0", Kind: "bridge", MTU: 1500, Operational: "down", Up: true, PeerNetNS: -1, Addresses: prefixes("172.17.0.1/16")},
		inventory.Link{Index: 903, Name: "trunk0", Kind: "device", MTU: 1500, Operational: "up", Up: true, PeerNetNS: -1, Master: "br-back", PortVLANs: []inventory.PortVLANs{{First: 1, Last: 1, Untagged: true}, {First: 10, Last: 12}}},
		inventory.Link{Index: 902, Name: "vethforeign", Kind: "veth", MTU: 1500, Operational: "up", Up: true, Peer: 8, PeerNetNS: 77, Master: "docker0"},
	)
	for i := range s.Links {
		l := &s.Links[i]
		l.VLANFiltering = l.Name == "br-back"
		if l.Master == "br-back" && l.Kind == "veth" {
			l.PortVLANs = []inventory.PortVLANs{{First: 1, Last: 1, Untagged: true}}
		}
		if l.Master == "br-back" && l.Index%10 == 1 {
			l.PortVLANs = []inventory.PortVLANs{{First: 7, Last: 7, Untagged: true}}
		}
	}
	return s
}

// crowdedHost has a thousand containers: pods in some namespaces, and containers without names.
func crowdedHost() *inventory.Snapshot {
	s := bareHost()
	namespaces := []string{"kube-system", "shop", "shop", "payments", "observability", "shop", "batch", "batch"}
	crowd(s, "pods", "10.22.0.0/16", 720, func(i int) inventory.Attachment {
		a := inventory.Attachment{Container: fmt.Sprintf("%064x", i+1), Pod: fmt.Sprintf("%s/worker-7db6d8ff4d-%05x", namespaces[i%len(namespaces)], i*7919)}
		if i%97 == 50 {
			a.State = inventory.Dead
		}
		return a
	})
	crowd(s, "jobs", "10.30.0.0/22", 280, func(i int) inventory.Attachment {
		return inventory.Attachment{Container: fmt.Sprintf("%016x%048x", uint64(i+1)*0x9e3779b97f4a7c15, i)}
	})
	return s
}

// oddHost has unusual names and numbers.
func oddHost() *inventory.Snapshot {
	s := smallHost()
	long := strings.Repeat("MWmw@", 30)
	s.Attachments[0].Name = `<script>alert("1")</script>&`
	s.Attachments[1].Name, s.Attachments[1].IfName = long, "eth0123456789ab"
	s.Attachments[1].Addresses = []netip.Addr{addr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), addr("255.255.255.254")}
	for i := range 30 {
		s.Attachments[1].Ports = append(s.Attachments[1].Ports, port("udp", fmt.Sprintf("[2001:db8:ffff:ffff:ffff:ffff:ffff:fff%x]:6%04d", i%16, i*7), fmt.Sprintf("[::1]:%d", 1+i*3)))
	}
	s.Networks[0].Name, s.Networks[0].IngressPolicy, s.Networks[0].Internal = long, long[:40], true
	s.Networks[1].Bridge = "brMMMMMMWWWWWWW"
	for i := range s.Attachments {
		s.Attachments[i].Network = long
	}
	for i := range 9 {
		s.Links = append(s.Links, inventory.Link{Index: 100 + i, Name: fmt.Sprintf("WWWWWWMMMMMM%d", i), Kind: "device", MTU: 9000, PeerNetNS: -1, Addresses: prefixes("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128")})
		s.Routes = append(s.Routes, inventory.Route{To: prefix("::/0"), Gateway: addr("2001:db8:ffff:ffff:ffff:ffff:ffff:fffe"), Link: fmt.Sprintf("WWWWWWMMMMMM%d", i)})
	}
	return s
}

// samples are hosts of 0, 3, 40 and 1,000 containers.
func samples() map[string]*inventory.Snapshot {
	return map[string]*inventory.Snapshot{"0": bareHost(), "3": smallHost(), "40": middlingHost(), "1000": crowdedHost()}
}
