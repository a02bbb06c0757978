package bridge

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// vlanRange is a range of VLANs with the same BRIDGE_VLAN_INFO flags.
type vlanRange struct {
	first, last int
	flags       uint16
}

// accessFlags make a VLAN that of untagged frames, both ways.
const accessFlags = nl.BRIDGE_VLAN_INFO_PVID | nl.BRIDGE_VLAN_INFO_UNTAGGED

func (r vlanRange) has(id int) bool { return r.first <= id && id <= r.last }

// ranges makes ranges of ascending ids.
func ranges(ids []int) []vlanRange {
	var list []vlanRange
	for _, id := range ids {
		if n := len(list); n > 0 && list[n-1].last+1 == id {
			list[n-1].last++
			continue
		}
		list = append(list, vlanRange{first: id, last: id})
	}
	return list
}

// editVLANs adds VLANs to a port, or to a bridge itself (to: MASTER or SELF), by RTM_SETLINK,
// or removes them by RTM_DELLINK, in one message. It is no error if they are there, or gone,
// already (br_process_vlan_info, net/bridge/br_netlink.c), or gone with the link.
func editVLANs(command, linkIndex int, to uint16, list ...vlanRange) error {
	req := nl.NewNetlinkRequest(command, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(linkIndex)
	req.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(nl.IFLA_BRIDGE_FLAGS, nl.Uint16Attr(to))
	add := func(id int, flags uint16) {
		info := nl.BridgeVlanInfo{Vid: uint16(id), Flags: flags}
		spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, info.Serialize())
	}
	for _, r := range list {
		if r.first == r.last {
			add(r.first, r.flags)
			continue
		}
		add(r.first, r.flags|nl.BRIDGE_VLAN_INFO_RANGE_BEGIN)
		add(r.last, r.flags|nl.BRIDGE_VLAN_INFO_RANGE_END)
	}
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if command == unix.RTM_DELLINK && netns.IsLinkGone(err) {
		return nil
	}
	return err
}

// The attributes of RTM_NEWVLAN, and the length of its header (linux/if_bridge.h).
const (
	vlanEntry       = 1 // BRIDGE_VLANDB_ENTRY
	vlanEntryInfo   = 1 // BRIDGE_VLANDB_ENTRY_INFO
	vlanEntryRange  = 2 // BRIDGE_VLANDB_ENTRY_RANGE
	sizeofBrVLANMsg = 8 // struct br_vlan_msg
)

// vlansOf lists the VLANs of one port, or of a bridge itself, by RTM_GETVLAN (since Linux
// 5.6), which looks at no other port and lists ranges rather than up to 4094 VLANs. A link that
// is gone has none.
func vlansOf(linkIndex int) ([]vlanRange, error) {
	replies, err := dump.Complete(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETVLAN, unix.NLM_F_DUMP)
		head := make([]byte, sizeofBrVLANMsg)
		head[0] = unix.AF_BRIDGE
		binary.NativeEndian.PutUint32(head[4:], uint32(linkIndex))
		req.AddRawData(head)
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWVLAN)
	})
	if netns.IsLinkGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list VLANs of link %d (RTM_GETVLAN, since Linux 5.6): %w", linkIndex, err)
	}
	var list []vlanRange
	for _, reply := range replies {
		entries, err := parseVLANs(reply)
		if err != nil {
			return nil, fmt.Errorf("read VLANs of link %d: %w", linkIndex, err)
		}
		list = append(list, entries...)
	}
	return list, nil
}

// parseVLANs reads an RTM_NEWVLAN.
func parseVLANs(reply []byte) ([]vlanRange, error) {
	entries, err := nl.ParseRouteAttr(reply[sizeofBrVLANMsg:])
	if err != nil {
		return nil, err
	}
	var list []vlanRange
	for _, e := range entries {
		if e.Attr.Type&^unix.NLA_F_NESTED != vlanEntry {
			continue
		}
		attrs, err := nl.ParseRouteAttr(e.Value)
		if err != nil {
			return nil, err
		}
		var r vlanRange
		for _, a := range attrs {
			switch a.Attr.Type {
			case vlanEntryInfo:
				info := nl.DeserializeBridgeVlanInfo(a.Value)
				r.first, r.last, r.flags = int(info.Vid), max(r.last, int(info.Vid)), info.Flags
			case vlanEntryRange:
				r.last = int(binary.NativeEndian.Uint16(a.Value))
			}
		}
		list = append(list, r)
	}
	return list, nil
}
