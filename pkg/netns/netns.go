// Package netns is the one handle of a container's network namespace.
//
// Open gives a Handle, whose methods Enter and Do run a function inside; the package's
// functions Enter and Do open, enter and close the namespace at a path. Make makes a
// namespace. IsGone and IsLinkGone say whether an error means that a namespace or link does
// not exist. pkg/record tells whether a namespace is still the one that an ADD had.
// containernetworking/plugins' package ns decides whether a path is a namespace. Its handle
// is not used: it opens the namespace through Go's poller and enters it on a goroutine with
// a thread of its own, which cost an ADD 40 system calls more.
package netns

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Handle is an open network namespace.
type Handle struct {
	fd   int
	path string
}

// Make makes a named namespace, at /run/netns/NAME, as ip netns add does.
func Make(name string) error {
	return away(func() error {
		handle, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return handle.Close()
	})
}

// errAnotherKind is Open's error for a namespace that is not a network namespace.
var errAnotherKind = errors.New("it is a namespace of another kind")

// Open opens the namespace at path (CNI_NETNS). The error has code 4; IsGone says whether
// it means that there is no network namespace at path.
func Open(path string) (*Handle, error) {
	if err := ns.IsNSorErr(path); err != nil {
		return nil, cni.EnvironmentErrorf("CNI_NETNS: %s is not a network namespace: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil && !cni.IsNetNS(fd) {
		err = errors.Join(errAnotherKind, unix.Close(fd))
	}
	if err != nil {
		return nil, cni.EnvironmentErrorf("CNI_NETNS: open %s: %w", path, err)
	}
	return &Handle{fd, path}, nil
}

// IsGone says whether Open found no network namespace at its path. Whatever was inside is
// then gone as well.
func IsGone(err error) bool {
	var none ns.NSPathNotExistErr
	var another ns.NSPathNotNSErr
	return errors.As(err, &none) || errors.As(err, &another) || errors.Is(err, errAnotherKind) || errors.Is(err, unix.ENOENT)
}

// IsLinkGone says whether an error of netlink means that the link does not exist: the look-up
// did not find it (LinkNotFoundError), or it was deleted before a later message (ENODEV).
func IsLinkGone(err error) bool {
	var notFound netlink.LinkNotFoundError //nolint:forbidigo // others call IsLinkGone
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// Close closes the namespace.
func (h *Handle) Close() error { return unix.Close(h.fd) }

// FD is the descriptor, for messages to the kernel (IFLA_NET_NS_FD).
func (h *Handle) FD() int { return h.fd }

// String is the path.
func (h *Handle) String() string { return h.path }

// Do runs a function in the namespace, with a netlink socket there.
func (h *Handle) Do(inside func(*netlink.Handle) error) error {
	return h.Enter(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket in %s: %w", h, err)
		}
		defer nl.Close()
		return inside(nl)
	})
}

// Enter runs a function in the namespace, on the calling thread. Sockets that the function
// opens stay in that namespace.
func (h *Handle) Enter(inside func() error) error {
	return away(func() error {
		if err := unix.Setns(h.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", h, err)
		}
		return inside()
	})
}

// away runs a function that changes the thread's namespace, and then returns to the former
// one. To leave the thread in there and let it end would not do: a process's first thread
// does not end, and /proc/PID/ns is that of the first thread.
func away(outside func() error) (err error) {
	const self = "/proc/thread-self/ns/net"
	runtime.LockOSThread()
	atHome := true // a thread that cannot return stays locked, and ends with its goroutine
	defer func() {
		if atHome {
			runtime.UnlockOSThread()
		}
	}()
	home, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", self, err)
	}
	defer func() { _ = unix.Close(home) }() // opened for reading only
	defer func() {
		homeErr := unix.Setns(home, unix.CLONE_NEWNET)
		if homeErr != nil {
			// without a second try, what is undone next would be looked for in that namespace
			err = errors.Join(err, fmt.Errorf("leave another network namespace: %w", homeErr))
			homeErr = unix.Setns(home, unix.CLONE_NEWNET)
		}
		atHome = homeErr == nil
	}()
	return outside()
}

// Do is Handle.Do for the namespace at path.
func Do(path string, inside func(*netlink.Handle) error) error {
	return with(path, func(h *Handle) error { return h.Do(inside) })
}

// Enter is Handle.Enter for the namespace at path.
func Enter(path string, inside func() error) error {
	return with(path, func(h *Handle) error { return h.Enter(inside) })
}

func with(path string, use func(*Handle) error) error {
	h, err := Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }() // opened for reading only
	return use(h)
}
