package overlay

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestGoneMeanwhile: a link that goes away between being listed and being looked at, or changed,
// is no error.
func TestGoneMeanwhile(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
	h, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }() // and the namespace
	const index = 4711
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: index, Name: "gone0"}}
	fdb := FDBEntry{MAC: "02:00:00:00:00:01", Remote: netip.MustParseAddr("192.0.2.1")}
	neighbour := Neighbour{Addr: netip.MustParseAddr("10.40.0.1"), MAC: "02:00:00:00:00:01"}
	for what, do := range map[string]func() error{
		"look up a listed link":        func() error { _, err := h.linkAt(index); return err },
		"accept router advertisements": func() error { return h.acceptAdvertisements(index) },
		"set its accept_ra":            func() error { return unlessGone(writeSysctl("ipv6/conf/gone0/accept_ra", "2")) },
		"remove an address":            func() error { return h.removeAddress(link, netip.MustParsePrefix("10.40.0.1/24")) },
		"remove an IPv6 address":       func() error { return h.removeAddress(link, netip.MustParsePrefix("fd00::1/64")) },
		"remove a device":              func() error { return h.deleteLink(link) },
		"remove a neighbour":           func() error { return h.send([]message{delNeigh(neighbour, neighbour.neigh(index))})[0] },
		"remove an entry for a MAC":    func() error { return h.send([]message{delNeigh(fdb, fdb.neigh(index))})[0] },
		"read the WireGuard device":    func() error { _, err := h.wireGuardDevice(); return err },
	} {
		if err := do(); err != nil {
			t.Errorf("%s: got %v, want success", what, err)
		}
	}
}
