package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// ensureGatewayLink creates the VLAN interface over the bridge that the gateway addresses
// are on, if the plan has one. The kernel deletes it with the bridge. If an ADD was killed
// between these steps, the next one completes them here.
func (h *Host) ensureGatewayLink(b Bridge, at *site, undo *cni.Undo) error {
	if b.VLANInterface == "" {
		return nil
	}
	if at.gateway.index == 0 {
		if err := h.createVLANInterface(b, at.bridge, undo); err != nil {
			return fmt.Errorf("VLAN interface %s: %w", b.VLANInterface, err)
		}
		var err error
		if *at, err = h.look(b); err != nil {
			return err
		}
	}
	if h.isReferenceGateway(at.gateway, at.bridge) {
		return nil // it is up, and a port of its own leads to it
	}
	if !at.gateway.isVLANOver(at.bridge, b.VLAN) {
		return cni.ConflictErrorf("vlan: %d: the gateway's interface %s exists already and is a %s, not VLAN %d of bridge %s; rename it, or choose another bridge or VLAN",
			b.VLAN, b.VLANInterface, at.gateway.kind, b.VLAN, b.Name)
	}
	if err := editVLANs(unix.RTM_SETLINK, at.bridge.index, nl.BRIDGE_FLAGS_SELF, vlanRange{first: b.VLAN, last: b.VLAN}); err != nil {
		return fmt.Errorf("add VLAN %d to bridge %s: %w", b.VLAN, b.Name, err)
	}
	quietIPv6(at.gateway, true)
	_, err := h.rt.do(linkUp(at.gateway.index, b.VLANInterface))
	return err
}

func (l link) isVLANOver(bridge link, id int) bool {
	return l.kind == "vlan" && l.vlan == id && l.iflink == bridge.index && !l.iflinkElsewhere
}

// isReferenceGateway says whether the link is the gateway's as the reference plugin makes it:
// one end of a veth pair whose other end is a port of the bridge.
func (h *Host) isReferenceGateway(l, bridge link) bool {
	if l.kind != "veth" || l.iflinkElsewhere {
		return false
	}
	peer, err := h.rt.link(lookUpIndex(l.iflink))
	return err == nil && peer.master == bridge.index
}

// createVLANInterface creates the interface, down. The inverse deletes it, unless another ADD
// has given it an address by then.
func (h *Host) createVLANInterface(b Bridge, bridge link, undo *cni.Undo) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = b.VLANInterface, bridge.index
	undo.Push("delete VLAN interface "+b.VLANInterface, func() error { return h.dropVLANInterface(b) })
	err := h.nl.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: b.VLAN})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return cni.UnsupportedErrorf("vlan: %d: a gateway in a VLAN needs the kernel's VLAN interfaces (CONFIG_VLAN_8021Q, module 8021q), which are missing; load the module, or set isGateway and isDefaultGateway to false: %w", b.VLAN, err)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create: %w", err)
	}
	return nil
}

func (h *Host) dropVLANInterface(b Bridge) error {
	return whileIdle(func() error {
		l, there, err := h.rt.find(lookUp(b.VLANInterface))
		if err != nil || !there {
			return err
		}
		addresses, err := h.rt.addresses(l.index, unix.AF_UNSPEC)
		if err != nil || slices.ContainsFunc(addresses, notLinkLocal) {
			return err
		}
		err = editVLANs(unix.RTM_DELLINK, l.iflink, nl.BRIDGE_FLAGS_SELF, vlanRange{first: b.VLAN, last: b.VLAN})
		if err != nil {
			return fmt.Errorf("remove VLAN %d from bridge %s: %w", b.VLAN, b.Name, err)
		}
		_, err = h.rt.do(deleteIndex(l.index, b.VLANInterface))
		return err
	})
}

func notLinkLocal(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() }

// observeGatewayVLAN is the planned VLAN interface if it exists, and its VLAN if the bridge
// passes that on to it.
func (h *Host) observeGatewayVLAN(plan Bridge, at site) (name string, id int, err error) {
	if plan.VLANInterface == "" || at.gateway.index == 0 {
		return "", 0, nil
	}
	if h.isReferenceGateway(at.gateway, at.bridge) {
		return plan.VLANInterface, plan.VLAN, nil // a port of its own leads to it
	}
	if !at.gateway.isVLANOver(at.bridge, plan.VLAN) {
		return "", 0, nil
	}
	list, err := vlansOf(at.bridge.index)
	if slices.ContainsFunc(list, func(r vlanRange) bool { return r.has(plan.VLAN) }) {
		id = plan.VLAN
	}
	return plan.VLANInterface, id, err
}
