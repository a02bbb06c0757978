package overlay

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLostAnswers: where the kernel had no room for its answers that is an error, and the next
// batch is as good as the first.
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
		m.bear = nil
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

// TestAnswered: each message has the answer with its number, and one that it bears is none;
// what is cut off, or answers an earlier batch, is left out.
func TestAnswered(t *testing.T) {
	const first = ^uint32(0) - 1 // the numbers begin anew within the batch
	route := Route{Dst: netip.MustParsePrefix("10.40.0.0/16"), Kind: Unreachable}
	batch := []message{route.del(), route.add(0), route.del(), route.add(0)}
	answer := func(message int, errno unix.Errno) []byte {
		b := make([]byte, unix.SizeofNlMsghdr+4)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_ERROR)
		binary.NativeEndian.PutUint32(b[8:], first+uint32(message))
		binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr:], uint32(-int32(errno)))
		return b
	}
	errs := make([]error, len(batch))
	if answered(batch, first, slices.Concat(answer(-1, unix.EPERM), answer(0, unix.ESRCH), answer(1, unix.EEXIST)), errs) {
		t.Error("the last answer has not come: got that it has")
	}
	whole := answer(3, unix.ENETUNREACH)
	for n := range whole {
		if answered(batch, first, whole[:n], errs) || errs[3] != nil {
			t.Errorf("%d of %d bytes: got %v, want no answer yet", n, len(whole), errs[3])
		}
	}
	if !answered(batch, first, slices.Concat(whole, answer(4, unix.EPERM)), errs) {
		t.Error("the last answer has come: got that it has not")
	}
	if errs[0] != nil || !errors.Is(errs[1], unix.EEXIST) || errs[2] != nil || !errors.Is(errs[3], unix.ENETUNREACH) {
		t.Errorf("got %q, want the refusals of the second and the last alone", errs)
	}
}
