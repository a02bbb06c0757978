package overlay

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLostAnswers: lost answers of the kernel are an error, and the next batch works.
func TestLostAnswers(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
	h, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }() // and the namespace
	if err := unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	route := Route{Dst: netip.MustParsePrefix("10.40.0.0/16"), Kind: Unreachable}
	var all []message
	for range batchSize {
		m := route.del()
		m.pass = nil
		all = append(all, m)
	}
	err = errors.Join(h.send(all)...)
	if !errors.Is(err, unix.ENOBUFS) || !strings.Contains(err.Error(), "and 127 more") {
		t.Errorf("got %v, want that answers are lost", err)
	}
	for range 2 {
		if err := errors.Join(h.send([]message{route.add(0), route.del()})...); err != nil {
			t.Errorf("the next batch: %v", err)
		}
	}
}
