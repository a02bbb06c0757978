package doctor

import (
	"fmt"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// nearlyFull is the percentage of leased addresses from which a pool is reported.
const nearlyFull = 90

// pools finds ranges with few or no free addresses. A dead container's address counts as
// free: an ADD that finds the pool full reclaims it.
func pools(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		for _, p := range n.Pools {
			used := inUse(p)
			if p.Size == 0 || used*100 < p.Size*nearlyFull {
				continue
			}
			f := Finding{
				Severity: Warning, Subject: "network " + n.Name,
				Text:    fmt.Sprintf("%d of the %d addresses of %s are leased", used, p.Size, p.Subnet),
				Command: "trestle ip ls " + n.Name,
			}
			if isFull(p) {
				f.Severity, f.Text = Fault, fmt.Sprintf("all %d addresses of %s are leased: no container can be attached", p.Size, p.Subnet)
				if h.saysFull(n.Name) {
					f.Text += `, and STATUS tells the runtime so ("statusWhenFull": "unavailable")`
				}
			}
			all = append(all, f)
		}
	}
	return all
}

// hasFullPool says whether pools finds that the network's pool is full.
func (h *Host) hasFullPool(network string) bool {
	n, ok := h.NetworkOf(network)
	return ok && slices.ContainsFunc(n.Pools, isFull)
}

// inUse counts the addresses that an ADD could not lease.
func inUse(p inventory.Pool) uint64 { return p.Used - min(p.Dead, p.Used) }

func isFull(p inventory.Pool) bool { return p.Size > 0 && inUse(p) >= p.Size }
