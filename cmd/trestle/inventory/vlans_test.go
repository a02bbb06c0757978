package inventory

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink/nl"
)

// TestInRows: thousands of consecutive VLANs are one range; the port's untagged VLAN is a range of
// its own.
func TestInRows(t *testing.T) {
	var trunk []*nl.BridgeVlanInfo
	for vid := uint16(1); vid <= 4094; vid++ {
		v := &nl.BridgeVlanInfo{Vid: vid}
		if vid == 1 {
			v.Flags = nl.BRIDGE_VLAN_INFO_PVID | nl.BRIDGE_VLAN_INFO_UNTAGGED
		}
		if vid != 100 {
			trunk = append(trunk, v)
		}
	}
	want := []PortVLANs{{1, 1, true}, {2, 99, false}, {101, 4094, false}}
	if got := inRows(trunk); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := inRows(nil); got != nil {
		t.Errorf("got %v of nothing", got)
	}
}
