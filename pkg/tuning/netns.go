package tuning

import (
	"errors"
	"fmt"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// tune runs a function on a thread in the namespace at the path netns.
func tune(netns, ifName string, inside func(tuner) error) error {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer host.Close()
	return ns.WithNetNSPath(netns, func(ns.NetNS) error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket in %s: %w", netns, err)
		}
		defer h.Close()
		// in a goroutine of its own
		return cni.Catch(func() error { return inside(tuner{nl: h, host: host, ifName: ifName}) })
	})
}

// isGone says whether what was to be restored is not there any more: the
// namespace, the interface, its host veth, or its sysctl.
func isGone(err error) bool {
	var noPath ns.NSPathNotExistErr
	var noNamespace ns.NSPathNotNSErr
	var noLink netlink.LinkNotFoundError
	return errors.As(err, &noPath) || errors.As(err, &noNamespace) || errors.As(err, &noLink) ||
		errors.Is(err, unix.ENOENT) || errors.Is(err, errNoHostVeth)
}
