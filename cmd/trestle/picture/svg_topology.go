package picture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// Measures of the picture.
const (
	margin      = 32.0
	spine       = 28.0 // the room left of the panels, for the line to lower rows
	contentW    = 2*padding + 4*(cardW+gap) - gap
	gap         = 16.0
	padding     = 20.0
	barH        = 34.0
	dropH       = 26.0
	cardW       = 236.0
	cardPad     = 12.0
	lineH       = 16.0
	lead        = 3.0 // below a name
	chipW       = 158.0
	chipH       = 38.0
	chipGap     = 8.0
	chipsPerRow = 6
	cellSize    = 17.0
	cellPitch   = 21.0
	cellsPerRow = 40
	// uplinksPerRow is the number of uplinks in a row.
	uplinksPerRow = 4
	// Up to mostCards containers of a bridge are cards with all details, and up to mostChips
	// are chips with a name and an address. If there are more, they are cells with a tooltip.
	mostCards = 40
	mostChips = 120
	// mostOthers is how many interfaces that belong to no network are drawn.
	mostOthers = 60
)

// SVG is the topology as an SVG document, for light and dark backgrounds.
func (t Topology) SVG() string {
	s := &sketch{topology: t}
	size := s.draw()
	return s.wrapped(size, "host: "+t.Counts.String())
}

// sketch is the picture under construction.
type sketch struct {
	canvas
	topology Topology
	panelsOf []panelPlan
	width    float64 // of the picture without margins
	y        float64 // where the next part begins
}

func (s *sketch) draw() rect {
	left := margin + spine
	for _, segment := range s.topology.drawn() {
		s.panelsOf = append(s.panelsOf, newPanel(segment))
	}
	s.width = s.needs()
	s.open("g", "class", "heading") // a page hides it, since it has its own
	s.text("head", point{left, margin + headPx}, "host")
	s.text("faint", point{left + sansWidth("host", headPx) + 12, margin + headPx}, s.topology.Counts.String())
	s.close("g")
	s.y = margin + 36
	s.outside(left)
	s.bar("bar", rect{left, s.y, s.width, barH}, "this host", "routes, translates, filters")
	top := s.y + barH
	s.y = top + dropH
	s.panels(left, top)
	if len(s.topology.Others) > 0 {
		s.others(left)
	}
	if len(s.topology.Chains) > 0 {
		s.chains(left)
	}
	s.legend(left)
	return rect{0, 0, left + s.width + margin, s.y + margin}
}

// needs is the width that the picture needs.
func (s *sketch) needs() float64 {
	const least = 2*padding + 2*(cardW+gap) - gap
	cards := float64(min(len(s.topology.Uplinks), uplinksPerRow))
	chips := float64(min(len(s.topology.Others), chipsPerRow))
	width := max(least, cards*(cardW+gap)-gap, chips*(chipW+chipGap)-chipGap+2*padding)
	x := 0.0
	for _, p := range s.panelsOf {
		if x > 0 && x+p.w > contentW {
			x = 0
		}
		width = max(width, x+p.w)
		x += p.w + gap
	}
	return width
}

// bar draws a bar from which everything below it hangs.
func (s *sketch) bar(class string, r rect, name, remark string) {
	s.box(class, r, 8)
	s.text("name", point{r.x + padding, r.y + r.h/2 + 4.5}, name)
	room := r.w - 3*padding - sansWidth(name, namePx)
	s.textEnd("faint", point{r.x + r.w - padding, r.y + r.h/2 + 4}, fitSans(remark, room, textPx))
}

// outside draws the outside, and the uplinks between it and the host.
func (s *sketch) outside(left float64) {
	if len(s.topology.Uplinks) == 0 {
		return
	}
	var ways []string
	for _, r := range s.topology.DefaultRoutes {
		if r.Via.IsValid() {
			ways = append(ways, r.Via.String()+" by "+r.Link)
		} else {
			ways = append(ways, r.Link)
		}
	}
	remark := "no default route"
	if len(ways) > 0 {
		remark = "default via " + strings.Join(ways, ", ")
	}
	s.bar("bar", rect{left, s.y, s.width, barH}, "outside", remark)
	above := [uplinksPerRow]float64{} // where the line down to the next card of a column begins
	for column := range min(uplinksPerRow, len(s.topology.Uplinks)) {
		above[column] = s.y + barH
	}
	s.y += barH + dropH
	for row := range slices.Chunk(s.topology.Uplinks, uplinksPerRow) {
		height := 0.0
		for _, i := range row {
			height = max(height, interfaceHeight(i))
		}
		for column, i := range row {
			r := rect{left + float64(column)*(cardW+gap), s.y, cardW, height}
			s.line("drop", point{r.x + padding, above[column]}, point{r.x + padding, r.y})
			s.interfaceCard(i, r)
			above[column] = r.y + r.h
		}
		s.y += height + dropH
	}
	for column, y := range above {
		if x := left + float64(column)*(cardW+gap) + padding; y > 0 {
			s.line("drop", point{x, y}, point{x, s.y})
		}
	}
}

