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

// panelPlan is a segment with the size of its panel.
type panelPlan struct {
	Segment
	density density
	columns int // of cards
	groups  []group
	w, h    float64
}

// newPanel measures a segment's panel, by drawing it on another sketch.
func newPanel(s Segment) panelPlan {
	p := panelPlan{Segment: s, groups: s.groups(), columns: 4}
	n := len(s.Members) + len(s.Ports)
	if len(p.groups) == 0 && n > 0 {
		p.groups = []group{{}} // for links of the host
	}
	switch {
	case n <= mostCards:
		p.columns = min(max(n, 2), p.columns)
		p.w = 2*padding + float64(p.columns)*(cardW+gap) - gap
		if len(p.groups) > 1 && n <= mostCards/4 {
			p.groups = []group{{Members: s.Members}} // the titles would take most of the panel
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

// plugs are the things that are drawn in a group. The host's links are drawn in the first.
func (p panelPlan) plugs(g group) []plug {
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
