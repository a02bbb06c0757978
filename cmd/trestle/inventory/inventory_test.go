package inventory

import (
	"net/netip"
	"strings"
	"testing"
)

func port(protocol, host, container string) Port {
	return Port{Protocol: protocol, Host: netip.MustParseAddrPort(host), Container: netip.MustParseAddrPort(container)}
}

// TestPublished: consecutive ports, and the same ports of both families, are joined.
func TestPublished(t *testing.T) {
	for name, test := range map[string]struct {
		ports []Port
		want  string
	}{
		"none":         {nil, ""},
		"both":         {[]Port{port("tcp", "0.0.0.0:8080", "10.0.0.2:80"), port("tcp", "[::]:8080", "[fd00::2]:80")}, "8080->80/tcp"},
		"a row":        {[]Port{port("tcp", "0.0.0.0:81", "10.0.0.2:81"), port("tcp", "0.0.0.0:80", "10.0.0.2:80")}, "80-81->80-81/tcp"},
		"no row":       {[]Port{port("tcp", "0.0.0.0:80", "10.0.0.2:80"), port("tcp", "0.0.0.0:81", "10.0.0.2:82")}, "80->80/tcp 81->82/tcp"},
		"two kinds":    {[]Port{port("udp", "0.0.0.0:80", "10.0.0.2:80"), port("tcp", "0.0.0.0:80", "10.0.0.2:80")}, "80->80/tcp 80->80/udp"},
		"an address":   {[]Port{port("tcp", "127.0.0.1:80", "10.0.0.2:80")}, "127.0.0.1:80->80/tcp"},
		"an IPv6 one":  {[]Port{port("tcp", "[::1]:80", "[fd00::2]:80")}, "[::1]:80->80/tcp"},
		"one and all":  {[]Port{port("tcp", "127.0.0.1:80", "10.0.0.2:80"), port("tcp", "0.0.0.0:80", "10.0.0.2:80")}, "80->80/tcp 127.0.0.1:80->80/tcp"},
		"two of hosts": {[]Port{port("tcp", "127.0.0.1:80", "10.0.0.2:80"), port("tcp", "192.0.2.1:80", "10.0.0.2:80")}, "127.0.0.1,192.0.2.1:80->80/tcp"},
	} {
		var got []string
		for _, p := range (Attachment{Ports: test.ports}).Published() {
			got = append(got, p.String())
		}
		if joined := strings.Join(got, " "); joined != test.want {
			t.Errorf("%s: got %q, want %q", name, joined, test.want)
		}
	}
}

// TestOf: a container is found by each of its names, and by the beginning of its id only if no
// container has that name.
func TestOf(t *testing.T) {
	s := &Snapshot{Attachments: []Attachment{
		{Network: "n", Container: "abcdef", IfName: "eth0", Pod: "shop/front", NetNS: "/run/netns/x", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		{Network: "m", Container: "abcdef", IfName: "eth1"},
		{Network: "n", Container: "abc", IfName: "eth0", Name: "db"},
	}}
	for of, want := range map[string]int{
		"abcdef": 2, "abc": 1, "ab": 3, "abcd": 2, "shop/front": 1, "front": 1, "db": 1, "/run/netns/x": 1, "10.0.0.2": 1, "x": 0, "": 0,
	} {
		if got := s.Of(of); len(got) != want {
			t.Errorf("%q: got %d attachments, want %d", of, len(got), want)
		}
	}
}

// TestCachedMapping: port mappings in a runtime's cache, and invalid ones.
func TestCachedMapping(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")
	for _, test := range []struct {
		m       cachedMapping
		address netip.Addr
		want    string // the host's end; empty: none
	}{
		{cachedMapping{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"}, four, "tcp 0.0.0.0:80"},
		{cachedMapping{HostPort: 80, ContainerPort: 8080}, six, "tcp [::]:80"},
		{cachedMapping{HostPort: 80, ContainerPort: 8080, HostIP: "127.0.0.1"}, four, "tcp 127.0.0.1:80"},
		{cachedMapping{HostPort: 80, ContainerPort: 8080, HostIP: "127.0.0.1"}, six, ""},
		{cachedMapping{HostPort: 0, ContainerPort: 8080}, four, ""},
		{cachedMapping{HostPort: 80, ContainerPort: 70000}, four, ""},
	} {
		port, ok := test.m.to(test.address)
		if got := port.Protocol + " " + port.Host.String(); ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%+v to %s: got %q, %v, want %q", test.m, test.address, got, ok, test.want)
		}
	}
}
