package ipam

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// parse reads a configuration as an ADD with these CNI_ARGS would.
func parse(config, ip string) (Config, error) {
	args := map[string]string{}
	if ip != "" {
		args["IP"] = ip
	}
	return ParseConfig(&cni.Request{Version: "1.1.0", Stdin: []byte(config), Args: args})
}

// show prints a configuration's ranges with gateways and sizes, one set a line.
func show(c Config) string {
	var lines []string
	for i, set := range c.Sets {
		var parts []string
		for _, r := range set {
			size := fmt.Sprint(r.Size())
			if r.Size() == ^uint64(0) {
				size = "many"
			}
			parts = append(parts, fmt.Sprintf("%s %s gw %s size %s", r.Subnet, r, r.Gateway, size))
		}
		line := strings.Join(parts, " + ")
		if c.Requested[i].IsValid() {
			line += " want " + c.Requested[i].String()
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name, config, ip string
		want             string
	}{
		{
			"defaults", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}]]}}`, "",
			"10.1.0.0/24 10.1.0.1-10.1.0.254 gw 10.1.0.1 size 253",
		},
		{
			"old form comes first", `{"ipam":{"subnet":"10.2.0.0/24","rangeStart":"10.2.0.10","rangeEnd":"10.2.0.19","gateway":"10.2.0.254","ranges":[[{"subnet":"10.1.0.0/24"}]]}}`, "",
			"10.2.0.0/24 10.2.0.10-10.2.0.19 gw 10.2.0.254 size 10\n10.1.0.0/24 10.1.0.1-10.1.0.254 gw 10.1.0.1 size 253",
		},
		{
			"ipRanges come before all", `{"ipam":{"subnet":"10.2.0.0/24"},"runtimeConfig":{"ipRanges":[[{"subnet":"10.3.0.0/24"}]]}}`, "",
			"10.3.0.0/24 10.3.0.1-10.3.0.254 gw 10.3.0.1 size 253\n10.2.0.0/24 10.2.0.1-10.2.0.254 gw 10.2.0.1 size 253",
		},
		{
			"flat ipRanges", `{"ipam":{},"runtimeConfig":{"ipRanges":[{"subnet":"10.3.0.0/24"},{"subnet":"fd00::/64"}]}}`, "",
			"10.3.0.0/24 10.3.0.1-10.3.0.254 gw 10.3.0.1 size 253\nfd00::/64 fd00::1-fd00::ffff:ffff:ffff:ffff gw fd00::1 size many",
		},
		{
			"keys in any case", `{"IPAM":{"Ranges":[[{"SUBNET":"10.1.0.0/24","RangeStart":"10.1.0.7"}]]},"Args":{"CNI":{"Ips":["10.1.0.9"]}}}`, "",
			"10.1.0.0/24 10.1.0.7-10.1.0.254 gw 10.1.0.1 size 248 want 10.1.0.9",
		},
		{
			"two ranges of a set", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24","rangeEnd":"10.1.0.9"},{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.20","rangeEnd":"10.1.0.29"}]]}}`, "",
			"10.1.0.0/24 10.1.0.1-10.1.0.9 gw 10.1.0.1 size 8 + 10.1.0.0/24 10.1.0.20-10.1.0.29 gw 10.1.0.1 size 10",
		},
		{
			"exclude", `{"ipam":{"exclude":["10.1.0.64/26","10.1.0.5"],"ranges":[[{"subnet":"10.1.0.0/24","exclude":["10.1.0.70","10.1.0.130"]}]]}}`, "",
			"10.1.0.0/24 10.1.0.1-10.1.0.254 gw 10.1.0.1 size 187",
		},
		{
			"another range's gateway is not leased", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/25","gateway":"10.1.0.9"}],[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.128","gateway":"10.1.0.200"}]]}}`, "",
			"10.1.0.0/25 10.1.0.1-10.1.0.126 gw 10.1.0.9 size 125\n10.1.0.0/24 10.1.0.128-10.1.0.254 gw 10.1.0.200 size 126",
		},
		{"/31", `{"ipam":{"ranges":[[{"subnet":"10.1.0.4/31"}]]}}`, "", "10.1.0.4/31 10.1.0.4-10.1.0.5 gw 10.1.0.4 size 1"},
		{"/31 with the other gateway", `{"ipam":{"ranges":[[{"subnet":"10.1.0.4/31","gateway":"10.1.0.5"}]]}}`, "", "10.1.0.4/31 10.1.0.4-10.1.0.5 gw 10.1.0.5 size 1"},
		{"/32", `{"ipam":{"ranges":[[{"subnet":"10.1.0.4/32"}]]}}`, "", "10.1.0.4/32 10.1.0.4-10.1.0.4 gw invalid IP size 1"},
		{"/127", `{"ipam":{"ranges":[[{"subnet":"fd00::4/127"}]]}}`, "", "fd00::4/127 fd00::4-fd00::5 gw fd00::4 size 1"},
		{"/24 of IPv6", `{"ipam":{"ranges":[[{"subnet":"fd00::/24"}]]}}`, "", "fd00::/24 fd00::1-fd00:ff:ffff:ffff:ffff:ffff:ffff:ffff gw fd00::1 size many"},
		{"link-local gateway", `{"ipam":{"ranges":[[{"subnet":"fd00::/126","gateway":"fe80::1"}]]}}`, "", "fd00::/126 fd00::1-fd00::3 gw fe80::1 size 3"},
		{"IPv4 written as IPv6", `{"ipam":{"exclude":["::ffff:10.1.0.0/125","::ffff:10.1.0.9"],"ranges":[[{"subnet":"::ffff:10.1.0.0/120","rangeEnd":"::ffff:10.1.0.16","gateway":"::ffff:10.1.0.10"}]]}}`, "::ffff:10.1.0.11", "10.1.0.0/24 10.1.0.1-10.1.0.16 gw 10.1.0.10 size 7 want 10.1.0.11"},
		{"no gateway", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/30","gateway":"0.0.0.0"}],[{"subnet":"fd00::/126","gateway":"::"}]]}}`, "", "10.1.0.0/30 10.1.0.1-10.1.0.2 gw invalid IP size 2\nfd00::/126 fd00::1-fd00::3 gw invalid IP size 3"},
		{"rangeStart at the network address", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/30","rangeStart":"10.1.0.0","rangeEnd":"10.1.0.3"}]]}}`, "", "10.1.0.0/30 10.1.0.0-10.1.0.3 gw 10.1.0.1 size 1"},
		{
			"requested in every way", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00::/64"}],[{"subnet":"10.2.0.0/24"}]]},"args":{"cni":{"ips":["10.2.0.7/24"]}},"runtimeConfig":{"ips":["fd00::7"]}}`, "10.1.0.7/16,fd00::7",
			"10.1.0.0/24 10.1.0.1-10.1.0.254 gw 10.1.0.1 size 253 want 10.1.0.7\nfd00::/64 fd00::1-fd00::ffff:ffff:ffff:ffff gw fd00::1 size many want fd00::7\n10.2.0.0/24 10.2.0.1-10.2.0.254 gw 10.2.0.1 size 253 want 10.2.0.7",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := parse(test.config, test.ip)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, show(c)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	one := func(r string) string { return `{"ipam":{"ranges":[[` + r + `]]}}` }
	tests := []struct {
		name, config, ip string
		code             cni.Code
		want             string
	}{
		{"no ipam", `{}`, "", 7, "ipam: missing"},
		{"no ranges", `{"ipam":{}}`, "", 7, "ipam.ranges: missing"},
		{"empty set", `{"ipam":{"ranges":[[]]}}`, "", 7, "ipam.ranges[0]: empty"},
		{"ranges is text", `{"ipam":{"ranges":"10.1.0.0/24"}}`, "", 6, "ipam.ranges"},
		{"gateway is a number", one(`{"subnet":"10.1.0.0/24","gateway":1}`), "", 6, "gateway"},
		{"bad route", `{"ipam":{"subnet":"10.1.0.0/24","routes":[{"dst":"0.0.0.0/0"},{"dst":"10.1"}]}}`, "", 6, "ipam.routes[1]"},
		{"default as a route", `{"ipam":{"subnet":"10.1.0.0/24","routes":[{"dst":"default"}]}}`, "", 6, `ipam.routes[0].dst: "default" is not a prefix like 10.0.0.0/8; for a default route write 0.0.0.0/0 or ::/0`},
		{"a route without destination", `{"ipam":{"subnet":"10.1.0.0/24","routes":[null]}}`, "", 6, "ipam.routes[0].dst"},
		{"relative dataDir", `{"ipam":{"dataDir":"leases","subnet":"10.1.0.0/24"}}`, "", 7, `ipam.dataDir: "leases" is relative`},
		{"dataDir is a number", `{"ipam":{"dataDir":5,"subnet":"10.1.0.0/24"}}`, "", 6, "dataDir"},
		{"statusWhenFull", `{"ipam":{"statusWhenFull":"maybe","subnet":"10.1.0.0/24"}}`, "", 7, `ipam.statusWhenFull: "maybe" is neither`},
		{"no subnet", one(`{"rangeStart":"10.1.0.1"}`), "", 7, "ipam.ranges[0][0].subnet: missing"},
		{"bad subnet", one(`{"subnet":"10.1.0.0"}`), "", 7, `ipam.ranges[0][0].subnet: "10.1.0.0" is not a subnet`},
		{"host bits", one(`{"subnet":"10.1.0.5/24"}`), "", 7, "ipam.ranges[0][0].subnet: 10.1.0.5/24 has host bits set; the subnet is 10.1.0.0/24"},
		{"gateway outside", one(`{"subnet":"10.2.0.0/24","gateway":"10.1.0.1"}`), "", 7, "ipam.ranges[0][0].gateway: 10.1.0.1 is outside 10.2.0.0/24"},
		{"link-local gateway of IPv4", one(`{"subnet":"10.2.0.0/24","gateway":"fe80::1"}`), "", 7, "fe80::1 is outside"},
		{"start outside", one(`{"subnet":"10.2.0.0/24","rangeStart":"10.3.0.1"}`), "", 7, "ipam.ranges[0][0].rangeStart: 10.3.0.1 is outside 10.2.0.0/24"},
		{"end is no address", one(`{"subnet":"10.2.0.0/24","rangeEnd":"x"}`), "", 7, `ipam.ranges[0][0].rangeEnd: "x" is not an address`},
		{"end before start", one(`{"subnet":"10.2.0.0/24","rangeStart":"10.2.0.9","rangeEnd":"10.2.0.8"}`), "", 7, "ipam.ranges[0][0].rangeEnd: 10.2.0.8 comes before rangeStart, 10.2.0.9"},
		{"overlap in a set", one(`{"subnet":"10.2.0.0/24"},{"subnet":"10.2.0.128/25"}`), "", 7, "ipam.ranges[0][1]: 10.2.0.129-10.2.0.254 overlaps with 10.2.0.1-10.2.0.254 (ipam.ranges[0][0])"},
		{"overlap across sets", `{"ipam":{"subnet":"10.2.0.0/16","ranges":[[{"subnet":"10.2.3.0/24"}]]}}`, "", 7, "overlaps with 10.2.0.1-10.2.255.254 (ipam)"},
		{"families mixed", one(`{"subnet":"10.2.0.0/24"},{"subnet":"fd00::/64"}`), "", 7, "different families"},
		{"exclude", `{"ipam":{"exclude":["10.1"],"subnet":"10.1.0.0/24"}}`, "", 7, `ipam.exclude[0]: "10.1" is neither`},
		{"nothing to lease", `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.2.0.0/30","exclude":["10.2.0.2"]}]]}}`, "", 7, "ipam.ranges[1]: nothing is left to lease"},
		{"lock time-out", `{"ipam":{"lockTimeout":"soon","subnet":"10.1.0.0/24"}}`, "", 7, `ipam.lockTimeout: "soon"`},
		{"requested in no range", one(`{"subnet":"10.2.0.0/24"}`), "10.9.0.9", 7, "CNI_ARGS IP: 10.9.0.9 is in no range"},
		{"requested beyond the range", one(`{"subnet":"10.2.0.0/24","rangeEnd":"10.2.0.9"}`), "10.2.0.10", 7, "10.2.0.10 is in no range"},
		{"requested is the gateway", one(`{"subnet":"10.2.0.0/24"}`), "10.2.0.1", 7, "10.2.0.1 is the gateway"},
		{"requested is excluded", `{"ipam":{"exclude":["10.2.0.8/29"],"subnet":"10.2.0.0/24"}}`, "10.2.0.9", 7, "10.2.0.9 is never leased"},
		{"requested is no address", one(`{"subnet":"10.2.0.0/24"}`), "ten", 7, `CNI_ARGS IP: "ten" is not an address`},
		{"two requested of one set", one(`{"subnet":"10.2.0.0/24"}`), "10.2.0.8,10.2.0.9", 7, "CNI_ARGS IP: 10.2.0.9 and 10.2.0.8 are of one range set"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(test.config, test.ip)
			if err == nil {
				t.Fatal("got no error")
			}
			if got := cni.CodeOf(err); got != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q (code %d), want %q (code %d)", err, got, test.want, test.code)
			}
		})
	}
}

