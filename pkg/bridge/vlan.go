package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// nativeVLAN is the VLAN of a trunk's untagged frames, unless the configuration names
// another.
const nativeVLAN = 1

// planVLAN is the port's VLANs. As with the reference plugin, untagged frames are in VLAN 1
// if there is only a trunk; other than there, the access VLAN stays untagged if the trunk
// names it, too.
func planVLAN(c Config) VLAN {
	v := VLAN{Access: c.VLAN, KeepDefault: c.KeepDefaultVLAN}
	if v.Access == 0 && len(c.Trunk) > 0 {
		v.Access = nativeVLAN
	}
	v.Trunk = slices.DeleteFunc(slices.Clone(c.Trunk), func(id int) bool { return id == v.Access })
	return v
}

// startFiltering enables VLAN filtering on an existing bridge of ours. Its current ports
// stay in the default VLAN. The inverse disables it, unless a port needs it by then.
func (h *Host) startFiltering(bridge string, undo *cni.Undo) error {
	undo.Push("switch VLAN filtering of bridge "+bridge+" off", func() error {
		return whileIdle(func() error { return h.stopFiltering(bridge) })
	})
	if err := h.setFiltering(bridge, true); err != nil {
		return fmt.Errorf("switch VLAN filtering of bridge %s on: %w", bridge, err)
	}
	return nil
}

// setFiltering sends the bridge's name and nothing else of it. If it passed the bridge as
// the library has found it, the message would also set MAC and MTU, which then no longer
// follow the ports; and name and index together mean a renaming, which kernels before 6.2
// refuse while the link is up (dev_change_name, net/core/dev.c).
func (h *Host) setFiltering(bridge string, on bool) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	return h.nl.BridgeSetVlanFiltering(&netlink.Bridge{LinkAttrs: attrs}, on)
}

// stopFiltering disables VLAN filtering, unless the bridge or a port is in a VLAN other than
// the default one.
func (h *Host) stopFiltering(name string) error {
	bridge, err := h.findBridge(name)
	if netns.IsLinkGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ports, err := h.rt.list(bridge.index)
	if err != nil {
		return err
	}
	for _, l := range append(ports, bridge) {
		list, err := vlansOf(l.index)
		special := func(r vlanRange) bool { return r.last != bridge.defaultVLAN }
		if err != nil || slices.ContainsFunc(list, special) {
			return err
		}
	}
	if err := h.setFiltering(name, false); err != nil && !netns.IsLinkGone(err) {
		return fmt.Errorf("switch VLAN filtering of bridge %s off: %w", name, err)
	}
	return nil
}

// explainFiltering says what the kernel's error for a bridge means, if it lacks VLAN
// filtering.
func explainFiltering(err error, v VLAN) error {
	if v.filters() && errors.Is(err, unix.EOPNOTSUPP) {
		return cni.UnsupportedErrorf("vlan, vlanTrunk: %s: this kernel has no VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING); take the keys out of the network, or run another kernel: %w", v, err)
	}
	return err
}

// setVLAN puts the port into its VLANs, by two messages however many VLANs there are.
// byDefault is the VLAN of a new port of the bridge, 0 for none.
func (h *Host) setVLAN(p Port, byDefault int) error {
	if !p.VLAN.filters() {
		return nil
	}
	port, err := h.rt.link(lookUp(p.Name))
	if err != nil {
		return err
	}
	if byDefault != 0 && !p.VLAN.KeepDefault {
		if err := editVLANs(unix.RTM_DELLINK, port.index, nl.BRIDGE_FLAGS_MASTER, vlanRange{byDefault, byDefault, 0}); err != nil {
			return fmt.Errorf("take %s out of VLAN %d: %w", p.Name, byDefault, err)
		}
	}
	wanted := append(ranges(p.VLAN.Trunk), vlanRange{p.VLAN.Access, p.VLAN.Access, accessFlags})
	if err := editVLANs(unix.RTM_SETLINK, port.index, nl.BRIDGE_FLAGS_MASTER, wanted...); err != nil {
		return fmt.Errorf("give %s its VLANs (%s): %w", p.Name, p.VLAN, err)
	}
	return nil
}

// observeVLAN reads the port's VLANs, if the plan has any.
func observeVLAN(linkIndex, byDefault int, plan VLAN) (VLAN, error) {
	if !plan.filters() {
		return VLAN{}, nil
	}
	list, err := vlansOf(linkIndex)
	if err != nil {
		return VLAN{}, err
	}
	return readVLAN(list, byDefault, plan), nil
}

// readVLAN makes a VLAN of a port's list. If the default VLAN is one of the planned ones, or
// there is none, the list does not tell whether it was kept, and KeepDefault is as planned.
func readVLAN(list []vlanRange, byDefault int, plan VLAN) VLAN {
	var found VLAN
	asked := byDefault != 0 && byDefault != plan.Access && !slices.Contains(plan.Trunk, byDefault)
	found.KeepDefault = !asked && plan.KeepDefault
	for _, r := range list {
		for id := r.first; id <= r.last; id++ {
			switch {
			case asked && id == byDefault:
				found.KeepDefault = true
			case r.flags&accessFlags == accessFlags:
				found.Access = id
			case r.flags&accessFlags == 0:
				found.Trunk = append(found.Trunk, id)
			}
		}
	}
	slices.Sort(found.Trunk)
	return found
}

// includes says whether the port is in all wanted VLANs. Others do no harm, except for the
// default VLAN if that is not wanted.
func (v VLAN) includes(want VLAN) bool {
	for _, id := range want.Trunk {
		if _, has := slices.BinarySearch(v.Trunk, id); !has {
			return false
		}
	}
	return v.Access == want.Access && v.KeepDefault == want.KeepDefault
}

// String is "untagged 100, tagged 200-299 400, default VLAN gone".
func (v VLAN) String() string {
	var tagged []string
	for _, r := range ranges(v.Trunk) {
		if r.first == r.last {
			tagged = append(tagged, fmt.Sprint(r.first))
		} else {
			tagged = append(tagged, fmt.Sprintf("%d-%d", r.first, r.last))
		}
	}
	kept := "gone"
	if v.KeepDefault {
		kept = "kept"
	}
	return fmt.Sprintf("untagged %d, tagged %s, default VLAN %s", v.Access, orNone(strings.Join(tagged, " ")), kept)
}