// interfaceLines are the lines below the name on an interface's card.
func interfaceLines(i Interface) []string {
	lines := []string{}
	if i.Peer != "" {
		lines = append(lines, "to "+i.Peer)
	}
	if i.PortVLANs != "" {
		lines = append(lines, i.PortVLANs)
	}
	lines = append(lines, texts(i.Addresses)...)
	for _, below := range i.Below {
		lines = append(lines, below.Name+", "+below.kind())
		for _, line := range interfaceLines(below) {
			lines = append(lines, "  "+line)
		}
	}
	return lines
}

func interfaceHeight(i Interface) float64 {
	return 2*cardPad + lead + lineH*float64(len(interfaceLines(i))+1)
}

func (s *sketch) interfaceCard(i Interface, r rect) {
	s.node(linkID(i.Name))
	s.title(i.Name)
	s.box("card", r, 8)
	s.dot(point{r.x + cardPad + 4, r.y + cardPad + 7.5}, i.Up, "")
	kind := i.Kind
	if !i.Up {
		kind += ", down"
	}
	room := r.w - 2*cardPad - 16
	name := fitSans(i.Name, room-sansWidth(kind, smallPx)-8, namePx)
	s.text("name", point{r.x + cardPad + 16, r.y + cardPad + 12}, name)
	s.textEnd("faint small", point{r.x + r.w - cardPad, r.y + cardPad + 12}, kind)
	s.lines(interfaceLines(i), point{r.x + cardPad, r.y + cardPad + lead + lineH + 12}, r.w-2*cardPad)
	s.close("g")
}

// lines writes lines of addresses and the like below each other.
func (s *sketch) lines(lines []string, at point, width float64) {
	for _, line := range lines {
		trimmed := strings.TrimLeft(line, " ")
		in := monoWidth(line[:len(line)-len(trimmed)], textPx)
		s.text("mono", point{at.x + in, at.y}, fitMono(trimmed, width-in, textPx))
		at.y += lineH
	}
}

// dot draws the state of a link, or of a container by its class.
func (s *sketch) dot(at point, up bool, class string) {
	if class == "" {
		class = map[bool]string{true: "alive", false: "dead"}[up]
	}
	s.empty("circle", "class", "dot "+class, "cx", at.x, "cy", at.y, "r", 4.0)
}

// node begins a node, which a page can find and show the details of.
func (s *sketch) node(id string) { s.open("g", "class", "node", "data-id", id) }

func linkID(name string) string { return "link/" + name }

// ID identifies a member of a topology.
func (m Member) id() string { return m.Network + "/" + m.Container + "/" + m.IfName }

// panels draws the segments in rows, each with a line to the host.
func (s *sketch) panels(left, top float64) {
	if len(s.panelsOf) == 0 {
		r := rect{left, s.y, s.width, 64}
		s.line("drop", point{left + padding, top}, point{left + padding, s.y})
		s.box("panel ghost", r, 10)
		s.text("faint", point{r.x + padding, r.y + 37}, "no network yet; trestle network create NAME makes one")
		s.y += r.h + gap
		return
	}
	at := point{left, s.y}
	height, spineEnd := 0.0, 0.0
	first := true // row of panels, right below the host
	for _, p := range s.panelsOf {
		if at.x > left && at.x+p.w > left+contentW {
			at = point{left, at.y + height + dropH + gap}
			height, first = 0, false
		}
		class := "drop"
		if p.isInternal() {
			class = "drop dashed"
		}
		end := point{at.x + padding, at.y}
		if first {
			s.line(class, point{end.x, top}, end)
		} else {
			spineEnd = end.y - dropH
			s.line(class, point{left - spine/2, spineEnd}, point{end.x, spineEnd}, end)
		}
		s.panel(p, at)
		at.x += p.w + gap
		height = max(height, p.h)
	}
	if spineEnd > 0 {
		s.line("drop", point{left, top - barH/2}, point{left - spine/2, top - barH/2}, point{left - spine/2, spineEnd})
	}
	s.y = at.y + height + gap
}

