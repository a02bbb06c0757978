package bridge

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Sandbox is a container's network namespace, open. The library's pkg/ns is not
// used for it: it opens the namespace through the runtime's poller and enters it by
// a goroutine with a thread of its own, three times for an ADD, which came to 40
// system calls more.
type Sandbox struct {
	fd   int
	path string
}

// OpenSandbox opens the namespace at path (CNI_NETNS). The error has code 4.
func OpenSandbox(path string) (*Sandbox, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, cni.EnvironmentErrorf("CNI_NETNS: open %s: %w", path, err)
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(fd, &stat); err != nil || stat.Type != unix.NSFS_MAGIC && stat.Type != unix.PROC_SUPER_MAGIC {
		_ = unix.Close(fd) // only looked at
		return nil, cni.EnvironmentErrorf("CNI_NETNS: %s is not a network namespace", path)
	}
	return &Sandbox{fd, path}, nil
}

// Close closes the namespace.
func (s *Sandbox) Close() error { return unix.Close(s.fd) }

// do runs a function in the namespace, with a netlink socket there.
func (s *Sandbox) do(inside func(*netlink.Handle) error) error {
	return s.enter(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket in %s: %w", s.path, err)
		}
		defer h.Close()
		return cni.Catch(func() error { return inside(h) }) // in a goroutine of its own
	})
}

// enter runs a function in the namespace, on the calling thread.
func (s *Sandbox) enter(inside func() error) (err error) {
	const self = "/proc/thread-self/ns/net"
	runtime.LockOSThread()
	home, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", self, err)
	}
	defer func() { _ = unix.Close(home) }() // opened for reading only
	if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", s.path, err)
	}
	defer func() {
		homeErr := unix.Setns(home, unix.CLONE_NEWNET)
		if homeErr != nil {
			// what is to be undone now would be looked for in there
			err = errors.Join(err, fmt.Errorf("leave %s: %w", s.path, homeErr))
			homeErr = unix.Setns(home, unix.CLONE_NEWNET)
		}
		if homeErr == nil {
			runtime.UnlockOSThread()
		}
	}()
	return inside()
}

// has says whether the namespace has an interface of that name.
func (s *Sandbox) has(name string) (there bool, err error) {
	err = s.do(func(h *netlink.Handle) error {
		_, err := h.LinkByName(name)
		there = err == nil
		if isLinkGone(err) {
			return nil
		}
		return err
	})
	return there, err
}

func isLinkGone(err error) bool {
	var gone netlink.LinkNotFoundError
	return errors.As(err, &gone) || errors.Is(err, unix.ENODEV)
}
