package registry

import (
	"slices"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/firewall"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// Layouts are the numbers of this release's layouts, by name: of what each package puts into
// tables of nftables.
func Layouts() map[string]int {
	layouts := map[string]int{}
	for _, key := range slices.Concat(nat.Layouts(), firewall.Layouts(), bridge.Layouts()) {
		if part, number, ok := nft.ParseKey(key); ok {
			layouts[part] = number
		}
	}
	return layouts
}
