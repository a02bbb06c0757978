package bridge

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// createVeth makes the pair in place by one RTM_NEWLINK: both names, both
// namespaces, the bridge as master, the host end up. Nothing is moved between
// namespaces or renamed afterwards, either of which costs the kernel more than
// all the rest (rcu_barrier under rtnl), and a kill leaves the whole or nothing.
// The container's end is down: the kernel takes no IFF_UP for a peer to be.
func createVeth(p Port, c Interface, bridgeIndex, sandboxFD int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	if p.LinkLocal {
		msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	}
	req.AddData(msg)
	for _, a := range endAttributes(p.Name, p.MTU, p.MAC) {
		req.AddData(a)
	}
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridgeIndex))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	for _, a := range endAttributes(c.Name, c.MTU, c.MAC) {
		peer.AddChild(a)
	}
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(sandboxFD)))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// endAttributes describe one end. One queue each way is what veth uses anyway;
// more would cost two grace periods (veth_init_queues, drivers/net/veth.c).
func endAttributes(name string, mtu int, mac []byte) []*nl.RtAttr {
	return []*nl.RtAttr{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))),
		nl.NewRtAttr(unix.IFLA_ADDRESS, mac),
		nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1)),
		nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1)),
	}
}

// explainVeth turns the kernel's refusal into what it means.
func (h *Host) explainVeth(err error, p Port, c Interface, bridge string) error {
	switch {
	case errors.Is(err, unix.EXFULL):
		return cni.ConflictErrorf("bridge %s is full: the kernel gives a bridge 1023 ports; put further containers on a network with another bridge (%w)", bridge, err)
	case errors.Is(err, unix.EEXIST):
		if _, lookErr := h.nl.LinkByName(p.Name); lookErr == nil {
			return cni.ConflictErrorf("%s, the host end of this very attachment, exists already and its other end is in another namespace; DEL the attachment first", p.Name)
		}
		return cni.ConflictErrorf("CNI_IFNAME: %s exists already in the container; choose another name, or DEL the attachment that has it first", c.Name)
	default:
		return fmt.Errorf("create %s on %s with %s in the container: %w", p.Name, bridge, c.Name, err)
	}
}

// dress gives the host end, found by its name, what cannot be set at its birth:
// the alias that names its owner, and the flags of a bridge port.
func dress(p Port) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.Name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(p.Alias)))
	if p.Hairpin || p.Isolated {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
		flags := info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
		flags.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(p.Hairpin))
		flags.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, flag(p.Isolated))
		req.AddData(info)
	}
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("set alias and port flags of %s: %w", p.Name, err)
	}
	return nil
}

func flag(on bool) []byte {
	if on {
		return []byte{1}
	}
	return []byte{0}
}

// raiseQuietly brings the host end up with no link-local address of its own.
func (h *Host) raiseQuietly(p Port) error {
	if p.LinkLocal {
		return nil // up since its birth
	}
	link, err := h.nl.LinkByName(p.Name)
	if err != nil {
		return fmt.Errorf("look up %s: %w", p.Name, err)
	}
	if err := h.nl.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
		return fmt.Errorf("switch link-local addresses of %s off: %w", p.Name, err)
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", p.Name, err)
	}
	return nil
}

// awaitForwarding waits until the port passes frames. Since Linux 6.8 the first
// look finds it so, as asking makes the kernel catch up (linkwatch_sync_dev).
func (h *Host) awaitForwarding(p Port) error {
	return await(p.Name+" is operational", unix.RTNLGRP_LINK, forwardingLimit, func() (bool, error) {
		link, err := h.nl.LinkByName(p.Name)
		if err != nil {
			return false, fmt.Errorf("look up %s: %w", p.Name, err)
		}
		return link.Attrs().OperState == netlink.OperUp, nil
	})
}
