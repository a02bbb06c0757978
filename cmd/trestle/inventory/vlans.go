package inventory

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// PortVLANs are VLANs in a row that a port of a bridge lets through.
type PortVLANs struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
	// Untagged says that frames leave the port without the tag, and those that come
	// without one are of this VLAN.
	Untagged bool `json:"untagged"`
}

// vlans reads those of all ports by one question, if there is a bridge that looks at
// them.
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

// inRows joins VLANs, which the kernel lists one by one and in order.
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
