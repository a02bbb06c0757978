package bridge

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A bridge outlives its last container: so its gateway address, the settings of an
// administrator, listeners and neighbour entries stay, and the last DEL costs no more than
// any other. It is deleted if "bridgeLifetime" is "auto", if GC is told that no attachment
// is left, and if the ADD that created it fails; but only if it is ours and has nothing on
// it that is not ours.

// reapIndex deletes the bridge if it is idle.
func (h *Host) reapIndex(index int) error { return h.reapIfIdle(lookUpIndex(index)) }

// ReapBridge deletes the bridge of that name if it is ours and idle.
func (h *Host) ReapBridge(name string) error { return h.reapIfIdle(lookUp(name)) }

// reapIfIdle needs only one message while a port of the bridge is up, since the bridge has a
// carrier then.
func (h *Host) reapIfIdle(at step) error {
	bridge, there, err := h.rt.find(at)
	if err != nil || !there || !IsOurs(bridge.mac) || bridge.flags&unix.IFF_LOWER_UP != 0 {
		return err
	}
	return whileIdle(func() error { return h.reap(bridge) })
}

// reap deletes the bridge if it is idle. The caller holds the exclusive lock, so that no ADD
// is about to put a port on it.
func (h *Host) reap(bridge link) error {
	bridge, there, err := h.rt.find(lookUpIndex(bridge.index)) // again, under the lock
	if err != nil || !there || !IsOurs(bridge.mac) {
		return err
	}
	links, err := h.rt.list(0)
	if err != nil {
		return err
	}
	idle, err := h.isIdle(bridge, links)
	if err != nil || !idle {
		return err
	}
	if _, err := h.rt.do(deleteIndex(bridge.index, bridge.name)); err != nil {
		return err
	}
	return h.forgetGone() // of the bridge, and of the VLAN interfaces deleted with it
}

// isIdle says whether the bridge has nothing on it that keeps it: a port of any kind, a link
// over it other than our VLAN interfaces, an address that is nobody's gateway.
func (h *Host) isIdle(bridge link, links []link) (idle bool, err error) {
	own := []int{bridge.index} // the links that would be deleted
	for _, l := range links {
		if l.master == bridge.index {
			return false, nil
		}
		if l.iflink != bridge.index || l.iflinkElsewhere || l.index == bridge.index {
			continue
		}
		if !l.isVLANOver(bridge, l.vlan) || l.name != vlanInterface(bridge.name, l.vlan) {
			return false, nil
		}
		own = append(own, l.index)
	}
	for _, l := range links {
		// a VLAN interface that is itself a port, or a link over one
		if slices.Contains(own, l.index) && l.master != 0 || !slices.Contains(own, l.index) && slices.Contains(own, l.iflink) && !l.iflinkElsewhere {
			return false, nil
		}
	}
	for _, index := range own {
		addresses, err := h.rt.addresses(index, unix.AF_UNSPEC)
		unknown := func(p netip.Prefix) bool { return notLinkLocal(p) && !isGatewayOf("", index, p) }
		if err != nil || slices.ContainsFunc(addresses, unknown) {
			return false, err
		}
	}
	upper, err := h.hasUpper(bridge)
	return !upper, err
}

// hasUpper says whether a macvlan or ipvlan is over the bridge that was moved into another
// namespace, so that no list of links here shows it. While that is up, its MAC is among
// those that the bridge itself receives (dev_uc_add).
func (h *Host) hasUpper(bridge link) (bool, error) {
	replies, err := h.rt.dump("list MACs of "+bridge.name, func() *nl.NetlinkRequest {
		req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
		req.AddData(&neighbour{family: unix.AF_BRIDGE, index: bridge.index})
		return req
	}, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	for _, reply := range replies {
		const flagSelf = 0x02 // NTF_SELF, linux/neighbour.h
		if len(reply) < 12 || reply[10]&flagSelf == 0 || strings.HasPrefix(string(macOf(reply)), "\x33\x33") {
			continue
		}
		if mac := macOf(reply); len(mac) == 6 && mac[0]&1 == 0 {
			return true, nil
		}
	}
	return false, err
}

// macOf is the MAC of an RTM_NEWNEIGH of family AF_BRIDGE.
func macOf(reply []byte) []byte {
	for a := range attributes(reply[12:]) {
		if a.kind == unix.NDA_LLADDR {
			return a.data
		}
	}
	return nil
}
