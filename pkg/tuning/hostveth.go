package tuning

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// errNoHostVeth is no failure: most kinds of interfaces have no end on the host.
var errNoHostVeth = errors.New("the interface is no veth, or its other end is not on the host")

// hostVeth is the other end of the interface. A link of the host that has the
// right number is believed only if its own other end is in our namespace: other
// containers have interfaces and peers of the same numbers.
func (t tuner) hostVeth() (netlink.Link, error) {
	inside, err := t.link()
	if err != nil {
		return nil, err
	}
	if inside.Type() != "veth" || inside.Attrs().NetNsID < 0 { // -1: the other end is in the same namespace
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
	defer func() { _ = ours.Close() }() // only asked about
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
