package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// applyTunnel makes, changes or removes the device and its addresses.
func (h *Host) applyTunnel(c Changes) error {
	if c.Remove != nil {
		if err := h.removeTunnel(); err != nil {
			return err
		}
	}
	if c.Make != nil {
		if err := h.makeTunnel(*c.Make); err != nil {
			return err
		}
	}
	if c.Want.Tunnel == nil {
		return nil
	}
	link, err := h.link(TunnelName)
	if err != nil {
		return err
	}
	if link == nil {
		return fmt.Errorf("%s is gone again", TunnelName)
	}
	if c.Set != nil || c.Make != nil {
		if err := h.raise(link, *c.Want.Tunnel); err != nil {
			return err
		}
	}
	return h.applyAddresses(c, link)
}

func (h *Host) removeTunnel() error {
	link, err := h.link(TunnelName)
	if err == nil && link != nil {
		err = h.nl.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", TunnelName, err)
	}
	return nil
}

func (h *Host) applyAddresses(c Changes, link netlink.Link) error {
	for _, p := range c.AddAddresses {
		err := h.nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s to %s: %w", p, TunnelName, err)
		}
	}
	for _, p := range c.DelAddresses {
		err := h.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s from %s: %w", p, TunnelName, err)
		}
	}
	return nil
}

// raise sets what can be changed, and brings the device up. It takes no address of its
// own accord: the peers' neighbours are all that is needed.
func (h *Host) raise(link netlink.Link, t Tunnel) error {
	mac, err := net.ParseMAC(t.MAC)
	if err != nil {
		return fmt.Errorf("MAC of %s: %w", TunnelName, err)
	}
	if HasIPv6() {
		_ = writeSysctl("ipv6/conf/"+TunnelName+"/disable_ipv6", "0")   // where all new devices are without it
		_ = h.nl.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE) // one that it takes all the same does no harm
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"set the MAC of", func() error { return h.nl.LinkSetHardwareAddr(link, mac) }},
		{"set the MTU of", func() error { return h.nl.LinkSetMTU(link, t.MTU) }},
		{"set the alias of", func() error { return h.nl.LinkSetAlias(link, alias) }},
		{"set up", func() error { return h.nl.LinkSetUp(link) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s %s: %w", step.what, TunnelName, err)
		}
	}
	return nil
}

// makeTunnel makes the device in one message; the library cannot ask for no
// checksums. nolearning: what the peers are is told, and never learnt from packets.
func (h *Host) makeTunnel(t Tunnel) error {
	mac, err := net.ParseMAC(t.MAC)
	if err != nil {
		return fmt.Errorf("MAC of %s: %w", TunnelName, err)
	}
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(TunnelName)))
	request.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	request.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(t.MTU))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	t.attributes(info.AddRtAttr(nl.IFLA_INFO_DATA, nil))
	request.AddData(info)
	_, err = request.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EADDRINUSE) {
		err = errors.Join(err, h.whoHas(t))
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("make %s: the kernel has no vxlan (modprobe vxlan): %w", TunnelName, err)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", TunnelName, err)
	}
	return nil
}

func (t Tunnel) attributes(data *nl.RtAttr) {
	bit := func(on bool) []byte {
		if on {
			return []byte{1}
		}
		return []byte{0}
	}
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(uint32(t.VNI)))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, uint16(t.Port)))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, bit(false))
	if t.Local.Is4() {
		data.AddRtAttr(nl.IFLA_VXLAN_LOCAL, t.Local.AsSlice())
		data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, bit(!t.NoTxChecksum))
		return
	}
	data.AddRtAttr(nl.IFLA_VXLAN_LOCAL6, t.Local.AsSlice())
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, bit(t.NoTxChecksum))
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, bit(true)) // a peer may be without
}

// whoHas names what is in the way of a tunnel: another device of the same VNI and port.
func (h *Host) whoHas(t Tunnel) error {
	links, err := whole(h.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		vx, ok := link.(*netlink.Vxlan)
		if ok && vx.Name != TunnelName && vx.Port == t.Port && (vx.VxlanId == t.VNI || vx.FlowBased) {
			return fmt.Errorf("%s has VNI %d on port %d; set another vni or port (trestle cluster config set)", vx.Name, vx.VxlanId, vx.Port)
		}
	}
	return nil
}
