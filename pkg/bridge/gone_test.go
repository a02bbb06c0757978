package bridge

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestGoneMeanwhile: a link that goes away between being listed and being looked at, or changed,
// is no error.
func TestGoneMeanwhile(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
	rt, err := openRTNL(0)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.close()
	library, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer library.Close()
	h := &Host{rt: rt, nl: library}
	gone := link{index: 4711, name: "gone0"}
	for what, do := range map[string]func() error{
		"accept router advertisements": func() error { return acceptAdvertisements(gone) },
		"list its addresses":           func() error { _, err := rt.addresses(gone.index, unix.AF_UNSPEC); return err },
		"delete an address":            func() error { return h.deleteAddress(gone, netip.MustParsePrefix("10.9.0.1/24")) },
		"delete an IPv6 address":       func() error { return h.deleteAddress(gone, netip.MustParsePrefix("fd00::1/64")) },
		"take it out of a VLAN": func() error {
			return editVLANs(unix.RTM_DELLINK, gone.index, nl.BRIDGE_FLAGS_SELF, vlanRange{first: 10, last: 10})
		},
		"delete it": func() error { _, err := rt.do(deleteIndex(gone.index, gone.name)); return err },
	} {
		if err := do(); err != nil {
			t.Errorf("%s: got %v, want success", what, err)
		}
	}
	// EOPNOTSUPP is the answer of a kernel without VLAN filtering, whichever link is asked for
	if vlans, err := vlansOf(gone.index); len(vlans) > 0 || err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("list its VLANs: got %v, %v, want none", vlans, err)
	}
}

// TestDumpEndsWithAnError: an error in the last message of a dump is no complete list.
func TestDumpEndsWithAnError(t *testing.T) {
	endsWith := func(errno unix.Errno) *rtnl {
		return kernel(func(asked []nlMessage) [][]byte {
			return [][]byte{answer(unix.NLMSG_DONE, 0, asked[0].Header.Seq, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))))}
		}).connect(t)
	}
	if links, err := endsWith(unix.ENOMEM).list(0); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("got %v, %v, want %v", links, err, unix.ENOMEM)
	}
	if addresses, err := endsWith(unix.ENODEV).addresses(4711, unix.AF_UNSPEC); len(addresses) > 0 || err != nil {
		t.Errorf("got %v, %v, want no addresses of a link that is gone", addresses, err)
	}
}