func TestOldVersionsHoldOneAddressOfEachFamily(t *testing.T) {
	config := []byte(`{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.2.0.0/24"}]]}}`)
	for version, code := range map[string]cni.Code{"0.2.0": 7, "0.3.0": 0} {
		_, err := ParseConfig(&cni.Request{Version: version, Stdin: config})
		if err != nil && cni.CodeOf(err) != code || err == nil && code != 0 {
			t.Errorf("version %s: got %v, want code %d", version, err, code)
		}
	}
}

// A DEL must find the store even if the rest of the configuration is invalid.
func TestStoreOf(t *testing.T) {
	tests := []struct {
		name, config string
		want         Store
	}{
		{"defaults", `{}`, Store{"/var/lib/cni/networks", "net", 10 * time.Second, "/var/lib/cni/networks"}},
		{"all", `{"ipam":{"dataDir":"/d","lockTimeout":"2s"}}`, Store{"/d", "net", 2 * time.Second, "/var/lib/cni/networks"}},
		{"seconds", `{"ipam":{"dataDir":"/d","lockTimeout":1.5}}`, Store{"/d", "net", 1500 * time.Millisecond, "/var/lib/cni/networks"}},
		{"the rest is wrong", `{"ipam":{"dataDir":"/d","ranges":"x","subnet":7,"lockTimeout":[]}}`, Store{"/d", "net", 10 * time.Second, "/var/lib/cni/networks"}},
	}
	for _, test := range tests {
		got, err := StoreOf(&cni.Request{Owner: cni.Owner{Network: "net"}, Stdin: []byte(test.config)})
		if err != nil || *got != test.want {
			t.Errorf("%s: got %v, %v, want %v", test.name, got, err, test.want)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	got := parseResolvConf("# comment\n; comment\nnameserver 10.0.0.1\n nameserver fd00::1 \ndomain a.example\nsearch a.example b.example\noptions ndots:2 rotate\nsortlist\n\n")
	want := "[10.0.0.1 fd00::1] a.example [a.example b.example] [ndots:2 rotate]"
	if s := fmt.Sprintf("%v %v %v %v", got.Nameservers, got.Domain, got.Search, got.Options); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
	if _, err := ReadResolvConf("/nonexistent/resolv.conf"); cni.CodeOf(err) != cni.CodeConfig {
		t.Errorf("missing file: got %v, want code 7", err)
	}
}

// TestSizeIn counts the leasable addresses of a prefix: not network and broadcast address,
// gateways and excluded ones.
func TestSizeIn(t *testing.T) {
	c, err := parse(`{"ipam":{"exclude":["10.1.0.64/27"],"ranges":[[{"subnet":"10.1.0.0/24","rangeEnd":"10.1.0.199"}],[{"subnet":"fd00::/32"}]]}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		r    Range
		p    string
		want uint64
	}{
		{c.Sets[0][0], "10.1.0.0/24", 198 - 32},
		{c.Sets[0][0], "10.1.0.0/30", 2},
		{c.Sets[0][0], "10.1.0.1/32", 0},
		{c.Sets[0][0], "10.1.0.48/28", 16},
		{c.Sets[0][0], "10.1.0.56/29", 8},
		{c.Sets[0][0], "10.1.0.64/28", 0},
		{c.Sets[0][0], "10.1.0.192/26", 8},
		{c.Sets[0][0], "10.2.0.0/16", 0},
		{c.Sets[0][0], "fd00::/32", 0},
		{c.Sets[1][0], "fd00::/120", 254},
		{c.Sets[1][0], "fd00::/32", math.MaxUint64},
	} {
		if got := test.r.SizeIn(netip.MustParsePrefix(test.p)); got != test.want {
			t.Errorf("%s in %s: got %d, want %d", test.r, test.p, got, test.want)
		}
	}
}
