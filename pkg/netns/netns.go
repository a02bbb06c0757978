// Package netns opens and enters network namespaces.
//
// Open returns a Handle, whose methods Enter and Do run a function in the namespace; the
// functions Enter and Do do the same for a path. Make and Remove are for named ones. IsGone and IsLinkGone
// recognize the errors of what does not exist. pkg/record is for recognizing a namespace later.
//
// Whether a path is a namespace is checked by containernetworking/plugins' package ns. Its
// handle is not used: it opens the namespace through Go's poller, and enters it in a goroutine
// with a thread of its own, which took 40 more system calls for an ADD.
package netns

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Handle is an open network namespace.
type Handle struct {
	fd   int
	path string
}

// errAnotherKind is the error of Open for a namespace that is no network namespace.
var errAnotherKind = errors.New("it is a namespace of another kind")

// Open opens the namespace at path (CNI_NETNS). The error has code 4; IsGone recognizes it if
// there is no namespace.
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

// IsGone says whether an error of Open means that there is no namespace at the path, so that
// everything that was in it is gone.
func IsGone(err error) bool {
	var none ns.NSPathNotExistErr
	var another ns.NSPathNotNSErr
	return errors.As(err, &none) || errors.As(err, &another) || errors.Is(err, errAnotherKind) || errors.Is(err, unix.ENOENT)
}

// IsLinkGone says whether an error of netlink means that there is no such link: none was
// found (LinkNotFoundError), or it went before the next message reached it (ENODEV).
func IsLinkGone(err error) bool {
	var notFound netlink.LinkNotFoundError //nolint:forbidigo // all others call IsLinkGone
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

// away runs a function that changes the thread's namespace, and then changes it back. It is
// not enough to let the thread end instead: it may be the process's first thread, which cannot
// end, and whose namespace others see as that of the process.
func away(outside func() error) (err error) {
	const self = "/proc/thread-self/ns/net"
	runtime.LockOSThread()
	atHome := true // a thread that cannot change back stays locked, so it ends with its goroutine
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
			// an error, since undo would run in the other namespace
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
