package bridge

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// DetachReference deletes the container's interface if the reference plugins, or another
// suite, attached it to the bridge: one end of a veth pair whose other end is a port of
// the bridge without an owner of ours. It is for the DEL of a container that is older
// than Trestle on this host. A namespace that is gone, or is none, is no error: its links
// went with it.
func (h *Host) DetachReference(bridge, ifName, netns string) error {
	if netns == "" {
		return nil
	}
	sandbox, err := OpenSandbox(netns)
	if err != nil {
		return nil // nothing can be in it
	}
	defer func() { _ = sandbox.Close() }() // only looked at
	inside, err := sandbox.veth(ifName)
	if err != nil || inside == nil {
		return err
	}
	return h.deleteReference(bridge, inside, sandbox)
}

// veth is the container's link of that name if it is an end of a veth pair.
func (s *Sandbox) veth(name string) (inside netlink.Link, err error) {
	err = s.do(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if isLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", name, s.path, err)
		}
		if link.Type() == "veth" {
			inside = link
		}
		return nil
	})
	return inside, err
}

// deleteReference deletes the other end, if that is in this namespace. Each namespace has
// indices of its own, so the link found by index must name the container's interface and
// namespace as its other end.
func (h *Host) deleteReference(bridge string, inside netlink.Link, sandbox *Sandbox) error {
	port, err := h.rt.link(lookUpIndex(inside.Attrs().ParentIndex))
	if isLinkGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	sandboxID, err := h.nl.GetNetNsIdByFd(sandbox.fd)
	if err != nil {
		return fmt.Errorf("ask for the id of %s: %w", sandbox.path, err)
	}
	if port.kind != "veth" || !port.elsewhere || sandboxID < 0 || port.below != inside.Attrs().Index || port.belowNS != sandboxID {
		return nil
	}
	master, err := h.rt.link(lookUp(bridge))
	if isLinkGone(err) || err == nil && master.index != port.master {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ours := ownerLabel(port.alias); ours {
		return nil
	}
	_, err = h.rt.do(deleteIndex(port.index, port.name))
	return err
}
