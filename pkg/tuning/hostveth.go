package tuning

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// errNoHostVeth says that the interface has no end on the host, as most kinds of interfaces
// do not. It is no failure.
var errNoHostVeth = errors.New("the interface is no veth, or its other end is not on the host")

// hostVeth is the host's end of the interface. A link index is unique only in its namespace,
// so the link with the peer's index must in turn name the interface and its namespace as its
// peer.
func (t tuner) hostVeth() (netlink.Link, error) {
	inside, err := t.link()
	if err != nil {
		return nil, err
	}
	if inside.Type() != "veth" || inside.Attrs().NetNsID < 0 { // -1: the peer is in the same namespace
		return nil, errNoHostVeth
	}
	outside, err := t.host.LinkByIndex(inside.Attrs().ParentIndex)
	if netns.IsLinkGone(err) {
		return nil, errNoHostVeth
	}
	if err != nil {
		return nil, fmt.Errorf("look up the host veth of %s: %w", t.ifName, err)
	}
	ours, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the namespace of %s: %w", t.ifName, err)
	}
	defer func() { _ = ours.Close() }() // opened for reading only
	id, err := t.host.GetNetNsIdByFd(int(ours.Fd()))
	if err != nil {
		return nil, fmt.Errorf("ask for the namespace of %s: %w", t.ifName, err)
	}
	a := outside.Attrs()
	if outside.Type() != "veth" || a.ParentIndex != inside.Attrs().Index || a.NetNsID != id {
		return nil, errNoHostVeth
	}
	return outside, nil
}
