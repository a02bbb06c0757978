package tuning

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// tune calls inside on a thread in the namespace at path.
func tune(path, ifName string, inside func(tuner) error) error {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer host.Close()
	return netns.Do(path, func(h *netlink.Handle) error {
		return inside(tuner{nl: h, host: host, ifName: ifName})
	})
}

// isGone says whether err means that what was to be restored is gone: the namespace, the
// interface, its host veth, or the sysctl.
func isGone(err error) bool {
	return netns.IsGone(err) || netns.IsLinkGone(err) || errors.Is(err, errNoHostVeth)
}
