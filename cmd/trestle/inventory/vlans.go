package inventory

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// PortVLANs is a range of VLANs that a bridge port is a member of.
type PortVLANs struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
	// Untagged says that frames of this VLAN leave the port untagged, and that untagged
	// frames that arrive belong to it.
	Untagged bool `json:"untagged"`
}

// vlans reads the VLANs of all bridge ports in one dump, if a bridge filters VLANs.
func (t *taking) vlans() error {
	if !slices.ContainsFunc(t.snapshot.Links, func(l Link) bool { return l.VLANFiltering }) {
		return nil
	}
	all, err := dump.Complete(netlink.BridgeVlanList)
	if err != nil {
		return fmt.Errorf("list the VLANs of bridge ports: %w", err)
	}
	for i := range t.snapshot.Links {
		l := &t.snapshot.Links[i]
		l.PortVLANs = inRows(all[int32(l.Index)])
	}
	return nil
}

// inRows joins VLANs, which the kernel lists one by one in order, to ranges.
func inRows(single []*nl.BridgeVlanInfo) []PortVLANs {
	var rows []PortVLANs
	for _, v := range single {
		untagged := v.PortVID()
		if n := len(rows); n > 0 && rows[n-1].Last+1 == v.Vid && !untagged && !rows[n-1].Untagged {
			rows[n-1].Last = v.Vid
			continue
		}
		rows = append(rows, PortVLANs{v.Vid, v.Vid, untagged})
	}
	return rows
}
