package bridge

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestStepsOrder: the link is set up before addresses are added, so that the kernel makes the
// route to their subnet then, when it may wait for memory; other routes need that one.
func TestStepsOrder(t *testing.T) {
	c := Interface{
		Name: "eth0", Up: true,
		Addresses: []Address{{Prefix: netip.MustParsePrefix("10.1.0.5/24")}, {Prefix: netip.MustParsePrefix("fd00::5/64")}},
		Routes:    []Route{{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00::1")}},
	}
	var got []string
	for _, s := range c.steps(2) {
		got = append(got, strings.Join(strings.Fields(s.what)[:2], " "))
	}
	want := []string{"switch link-local", "set eth0", "add address", "add address", "add route"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
