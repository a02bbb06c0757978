package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/test/golden"
)

// TestOpenOfAnotherKind: Open refuses other kinds of namespaces.
func TestOpenOfAnotherKind(t *testing.T) {
	if _, err := Open("/proc/self/ns/mnt"); !IsGone(err) || cni.CodeOf(err) != cni.CodeEnvironment {
		t.Errorf("got %v with code %d, want that it is gone, with code %d", err, cni.CodeOf(err), cni.CodeEnvironment)
	}
}

func TestOpenWhereNoneIs(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", plain + ".gone", plain} {
		if _, err := Open(path); !IsGone(err) || cni.CodeOf(err) != cni.CodeEnvironment {
			t.Errorf("%q: got %v with code %d, want that it is gone, with code %d", path, err, cni.CodeOf(err), cni.CodeEnvironment)
		}
	}
	if IsGone(unix.EPERM) {
		t.Error("a namespace that may not be entered is said to be gone")
	}
}

// TestPanicComesHome: after a panic, the thread is back in the host's namespace, where undo
// must run.
func TestPanicComesHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a namespace")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := here(t)
	another := make(chan string)
	done := make(chan struct{})
	go func() { // its thread ends with it, and with that the namespace
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a namespace: %v", err)
		}
		another <- filepath.Join("/proc", strconv.Itoa(os.Getpid()), "task", strconv.Itoa(unix.Gettid()), "ns/net")
		<-done
	}()
	path := <-another
	defer close(done)
	var inside string
	err := cni.Catch(func() error {
		return Enter(path, func() error {
			inside = here(t)
			panic("in the container")
		})
	})
	if err == nil || inside == home || here(t) != home {
		t.Errorf("got %v, in %s, now in %s, want the panic as an error, and to be in %s again", err, inside, here(t), home)
	}
}

// TestThreadIsFreeAgain: the thread is not locked afterwards, or nothing else could use it.
func TestThreadIsFreeAgain(t *testing.T) {
	notOne, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := &Handle{fd: notOne, path: "/dev/null"}
	defer func() { _ = h.Close() }()
	if err := h.Enter(func() error { return nil }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want %v: it is no namespace", err, unix.EINVAL)
	}
	stack := make([]byte, 1<<10) // "goroutine 7 [running, locked to thread]:"
	head, _, _ := bytes.Cut(stack[:runtime.Stack(stack, false)], []byte("\n"))
	if bytes.Contains(head, []byte("locked to thread")) {
		t.Errorf("after a namespace that could not be entered: %s", head)
	}
}

func here(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// TestIsLinkGone: a link may be deleted before it is looked up, or after that, before it is
// changed.
func TestIsLinkGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a namespace")
	}
	golden.EnterNetNS(t)
	_, err := netlink.LinkByName("none")
	if !IsLinkGone(fmt.Errorf("look up none: %w", err)) {
		t.Errorf("looked up: got %v, want that it is gone", err)
	}
	gone := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "gone"}}
	if err := errors.Join(netlink.LinkAdd(gone), netlink.LinkDel(gone)); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"set up":       func() error { return netlink.LinkSetUp(gone) },
		"MTU set":      func() error { return netlink.LinkSetMTU(gone, 1400) },
		"renamed":      func() error { return netlink.LinkSetName(gone, "other") },
		"given a name": func() error { return netlink.LinkSetAlias(gone, "other") },
		"deleted":      func() error { return netlink.LinkDel(gone) },
	} {
		if err := do(); !IsLinkGone(err) {
			t.Errorf("%s: got %v, want that it is gone", what, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"nothing": nil, "lo, which stays": netlink.LinkDel(lo)} {
		if IsLinkGone(err) || (err == nil) != (what == "nothing") {
			t.Errorf("%s: got %v, is gone: %t, want that it is not", what, err, IsLinkGone(err))
		}
	}
}
