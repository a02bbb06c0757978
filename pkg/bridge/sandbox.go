package bridge

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Sandbox is a container's network namespace, open.
type Sandbox struct {
	ns   ns.NetNS
	path string
}

// OpenSandbox opens the namespace at path (CNI_NETNS). The error has code 4.
func OpenSandbox(path string) (*Sandbox, error) {
	n, err := ns.GetNS(path)
	if err != nil {
		return nil, cni.EnvironmentErrorf("CNI_NETNS: open %s: %w", path, err)
	}
	return &Sandbox{n, path}, nil
}

// Close closes the namespace.
func (s *Sandbox) Close() error { return s.ns.Close() }

func (s *Sandbox) fd() int { return int(s.ns.Fd()) }

// do runs a function on a thread in the namespace, with a netlink socket there.
func (s *Sandbox) do(inside func(*netlink.Handle) error) error {
	return s.ns.Do(func(ns.NetNS) error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket in %s: %w", s.path, err)
		}
		defer h.Close()
		return cni.Catch(func() error { return inside(h) }) // in a goroutine of its own
	})
}

// enter runs a function in the namespace on the calling thread: one pair of setns,
// where do has a goroutine, a thread and more looks at namespaces for it.
func (s *Sandbox) enter(inside func() error) (err error) {
	const self = "/proc/thread-self/ns/net"
	runtime.LockOSThread()
	home, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", self, err)
	}
	defer func() { _ = unix.Close(home) }() // opened for reading only
	if err := unix.Setns(s.fd(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", s.path, err)
	}
	defer func() {
		if homeErr := unix.Setns(home, unix.CLONE_NEWNET); homeErr != nil {
			// the thread stays locked, and ends with its goroutine: nobody must go on in there
			err = errors.Join(err, fmt.Errorf("leave %s: %w", s.path, homeErr))
			return
		}
		runtime.UnlockOSThread()
	}()
	return inside()
}

func isLinkGone(err error) bool {
	var gone netlink.LinkNotFoundError
	return errors.As(err, &gone) || errors.Is(err, unix.ENODEV)
}
