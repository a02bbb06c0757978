package tuning

import (
	"errors"
	"fmt"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Sandbox is a container's network namespace, found by its path.
type Sandbox struct {
	Path   string `json:"netns"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// FindSandbox looks at the namespace at path (CNI_NETNS). The error has code 4.
func FindSandbox(path string) (Sandbox, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return Sandbox{}, cni.EnvironmentErrorf("CNI_NETNS: look at %s: %w", path, err)
	}
	return Sandbox{path, uint64(stat.Dev), stat.Ino}, nil //nolint:unconvert // 32 bits on MIPS
}

// same says whether both are one namespace, by whatever path.
func (s Sandbox) same(other Sandbox) bool {
	return s.Inode != 0 && s.Device == other.Device && s.Inode == other.Inode
}

// tune runs a function on a thread in the namespace.
func (s Sandbox) tune(ifName string, inside func(tuner) error) error {
	return ns.WithNetNSPath(s.Path, func(ns.NetNS) error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket in %s: %w", s.Path, err)
		}
		defer h.Close()
		return inside(tuner{h, ifName})
	})
}

// isGone says whether what was to be restored is not there any more: the
// namespace, the interface, or the interface's sysctl.
func isGone(err error) bool {
	var noPath ns.NSPathNotExistErr
	var noNamespace ns.NSPathNotNSErr
	var noLink netlink.LinkNotFoundError
	return errors.As(err, &noPath) || errors.As(err, &noNamespace) || errors.As(err, &noLink) || errors.Is(err, unix.ENOENT)
}
