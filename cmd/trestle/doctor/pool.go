package doctor

import "fmt"

// nearlyFull is the share of a pool, in percent, from which it is said to be.
const nearlyFull = 90

// pools finds ranges in which no address is left, or hardly one. What a dead one has is
// free: the next ADD that needs it takes it.
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
				f.Severity, f.Text = Fault, fmt.Sprintf("all %d addresses of %s are leased: nobody can be attached", p.Size, p.Subnet)
			}
			all = append(all, f)
		}
	}
	return all
}
