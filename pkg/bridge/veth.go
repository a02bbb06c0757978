package bridge

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/netns"
	"github.com/trestle-cni/trestle/pkg/record"
)

// createVeth creates the pair in place by one RTM_NEWLINK, with both names, both namespaces
// and the bridge as master. Moving a link to another namespace or renaming it afterwards
// would cost the kernel more than all the rest (rcu_barrier under rtnl), and a kill could
// come between. Both ends are down: the kernel does not accept IFF_UP for the peer, and the
// host veth must not get a link-local address.
func createVeth(p Port, c Interface, bridgeIndex, netnsFD int) step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
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
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(netnsFD)))
	req.AddData(info)
	return step{what: fmt.Sprintf("create %s on %s with %s in the container", p.Name, p.Bridge, c.Name), req: req}
}

// endAttributes are the attributes of one end. veth uses one queue each way; if more are
// allocated, the kernel waits for two grace periods to free the others (veth_init_queues,
// drivers/net/veth.c).
func endAttributes(name string, mtu int, mac []byte) []*nl.RtAttr {
	return []*nl.RtAttr{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))),
		nl.NewRtAttr(unix.IFLA_ADDRESS, mac),
		nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1)),
		nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1)),
	}
}

// explainVeth says what the kernel's error means.
func (h *Host) explainVeth(err error, s *State, container *netns.Handle) error {
	switch {
	case errors.Is(err, unix.EXFULL):
		return cni.ConflictErrorf("bridge %s is full: the kernel gives a bridge 1023 ports; put further containers on a network with another bridge (%w)", s.Port.Bridge, err)
	case errors.Is(err, unix.EEXIST):
		return h.explainTaken(s, container)
	default:
		return err
	}
}

// explainTaken says which of the two names is taken.
func (h *Host) explainTaken(s *State, container *netns.Handle) error {
	inside, err := hasLink(container, s.Container.Name)
	if err != nil {
		return err
	}
	former, err := h.rt.link(lookUp(s.Port.Name))
	if !inside {
		return formerLinkError{leadsTo(s.Port.Name, "another network namespace"), s.Port.Name, former}
	}
	if err == nil {
		return cni.ConflictErrorf("this attachment exists already: %s is its host veth; DEL it first", s.Port.Name)
	}
	return cni.ConflictErrorf("CNI_IFNAME: %s exists already in the container; choose another name, or DEL the attachment that has it first", s.Container.Name)
}

func hasLink(container *netns.Handle, name string) (there bool, err error) {
	err = container.Do(func(h *netlink.Handle) error {
		_, err := h.LinkByName(name)
		there = err == nil
		if netns.IsLinkGone(err) {
			return nil
		}
		return err
	})
	return there, err
}

// formerLinkError says that the attachment's host veth leads to a former namespace of the
// container, which may be about to end.
type formerLinkError struct {
	error
	hostVeth string
	link     link // the host veth; zero if it is gone by now
}

// leadsTo is the error of an attachment whose host veth leads elsewhere.
func leadsTo(hostVeth, where string) error {
	return cni.ConflictErrorf("this attachment exists already: its host veth %s leads to %s; DEL it first", hostVeth, where)
}

func (e formerLinkError) Unwrap() error { return e.error }

// livesAt is a path to the former namespace if there is one, so that it is not about to end;
// else "".
func (e formerLinkError) livesAt() string {
	switch {
	case e.link.index == 0 || e.link.iflinkElsewhere && e.link.iflinkNSID < 0:
		return ""
	case !e.link.iflinkElsewhere:
		return "that of the host"
	}
	return record.PathTo(e.link.iflinkNSID)
}

// formerLimit bounds awaitFormer, which takes some ten milliseconds on an idle host, and
// longer where many namespaces end at once.
const formerLimit = 5 * time.Second

// awaitFormer waits until the kernel has deleted the host veth of a namespace that has ended,
// which it does some time after "ip netns del" has returned.
func (h *Host) awaitFormer(p Port) error {
	return await(p.Name+" of the former namespace is gone", unix.RTNLGRP_LINK, formerLimit, func() (bool, error) {
		_, there, err := h.rt.find(lookUp(p.Name))
		return err == nil && !there, err
	})
}

// portFlags sets what createVeth cannot: the host veth's alias, which names its owner, and
// its flags as a bridge port.
func portFlags(p Port) step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
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
	return step{what: "set alias and port flags of " + p.Name, req: req}
}

func flag(on bool) []byte {
	if on {
		return []byte{1}
	}
	return []byte{0}
}

// awaitForwarding waits until the port forwards frames. Since Linux 6.8 it does not wait,
// because a look-up makes the kernel update the operational state (linkwatch_sync_dev).
func (h *Host) awaitForwarding(p Port) error {
	return await(p.Name+" is operational", unix.RTNLGRP_LINK, forwardingLimit, func() (bool, error) {
		l, err := h.rt.link(lookUp(p.Name))
		return l.operational, err
	})
}
