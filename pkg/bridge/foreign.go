package bridge

import (
	"fmt"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// DetachForeign deletes the container's interface if the reference plugins (or
// any other suite) attached it to the bridge: it is one end of a veth pair whose
// other end is a port of the bridge and has no owner of ours. It is for the DEL
// of a container that was there before Trestle was. A namespace that is gone or
// was never one is no error: its links went with it.
func (h *Host) DetachForeign(bridge, ifName, netns string) error {
	if netns == "" || ns.IsNSorErr(netns) != nil {
		return nil
	}
	sandbox, err := OpenSandbox(netns)
	if err != nil {
		return nil // gone in this moment
	}
	defer func() { _ = sandbox.Close() }() // only looked at
	peer := 0
	err = sandbox.do(func(in *netlink.Handle) error {
		link, err := in.LinkByName(ifName)
		if isLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", ifName, netns, err)
		}
		if link.Type() == "veth" {
			peer = link.Attrs().ParentIndex
		}
		return nil
	})
	if err != nil || peer == 0 {
		return err
	}
	return h.deleteForeign(bridge, peer)
}

func (h *Host) deleteForeign(bridge string, hostEnd int) error {
	port, err := h.nl.LinkByIndex(hostEnd)
	if isLinkGone(err) {
		return nil // the other end is in another namespace
	}
	if err != nil {
		return fmt.Errorf("look up link %d: %w", hostEnd, err)
	}
	master, err := h.nl.LinkByName(bridge)
	if isLinkGone(err) || err == nil && master.Attrs().Index != port.Attrs().MasterIndex {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up %s: %w", bridge, err)
	}
	if _, ours := ownerLabel(port.Attrs().Alias); ours {
		return nil
	}
	return h.deleteLink(port.Attrs().Name)
}
