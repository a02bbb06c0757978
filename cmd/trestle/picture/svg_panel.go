package picture

import "slices"

// density is how much of each container a panel shows.
type density int

const (
	asCards density = iota
	asChips
	asCells
)

const groupTitleH = 24.0

// panelPlan is a segment with its measures.
type panelPlan struct {
	Segment
	density density
	columns int // of cards
	groups  []Group
	w, h    float64
}

// newPanel measures; drawing takes the same steps.
func newPanel(s Segment) panelPlan {
	p := panelPlan{Segment: s, groups: s.Groups(), columns: 4}
	n := len(s.Members) + len(s.Ports)
	if len(p.groups) == 0 && n > 0 {
		p.groups = []Group{{}} // links of the host alone
	}
	switch {
	case n <= mostCards:
		p.columns = min(max(n, 2), p.columns)
		p.w = 2*padding + float64(p.columns)*(cardW+gap) - gap
		if len(p.groups) > 1 && n <= mostCards/4 {
			p.groups = []Group{{Members: s.Members}} // titles would be most of it
		}
	case n <= mostChips:
		p.density, p.w = asChips, contentW
	default:
		p.density, p.w = asCells, contentW
	}
	probe := &sketch{}
	y := probe.header(p, rect{0, 0, p.w, 0})
	for _, g := range p.groups {
		y = probe.group(p, g, point{padding, y})
	}
	if n == 0 {
		y += 30
	}
	p.h = y + padding - gap
	return p
}

// plugs are what is drawn for a group; the links that are no container's come with the
// first.
func (p panelPlan) plugs(g Group) []plug {
	var all []plug
	if len(p.groups) == 0 || g.Name == p.groups[0].Name {
		for i := range p.Ports {
			all = append(all, plug{link: &p.Ports[i]})
		}
	}
	for i := range g.Members {
		all = append(all, plug{member: &g.Members[i], group: g.Name})
	}
	return all
}

func (p panelPlan) isInternal() bool {
	return len(p.Networks) > 0 && !slices.ContainsFunc(p.Networks, func(n Network) bool { return !slices.Contains(n.Badges, "internal") })
}
