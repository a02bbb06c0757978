package doctor

import "fmt"

// nearlyFull is the percentage of leased addresses from which a pool is reported.
const nearlyFull = 90

// pools finds ranges with few or no free addresses. A dead container's address counts as
// free: an ADD that finds the pool full reclaims it.
func pools(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		for _, p := range n.Pools {
			used := p.Used - min(p.Dead, p.Used)
			if p.Size == 0 || used*100 < p.Size*nearlyFull {
				continue
			}
			f := Finding{
				Severity: Warning, Subject: "network " + n.Name,
				Text:    fmt.Sprintf("%d of the %d addresses of %s are leased", used, p.Size, p.Subnet),
				Command: "trestle ip ls " + n.Name,
			}
			if used >= p.Size {
				f.Severity, f.Text = Fault, fmt.Sprintf("all %d addresses of %s are leased: no container can be attached", p.Size, p.Subnet)
			}
			all = append(all, f)
		}
	}
	return all
}
