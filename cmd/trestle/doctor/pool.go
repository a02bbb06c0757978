package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// pools finds range sets with few or no free addresses: a tenth or less. A single full range
// is no fault, as long as another one of its set has an address.
func pools(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		for _, set := range n.PoolSets() {
			size := set.Size()
			if size == 0 || set.InUse() < size-size/10 {
				continue
			}
			f := Finding{
				Severity: Warning, Subject: "network " + n.Name,
				Text:    fmt.Sprintf("%d of the %d addresses of %s are leased", set.InUse(), size, subnetsOf(set)),
				Command: "trestle ip ls " + n.Name,
			}
			if set.Full() {
				f.Severity, f.Text = Fault, fullText(set)+": no container can be attached"
				if h.saysFull(n.Name) {
					f.Text += `, and STATUS tells the runtime so ("statusWhenFull": "unavailable")`
				}
			}
			all = append(all, f)
		}
	}
	return all
}

func fullText(set inventory.PoolSet) string {
	if set.Size() == 1 {
		return fmt.Sprintf("the only address of %s is leased", subnetsOf(set))
	}
	return fmt.Sprintf("all %d addresses of %s are leased", set.Size(), subnetsOf(set))
}

// subnetsOf names the set's subnets, each once: two ranges may be of one.
func subnetsOf(set inventory.PoolSet) string {
	var subnets []string
	for _, p := range set {
		if subnet := p.Subnet.String(); !slices.Contains(subnets, subnet) {
			subnets = append(subnets, subnet)
		}
	}
	if len(subnets) == 1 {
		return subnets[0]
	}
	return strings.Join(subnets[:len(subnets)-1], ", ") + " and " + subnets[len(subnets)-1] + " together"
}

// hasFullPool says whether pools finds that a set of the network is full.
func (h *Host) hasFullPool(network string) bool {
	n, ok := h.NetworkOf(network)
	return ok && slices.ContainsFunc(n.PoolSets(), inventory.PoolSet.Full)
}
