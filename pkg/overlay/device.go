package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// This file has what the VXLAN and the WireGuard device share.

// newLink is the message that adds a device; a caller adds its type's attributes to info.
func newLink(name, kind string) (request *nl.NetlinkRequest, info *nl.RtAttr) {
	request = nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	info = nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	request.AddData(info)
	return request, info
}

// applyDevices adds, changes or removes the devices and their addresses, and returns the
// index of the one that is wanted; 0 where none is.
func (h *Host) applyDevices(c Changes) (index int, err error) {
	if err := errors.Join(h.applyTunnel(c), h.applyWireGuard(c)); err != nil {
		return 0, err
	}
	name := c.Want.device()
	if name == "" {
		return 0, nil
	}
	link, err := h.link(name)
	if err != nil {
		return 0, err
	}
	if link == nil {
		return 0, fmt.Errorf("%s is gone again", name)
	}
	if err := h.raise(link, c); err != nil {
		return 0, err
	}
	return link.Attrs().Index, h.applyAddresses(c, link)
}

// raise sets MTU and alias, and the MAC of the VXLAN device, and brings the device up (works). The
// kernel is told to make no link-local address: the peers are permanent neighbours, and
// nobody asks for one.
func (h *Host) raise(link netlink.Link, c Changes) error {
	name := link.Attrs().Name
	steps := []struct {
		what string
		do   func() error
	}{
		{"set the MTU of", nil},
		{"set the alias of", func() error { return h.nl.LinkSetAlias(link, alias) }},
		{"free from its master", func() error { return h.nl.LinkSetNoMaster(link) }},
		{"set up", func() error { return h.nl.LinkSetUp(link) }},
	}
	switch t, w := c.Want.Tunnel, c.Want.WireGuard; {
	case c.Set != nil || c.Make != nil:
		mac, err := net.ParseMAC(t.MAC)
		if err != nil {
			return fmt.Errorf("MAC of %s: %w", name, err)
		}
		if link.Attrs().HardwareAddr.String() != t.MAC { // the kernel forgets the device's neighbours
			if err := h.nl.LinkSetHardwareAddr(link, mac); err != nil {
				return fmt.Errorf("set the MAC of %s: %w", name, err)
			}
		}
		steps[0].do = func() error { return h.nl.LinkSetMTU(link, t.MTU) }
	case c.SetWireGuard || c.MakeWireGuard:
		steps[0].do = func() error { return h.nl.LinkSetMTU(link, w.MTU) }
	default:
		return nil // nothing of it changes
	}
	if HasIPv6() {
		_ = writeSysctl(noIPv6On(name), "0")                            // new devices may be without IPv6 by default
		_ = h.nl.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE) // a link-local address does no harm
	}
	if c.Want.Forwarding.IPv4 && readSysctl(forwards4(name)) == "0" {
		if err := writeSysctl(forwards4(name), "1"); err != nil {
			return err
		}
	}
	for _, step := range steps {
		err := step.do()
		if errors.Is(err, unix.EADDRINUSE) { // the kernel opens the device's socket when it is set up
			err = h.socketTaken(c.Want, err)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", step.what, name, err)
		}
	}
	return nil
}

// socketTaken says who has the device's UDP port.
func (h *Host) socketTaken(want State, err error) error {
	if want.WireGuard != nil {
		return portTaken(want.WireGuard.Port)
	}
	return errors.Join(err, h.whoHas(*want.Tunnel))
}

func (h *Host) applyAddresses(c Changes, link netlink.Link) error {
	name := link.Attrs().Name
	for _, p := range c.AddAddresses {
		err := h.nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s to %s: %w", p, name, err)
		}
	}
	for _, p := range c.DelAddresses {
		if err := h.removeAddress(link, p); err != nil {
			return err
		}
	}
	return nil
}

// removeAddress removes an address from the link; it is no error if either is gone.
func (h *Host) removeAddress(link netlink.Link, p netip.Prefix) error {
	err := h.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)})
	if err == nil || errors.Is(err, unix.EADDRNOTAVAIL) || netns.IsLinkGone(err) {
		return nil
	}
	return fmt.Errorf("remove address %s from %s: %w", p, link.Attrs().Name, err)
}

// addressesOf lists the device's addresses, without link-local ones, which the kernel makes.
func (h *Host) addressesOf(link netlink.Link) (all []netip.Prefix, err error) {
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range addresses {
		if p, ok := prefixOf(a.IPNet); ok && !p.Addr().IsLinkLocalUnicast() {
			all = append(all, p)
		}
	}
	return all, nil
}

// removeLink removes a device of ours; a missing one is no error.
func (h *Host) removeLink(name string) error {
	link, err := h.link(name)
	if err != nil || link == nil {
		return err
	}
	return h.deleteLink(link)
}

// deleteLink deletes the link that was found; it is no error if it is gone.
func (h *Host) deleteLink(link netlink.Link) error {
	if err := h.nl.LinkDel(link); err != nil && !netns.IsLinkGone(err) {
		return fmt.Errorf("remove %s: %w", link.Attrs().Name, err)
	}
	return nil
}