func (s *sketch) panel(p panelPlan, at point) {
	r := rect{at.x, at.y, p.w, p.h}
	class := "panel"
	if p.Bridge == nil {
		class = "panel ghost"
	}
	s.open("g", "class", "segment")
	s.box(class, r, 10)
	y := s.header(p, r)
	for _, g := range p.groups {
		y = s.group(p, g, point{r.x + padding, y})
	}
	if len(p.Members)+len(p.Ports) == 0 {
		s.text("faint", point{r.x + padding, y + 14}, "no containers")
	}
	s.close("g")
}

// header draws a panel's header with the bridge and the networks on it, and returns its lower end.
func (s *sketch) header(p panelPlan, r rect) float64 {
	x, y := r.x+padding, r.y+padding+headPx-4
	s.node(linkID(p.Name))
	facts := p.lack()
	if p.Bridge != nil {
		facts = fmt.Sprintf("%s, MTU %d", p.Bridge.Kind, p.Bridge.MTU)
		s.dot(point{x + 4, y - 5}, p.Bridge.Up, "")
		x += 16
		if p.VLANFiltering {
			facts += ", VLAN filtering"
		}
		if !p.Bridge.Up {
			facts += ", down"
		}
	}
	room := r.w - 2*padding - 16 - sansWidth(facts, textPx) - 12
	name := fitSans(p.Name, room, headPx)
	s.text("head", point{x, y}, name)
	s.textEnd("faint", point{r.x + r.w - padding, y}, facts)
	s.close("g")
	if p.Bridge != nil {
		s.lines(interfaceLines(*p.Bridge), point{r.x + padding, y + 20}, r.w-2*padding)
		y += lineH * float64(len(interfaceLines(*p.Bridge)))
	}
	y += 14
	for _, n := range p.Networks {
		y = s.network(n, point{r.x + padding, y}, r.w-2*padding)
	}
	return y + 6
}

// network draws a network's name, badges and pools, and returns their lower end.
func (s *sketch) network(n Network, at point, width float64) float64 {
	name := fitSans("network "+n.Name, width, namePx)
	s.text("name", point{at.x, at.y + 14}, name)
	x := sansWidth(name, namePx) + 12
	widths := []float64{x}
	for _, b := range n.Badges {
		widths = append(widths, sansWidth(b, smallPx)+14)
	}
	places, height := flow(widths, width, 6, 22)
	for i, b := range n.Badges {
		p := places[i+1]
		s.box("badge", rect{at.x + p.x, at.y + p.y + 2, widths[i+1], 17}, 8.5)
		s.text("accent small", point{at.x + p.x + 7, at.y + p.y + 14}, b)
	}
	y := at.y + height + 2
	const barW = 90.0
	for _, u := range n.Pools {
		share := 0.0
		if u.Size > 0 {
			share = min(float64(u.Used)/float64(u.Size), 1)
		}
		s.box("track", rect{at.x, y + 4, barW, 6}, 3)
		if u.Used > 0 {
			s.box("used", rect{at.x, y + 4, max(barW*share, 6), 6}, 3)
		}
		s.text("mono faint small", point{at.x + barW + 10, y + 10.5}, fitMono(u.String(), width-barW-10, smallPx))
		y += lineH
	}
	return y + 4
}

// group draws a group's members, and returns their lower end.
func (s *sketch) group(p panelPlan, g group, at point) float64 {
	if g.Name != "" {
		s.text("name", point{at.x, at.y + 16}, fitSans(g.Name, p.w-2*padding-40, namePx))
		s.text("faint", point{at.x + sansWidth(fitSans(g.Name, p.w-2*padding-40, namePx), namePx) + 8, at.y + 16}, fmt.Sprint(len(g.Members)))
		at.y += groupTitleH
	}
	switch p.density {
	case asCards:
		return s.cards(p, g, at)
	case asChips:
		return s.chips(g, at)
	default:
		return s.cells(g, at)
	}
}

func (s *sketch) cards(p panelPlan, g group, at point) float64 {
	y := at.y
	var rails []point // the ends of all
	for row := range slices.Chunk(p.plugs(g), p.columns) {
		height := 0.0
		for _, one := range row {
			height = max(height, one.height())
		}
		end := point{at.x, y}
		for n, one := range row {
			r := rect{at.x + float64(n)*(cardW+gap), y + dropH, cardW, height}
			if one.plugged() {
				end.x = r.x + cardPad
				s.line("drop", point{end.x, y}, point{end.x, r.y})
			}
			s.plug(one, r)
		}
		if end.x > at.x {
			rails = append(rails, end)
		}
		y += dropH + height + gap/2
	}
	s.rails(rails, at.x-padding/2)
	return y + gap/2
}

