package bridge

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// DetachReference deletes the container's interface if the reference plugins, or another
// suite, attached it to the bridge: one end of a veth pair whose other end is a port of the
// bridge without our alias. It is for the DEL of a container that was attached before
// Trestle was installed. If path is empty or no namespace, it does nothing: the links of a
// namespace that is gone are gone, too.
func (h *Host) DetachReference(bridge, ifName, path string) error {
	if path == "" {
		return nil
	}
	container, err := netns.Open(path)
	if err != nil {
		return nil // no namespace, so no links
	}
	defer func() { _ = container.Close() }() // opened for reading only
	inside, err := vethIn(container, ifName)
	if err != nil || inside == nil {
		return err
	}
	return h.deleteReference(bridge, inside, container)
}

// vethIn is the container's link of that name if it is an end of a veth pair.
func vethIn(container *netns.Handle, name string) (inside netlink.Link, err error) {
	err = container.Do(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if netns.IsLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", name, container, err)
		}
		if link.Type() == "veth" {
			inside = link
		}
		return nil
	})
	return inside, err
}

// deleteReference deletes the peer of inside, if that is a port of the bridge. A link index
// is unique only in its namespace, so the link with the peer's index must in turn name
// inside and its namespace as its peer.
func (h *Host) deleteReference(bridge string, inside netlink.Link, container *netns.Handle) error {
	port, there, err := h.rt.find(lookUpIndex(inside.Attrs().ParentIndex))
	if err != nil || !there {
		return err
	}
	containerID, err := h.nl.GetNetNsIdByFd(container.FD())
	if err != nil {
		return fmt.Errorf("ask for the id of %s: %w", container, err)
	}
	if port.kind != "veth" || !port.iflinkElsewhere || containerID < 0 || port.iflink != inside.Attrs().Index || port.iflinkNSID != containerID {
		return nil
	}
	master, there, err := h.rt.find(lookUp(bridge))
	if err != nil || !there || master.index != port.master {
		return err
	}
	if _, ours := Label(port.alias); ours {
		return nil
	}
	_, err = h.rt.do(deleteIndex(port.index, port.name))
	return err
}
