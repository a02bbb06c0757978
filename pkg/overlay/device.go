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

// What both devices have in common: they are made, raised, and given addresses.

// newLink is the message that makes a device; info has room for what its type takes besides.
func newLink(name, kind string) (request *nl.NetlinkRequest, info *nl.RtAttr) {
	request = nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	info = nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	request.AddData(info)
	return request, info
}

// applyDevices makes, changes or removes the devices and their addresses, and gives the index
// of the one that is wanted; 0 where there is none.
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

// raise sets MAC, MTU and alias, and brings the device up. The kernel is told not to give it
// a link-local address: the permanent neighbours of the peers are all that is needed.
func (h *Host) raise(link netlink.Link, c Changes) error {
	name := link.Attrs().Name
	steps := []struct {
		what string
		do   func() error
	}{
		{"set the MTU of", nil},
		{"set the alias of", func() error { return h.nl.LinkSetAlias(link, alias) }},
		{"set up", func() error { return h.nl.LinkSetUp(link) }},
	}
	switch t, w := c.Want.Tunnel, c.Want.WireGuard; {
	case c.Set != nil || c.Make != nil:
		mac, err := net.ParseMAC(t.MAC)
		if err != nil {
			return fmt.Errorf("MAC of %s: %w", name, err)
		}
		if err := h.nl.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set the MAC of %s: %w", name, err)
		}
		steps[0].do = func() error { return h.nl.LinkSetMTU(link, t.MTU) }
	case c.SetWireGuard || c.MakeWireGuard:
		steps[0].do = func() error { return h.nl.LinkSetMTU(link, w.MTU) }
	default:
		return nil // it is as it shall be
	}
	if HasIPv6() {
		_ = writeSysctl("ipv6/conf/"+name+"/disable_ipv6", "0")         // where all new devices are without it
		_ = h.nl.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE) // one that it takes all the same does no harm
	}
	for _, step := range steps {
		err := step.do()
		if errors.Is(err, unix.EADDRINUSE) { // the socket is made when the device is set up
			err = h.socketTaken(c.Want, err)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", step.what, name, err)
		}
	}
	return nil
}

// socketTaken says who has the socket of the device.
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
		err := h.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s from %s: %w", p, name, err)
		}
	}
	return nil
}

// addressesOf are the device's, but for those that the kernel gives it.
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

// removeLink removes a device of ours, if it is there.
func (h *Host) removeLink(name string) error {
	link, err := h.link(name)
	if err == nil && link != nil {
		err = h.nl.LinkDel(link)
	}
	if err != nil && !netns.IsLinkGone(err) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
