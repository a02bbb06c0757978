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

// gatewayLink is where the gateway addresses belong: the bridge, or a VLAN
// interface over it, made if missing. That goes with the bridge. What an ADD
// that was killed between the steps has left is completed here.
func (h *Host) gatewayLink(b Bridge, bridge *netlink.Bridge, undo *cni.Undo) (netlink.Link, error) {
	if b.VLANInterface == "" {
		return bridge, nil
	}
	link, err := h.nl.LinkByName(b.VLANInterface)
	if isLinkGone(err) {
		link, err = h.createVLANInterface(b, bridge, undo)
	}
	if err != nil {
		return nil, fmt.Errorf("VLAN interface %s: %w", b.VLANInterface, err)
	}
	if h.isReferenceGateway(link, bridge) {
		return link, nil // up, and reached by a port of its own
	}
	if !isVLANInterface(link, b.VLAN, bridge) {
		return nil, cni.ConflictErrorf("vlan: %d: the gateway's interface %s exists already and is a %s, not VLAN %d of bridge %s; rename it, or choose another bridge or VLAN",
			b.VLAN, b.VLANInterface, link.Type(), b.VLAN, b.Name)
	}
	if err := editVLANs(unix.RTM_SETLINK, bridge.Index, nl.BRIDGE_FLAGS_SELF, vlanRange{first: b.VLAN, last: b.VLAN}); err != nil {
		return nil, fmt.Errorf("let VLAN %d reach bridge %s: %w", b.VLAN, b.Name, err)
	}
	// as on the bridge: no container shall give the host a default route
	if err := setSysctl("ipv6/conf/"+b.VLANInterface+"/accept_ra", "0"); err != nil {
		return nil, err
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", b.VLANInterface, err)
	}
	return link, nil
}

func isVLANInterface(link netlink.Link, id int, bridge netlink.Link) bool {
	vlan, ok := link.(*netlink.Vlan)
	return ok && vlan.VlanId == id && vlan.Attrs().ParentIndex == bridge.Attrs().Index
}

// isReferenceGateway says whether the link is what the reference plugin makes: an
// end of a veth pair whose other end is a port of the bridge.
func (h *Host) isReferenceGateway(link, bridge netlink.Link) bool {
	if link.Type() != "veth" {
		return false
	}
	peer, err := h.nl.LinkByIndex(link.Attrs().ParentIndex) // IFLA_LINK
	return err == nil && peer.Attrs().MasterIndex == bridge.Attrs().Index
}

// createVLANInterface makes the interface, down. Undone, it goes again, unless
// another ADD has put an address on it by then.
func (h *Host) createVLANInterface(b Bridge, bridge netlink.Link, undo *cni.Undo) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = b.VLANInterface, bridge.Attrs().Index
	undo.Push("delete VLAN interface "+b.VLANInterface, func() error { return h.dropVLANInterface(b) })
	err := h.nl.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: b.VLAN})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, cni.UnsupportedErrorf("vlan: %d: a gateway in a VLAN needs the kernel's VLAN interfaces (CONFIG_VLAN_8021Q, module 8021q), which are missing: %w", b.VLAN, err)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("create: %w", err)
	}
	return h.nl.LinkByName(b.VLANInterface)
}

func (h *Host) dropVLANInterface(b Bridge) error {
	return h.whileIdle(func() error {
		link, err := h.nl.LinkByName(b.VLANInterface)
		if isLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s: %w", b.VLANInterface, err)
		}
		for _, ipv4 := range []bool{true, false} {
			addresses, err := addressesOf(link.Attrs().Index, ipv4)
			if err != nil || slices.ContainsFunc(addresses, notLinkLocal) {
				return err
			}
		}
		err = editVLANs(unix.RTM_DELLINK, link.Attrs().ParentIndex, nl.BRIDGE_FLAGS_SELF, vlanRange{first: b.VLAN, last: b.VLAN})
		if err != nil {
			return fmt.Errorf("keep VLAN %d from bridge %s: %w", b.VLAN, b.Name, err)
		}
		return h.deleteLink(b.VLANInterface)
	})
}

func notLinkLocal(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() }

// observeGatewayVLAN finds the planned VLAN interface, and the VLAN if that
// reaches it.
func (h *Host) observeGatewayVLAN(plan Bridge, bridge netlink.Link) (name string, id int, err error) {
	if plan.VLANInterface == "" {
		return "", 0, nil
	}
	link, err := h.nl.LinkByName(plan.VLANInterface)
	if isLinkGone(err) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("look up %s: %w", plan.VLANInterface, err)
	}
	if h.isReferenceGateway(link, bridge) {
		return plan.VLANInterface, plan.VLAN, nil // reached by a port of its own
	}
	if !isVLANInterface(link, plan.VLAN, bridge) {
		return "", 0, nil
	}
	list, err := vlansOf(bridge.Attrs().Index)
	if slices.ContainsFunc(list, func(r vlanRange) bool { return r.has(plan.VLAN) }) {
		id = plan.VLAN
	}
	return plan.VLANInterface, id, err
}
