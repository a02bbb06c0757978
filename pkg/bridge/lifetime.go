package bridge

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A bridge outlives its last container: its gateway address, what an administrator
// set on it, who listens on it and the neighbours that know it stay, and the last
// DEL costs no more than any other. It goes where "bridgeLifetime" is "auto", where
// GC is told that no attachment is left, and where an ADD that made it fails; but
// only if it is ours and carries nothing that is not.

// reapIndex deletes the bridge if it is idle.
func (h *Host) reapIndex(index int) error { return h.reapIfIdle(lookUpIndex(index)) }

// ReapBridge is reapIndex by name.
func (h *Host) ReapBridge(name string) error { return h.reapIfIdle(lookUp(name)) }

// reapIfIdle needs no more than one look while a port of the bridge is up: it has a
// carrier then.
func (h *Host) reapIfIdle(at step) error {
	bridge, there, err := h.rt.find(at)
	if err != nil || !there || !IsOurs(bridge.mac) || bridge.flags&unix.IFF_LOWER_UP != 0 {
		return err
	}
	return whileIdle(func() error { return h.reap(bridge) })
}

// reap is called while no ADD is about to give the bridge a port.
func (h *Host) reap(bridge link) error {
	bridge, there, err := h.rt.find(lookUpIndex(bridge.index)) // as it is now, under the lock
	if err != nil || !there || !IsOurs(bridge.mac) {
		return err
	}
	links, err := h.rt.list(0)
	if err != nil {
		return err
	}
	idle, err := h.carries(bridge, links)
	if err != nil || !idle {
		return err
	}
	if _, err := h.rt.do(deleteIndex(bridge.index, bridge.name)); err != nil {
		return err
	}
	return h.forgetGone() // VLAN interfaces went along
}

// carries looks for what is not ours: a port of any kind, a link over the bridge but
// for our VLAN interfaces, an address that is nobody's gateway.
func (h *Host) carries(bridge link, links []link) (idle bool, err error) {
	own := []int{bridge.index} // what would go
	for _, l := range links {
		if l.master == bridge.index {
			return false, nil
		}
		if l.below != bridge.index || l.elsewhere || l.index == bridge.index {
			continue
		}
		if !l.isVLANOver(bridge, l.vlan) || l.name != vlanInterface(bridge.name, l.vlan) {
			return false, nil
		}
		own = append(own, l.index)
	}
	for _, l := range links {
		// over or in one of the VLAN interfaces
		if slices.Contains(own, l.index) && l.master != 0 || !slices.Contains(own, l.index) && slices.Contains(own, l.below) && !l.elsewhere {
			return false, nil
		}
	}
	for _, index := range own {
		addresses, err := h.rt.addresses(index, unix.AF_UNSPEC)
		notGiven := func(p netip.Prefix) bool { return notLinkLocal(p) && !isGiven(index, p, "") }
		if err != nil || slices.ContainsFunc(addresses, notGiven) {
			return false, err
		}
	}
	hosts, err := h.hasUpper(bridge)
	return !hosts, err
}

// hasUpper finds what no list of this namespace shows: a macvlan or ipvlan over the
// bridge that was moved into a container's namespace. While it is up, its MAC is
// among those that the bridge itself takes frames for (dev_uc_add).
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