// rails draws a bridge as a rail above each row, from a trunk at x.
func (s *sketch) rails(ends []point, x float64) {
	for i, end := range ends {
		s.line("rail", point{x, end.y}, end)
		if i == len(ends)-1 && i > 0 {
			s.line("rail", point{x, ends[0].y}, point{x, end.y})
		}
	}
}

// plug is one thing on a bridge: a container, or another link.
type plug struct {
	member *Member
	link   *Interface
	group  string // whose title names a part of the member's name
}

// lines are the lines below the name on the member's card.
func (m Member) lines() []string {
	lines := texts(m.Addresses)
	if len(m.prefixes) > 0 {
		lines = texts(m.prefixes)
	}
	if m.PortVLANs != "" {
		lines = append(lines, m.PortVLANs)
	}
	return append(lines, m.lesser...)
}

// nameIn is the member's name below the title of its group.
func (m Member) nameIn(group string) string { return strings.TrimPrefix(m.Name, group+"/") }

func (p plug) plugged() bool { return p.link != nil || p.member.HostLink != "" }

func (p plug) height() float64 {
	if p.link != nil {
		return interfaceHeight(*p.link)
	}
	_, height := flow(chipWidths(p.member.Published), cardW-2*cardPad, 6, 20)
	if height > 0 {
		height += 4
	}
	return 2*cardPad + lead + lineH*float64(1+len(p.member.lines())) + height
}

// portLabels are a container's ports, as many as fit on a card.
func portLabels(published []string) []string {
	const most = 6
	if len(published) <= most {
		return published
	}
	return append(slices.Clone(published[:most-1]), fmt.Sprintf("and %d more", len(published)-most+1))
}

func chipWidths(published []string) []float64 {
	var widths []float64
	for _, p := range portLabels(published) {
		widths = append(widths, min(monoWidth(p, smallPx)+12, cardW-2*cardPad))
	}
	return widths
}

func (s *sketch) plug(p plug, r rect) {
	if p.link != nil {
		s.interfaceCard(*p.link, r)
		return
	}
	m := *p.member
	if m.HostLink != "" {
		s.text("mono faint small", point{r.x + cardPad + 8, r.y - 6}, fitMono(m.HostLink, r.w-cardPad-8, smallPx))
	}
	s.node(m.id())
	s.title(m.tip())
	class := "card"
	if m.HostLink == "" {
		class = "card ghost"
	}
	s.box(class, r, 8)
	s.dot(point{r.x + cardPad + 4, r.y + cardPad + 7.5}, true, string(m.State))
	name := fitSans(m.nameIn(p.group), r.w-2*cardPad-24-monoWidth(m.IfName, smallPx), namePx)
	s.text("name", point{r.x + cardPad + 16, r.y + cardPad + 12}, name)
	s.textEnd("mono faint small", point{r.x + r.w - cardPad, r.y + cardPad + 12}, m.IfName)
	s.lines(m.lines(), point{r.x + cardPad, r.y + cardPad + lead + lineH + 12}, r.w-2*cardPad)
	y := r.y + cardPad + lead + lineH*float64(1+len(m.lines())) + 4
	widths := chipWidths(m.Published)
	places, _ := flow(widths, cardW-2*cardPad, 6, 20)
	for i, port := range portLabels(m.Published) {
		at := point{r.x + cardPad + places[i].x, y + places[i].y}
		s.box("badge", rect{at.x, at.y, widths[i], 17}, 4)
		s.text("mono accent small", point{at.x + 6, at.y + 12}, fitMono(port, widths[i]-12, smallPx))
	}
	s.close("g")
}

// tip is the member's tooltip.
func (m Member) tip() string {
	words := []string{m.Name, string(m.State), m.IfName + " on " + m.Network}
	return strings.Join(slices.Concat(words, m.lines(), m.Published), "\n")
}

func (s *sketch) chips(g group, at point) float64 {
	y := at.y + 6
	for row := range slices.Chunk(g.Members, chipsPerRow) {
		for n, m := range row {
			r := rect{at.x + float64(n)*(chipW+chipGap), y, chipW, chipH}
			s.node(m.id())
			s.title(m.tip())
			class := "chip"
			if m.HostLink == "" {
				class = "chip ghost"
			}
			s.box(class, r, 6)
			s.dot(point{r.x + 12, r.y + 13}, true, string(m.State))
			s.text("", point{r.x + 22, r.y + 16.5}, fitSans(m.nameIn(g.Name), r.w-30, textPx))
			if len(m.Addresses) > 0 {
				s.text("mono faint small", point{r.x + 22, r.y + 30}, fitMono(m.Addresses[0].String(), r.w-30, smallPx))
			}
			s.close("g")
		}
		y += chipH + chipGap
	}
	return y + chipGap
}

