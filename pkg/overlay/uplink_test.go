package overlay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestOneOfEach: which of an uplink's addresses, listed as the kernel lists them, a host
// publishes.
func TestOneOfEach(t *testing.T) {
	t.Parallel()
	temporary := map[string]bool{"2001:db8::dead/64": true}
	for _, test := range []struct{ name, addresses, before, want string }{
		{"the only ones", "192.0.2.1/24 2001:db8::1/64", "", "192.0.2.1/24 2001:db8::1/64"},
		{"IPv4 first", "2001:db8::1/64 192.0.2.1/24", "", "192.0.2.1/24 2001:db8::1/64"},
		{"a newer one", "192.0.2.1/24 192.0.2.2/24 2001:db8::2/64 2001:db8::1/64", "192.0.2.1/24 2001:db8::1/64", "192.0.2.1/24 2001:db8::1/64"},
		{"none that was before", "192.0.2.3/24 192.0.2.2/24 2001:db8::2/64", "192.0.2.1/24 2001:db8::1/64", "192.0.2.3/24 2001:db8::2/64"},
		{"a virtual one", "192.0.2.9/32 192.0.2.1/24 2001:db8::9/128 2001:db8::1/64", "", "192.0.2.1/24 2001:db8::1/64"},
		{"a virtual one that was taken while there was no other", "192.0.2.9/32 192.0.2.1/24", "192.0.2.9/32", "192.0.2.1/24"},
		{"clouds give such ones, too", "192.0.2.1/32 2001:db8::1/128", "", "192.0.2.1/32 2001:db8::1/128"},
		{"a temporary one", "2001:db8::dead/64 2001:db8::1/64", "2001:db8::dead/64", "2001:db8::1/64"},
		{"a temporary one alone", "2001:db8::dead/64", "", "2001:db8::dead/64"},
	} {
		var addresses []netlink.Addr
		for _, p := range prefixes(strings.Fields(test.addresses)...) {
			a := netlink.Addr{IPNet: ipNet(p)}
			if temporary[p.String()] {
				a.Flags = unix.IFA_F_TEMPORARY
			}
			addresses = append(addresses, a)
		}
		got := oneOfEach(addresses, prefixes(strings.Fields(test.before)...))
		if want := prefixes(strings.Fields(test.want)...); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", test.name, got, want)
		}
	}
}

// TestIndicesOf: a default route may have several next hops.
func TestIndicesOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		route netlink.Route
		want  string
	}{
		{netlink.Route{LinkIndex: 2}, "[2]"},
		{netlink.Route{MultiPath: []*netlink.NexthopInfo{{LinkIndex: 3}, {LinkIndex: 4}}}, "[3 4]"},
		{netlink.Route{}, "[]"},
	} {
		if got := fmt.Sprint(indicesOf(test.route)); got != test.want {
			t.Errorf("%v: got %s, want %s", test.route, got, test.want)
		}
	}
}
