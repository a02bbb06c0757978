package bridge

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// defaultVLAN is the one that a new port belongs to (IFLA_BR_VLAN_DEFAULT_PVID).
const defaultVLAN = 1

// setVLAN gives the port its part in a bridge with VLAN filtering.
func (h *Host) setVLAN(p Port) error {
	if !p.VLAN.Filters() {
		return nil
	}
	link, err := h.nl.LinkByName(p.Name)
	if err != nil {
		return fmt.Errorf("look up %s: %w", p.Name, err)
	}
	if !p.VLAN.KeepDefault {
		if err := h.nl.BridgeVlanDel(link, defaultVLAN, true, true, false, true); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("take %s out of VLAN %d: %w", p.Name, defaultVLAN, err)
		}
	}
	for _, r := range ranges(p.VLAN.Trunk) {
		if err := h.nl.BridgeVlanAddRange(link, r.first, r.last, false, false, false, true); err != nil {
			return fmt.Errorf("let VLAN %d to %d pass on %s: %w", r.first, r.last, p.Name, err)
		}
	}
	if p.VLAN.Access == 0 {
		return nil
	}
	if err := h.nl.BridgeVlanAdd(link, uint16(p.VLAN.Access), true, true, false, true); err != nil {
		return fmt.Errorf("put %s into VLAN %d: %w", p.Name, p.VLAN.Access, err)
	}
	return nil
}

type vlanRange struct{ first, last uint16 }

// ranges joins ascending ids to runs: a trunk of all VLANs is one message.
func ranges(ids []int) []vlanRange {
	var runs []vlanRange
	for _, id := range ids {
		if n := len(runs); n > 0 && int(runs[n-1].last)+1 == id {
			runs[n-1].last++
			continue
		}
		runs = append(runs, vlanRange{uint16(id), uint16(id)})
	}
	return runs
}

// gatewayLink is where the gateway addresses belong: the bridge, or a VLAN
// interface over it, made if missing. That goes with the bridge.
func (h *Host) gatewayLink(b Bridge, bridge netlink.Link) (netlink.Link, error) {
	if b.VLANInterface == "" || len(b.Gateways) == 0 {
		return bridge, nil
	}
	if err := h.nl.BridgeVlanAdd(bridge, uint16(b.VLAN), false, false, true, false); err != nil {
		return nil, fmt.Errorf("let VLAN %d reach bridge %s: %w", b.VLAN, b.Name, err)
	}
	link, err := h.nl.LinkByName(b.VLANInterface)
	if isLinkGone(err) {
		link, err = h.createVLANInterface(b, bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("VLAN interface %s: %w", b.VLANInterface, err)
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", b.VLANInterface, err)
	}
	return link, nil
}

func (h *Host) createVLANInterface(b Bridge, bridge netlink.Link) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = b.VLANInterface, bridge.Attrs().Index
	err := h.nl.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: b.VLAN})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return h.nl.LinkByName(b.VLANInterface)
}

// observeVLAN reads the port's VLANs where the plan has any. The kernel's answer
// covers every port of the host.
func (h *Host) observeVLAN(linkIndex int, plan VLAN) (VLAN, error) {
	if !plan.Filters() {
		return VLAN{}, nil
	}
	all, err := h.nl.BridgeVlanList()
	if err != nil {
		return VLAN{}, fmt.Errorf("list VLANs of bridge ports: %w", err)
	}
	var found VLAN
	for _, v := range all[int32(linkIndex)] {
		switch {
		case v.Vid == defaultVLAN && plan.Access != defaultVLAN && !slices.Contains(plan.Trunk, defaultVLAN):
			found.KeepDefault = true
		case v.Flags&nl.BRIDGE_VLAN_INFO_PVID != 0:
			found.Access = int(v.Vid)
		default:
			found.Trunk = append(found.Trunk, int(v.Vid))
		}
	}
	slices.Sort(found.Trunk)
	return found, nil
}

// includes says whether all that is wanted is there; a VLAN more does not harm,
// but for the default one that was to go.
func (v VLAN) includes(want VLAN) bool {
	for _, id := range want.Trunk {
		if !slices.Contains(v.Trunk, id) {
			return false
		}
	}
	return v.Access == want.Access && v.KeepDefault == want.KeepDefault
}

func (v VLAN) String() string {
	return fmt.Sprintf("access %d, trunk %v, VLAN %d kept: %t", v.Access, v.Trunk, defaultVLAN, v.KeepDefault)
}