// cells draws members as cells, with the first address of each row.
func (s *sketch) cells(g group, at point) float64 {
	y := at.y + 6
	labels := cellLabels(g.Members)
	for row := range slices.Chunk(g.Members, cellsPerRow) {
		if len(row[0].Addresses) > 0 {
			s.text("mono faint small", point{at.x, y + 12.5}, fitMono(row[0].Addresses[0].String(), labels-14, smallPx))
		}
		for n, m := range row {
			class := "cell " + string(m.State)
			if len(m.Published) > 0 {
				class += " publishes"
			}
			s.node(m.id())
			s.title(m.tip())
			s.box(class, rect{at.x + labels + float64(n)*cellPitch, y, cellSize, cellSize}, 3)
			s.close("g")
		}
		y += cellPitch
	}
	if line := notable(g.Members); line != "" {
		y += 4
		s.text("faint", point{at.x, y + 12}, fitSans(line, contentW-2*padding, textPx))
		y += lineH
	}
	return y + gap/2
}

// cellLabels is the width of the addresses before rows of cells.
func cellLabels(members []Member) float64 {
	const most = 142.0
	width := 0.0
	for row := range slices.Chunk(members, cellsPerRow) {
		if len(row[0].Addresses) > 0 {
			width = max(width, monoWidth(row[0].Addresses[0].String(), smallPx)+14)
		}
	}
	return min(width, most)
}

// notable names the dead members, which are hard to find among many cells.
func notable(members []Member) string {
	const most = 5
	var dead []string
	for _, m := range members {
		if m.State == inventory.Dead {
			dead = append(dead, m.Name)
		}
	}
	if len(dead) == 0 {
		return ""
	}
	text := "dead: " + strings.Join(dead[:min(most, len(dead))], ", ")
	if len(dead) > most {
		text += fmt.Sprintf(" and %d more", len(dead)-most)
	}
	return text
}

// others draws the panel of links that have nothing to do with containers.
func (s *sketch) others(left float64) {
	shown := s.topology.Others[:min(mostOthers, len(s.topology.Others))]
	rows := (len(shown) + chipsPerRow - 1) / chipsPerRow
	r := rect{left, s.y, s.width, 2*padding + 12 + float64(rows)*(chipH+chipGap)}
	s.box("panel", r, 10)
	s.text("name", point{r.x + padding, r.y + padding + 8}, "other interfaces")
	if more := len(s.topology.Others) - len(shown); more > 0 {
		s.textEnd("faint", point{r.x + r.w - padding, r.y + padding + 8}, fmt.Sprintf("and %d more", more))
	}
	y := r.y + padding + 22
	for row := range slices.Chunk(shown, chipsPerRow) {
		for n, i := range row {
			chip := rect{r.x + padding + float64(n)*(chipW+chipGap), y, chipW, chipH}
			s.node(linkID(i.Name))
			s.title(strings.Join(append([]string{i.Name, i.kind()}, texts(i.Addresses)...), "\n"))
			s.box("chip", chip, 6)
			s.dot(point{chip.x + 12, chip.y + 13}, i.Up, "")
			s.text("", point{chip.x + 22, chip.y + 16.5}, fitSans(i.Name, chip.w-30, textPx))
			s.text("faint small", point{chip.x + 22, chip.y + 30}, fitSans(i.kind(), chip.w-30, smallPx))
			s.close("g")
		}
		y += chipH + chipGap
	}
	s.y += r.h + gap
}

// legend explains the colours, if there are members that have one.
func (s *sketch) legend(left float64) {
	if !slices.ContainsFunc(s.panelsOf, func(p panelPlan) bool { return len(p.Members) > 0 }) {
		return
	}
	words := []string{"alive", "dead", "unknown"}
	x := left
	for _, word := range words {
		s.dot(point{x + 4, s.y + 8}, true, word)
		s.text("faint", point{x + 14, s.y + 12}, word)
		x += 14 + sansWidth(word, textPx) + 20
	}
	s.empty("rect", "class", "card ghost", "x", x, "y", s.y+2, "width", 18.0, "height", 12.0, "rx", 3.0)
	s.text("faint", point{x + 26, s.y + 12}, "no link")
	x += 26 + sansWidth("no link", textPx) + 20
	for _, p := range s.panelsOf {
		if p.density == asCells {
			s.empty("rect", "class", "cell alive publishes", "x", x, "y", s.y+2, "width", 12.0, "height", 12.0, "rx", 3.0)
			s.text("faint", point{x + 20, s.y + 12}, "with published ports")
			break
		}
	}
	s.y += 20
}
