package picture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// Tone is the meaning of a text's colour. The text is clear without it.
type Tone int

// The tones.
const (
	Plain Tone = iota
	Good
	Warning
	Bad
	Faint
	Strong
)

// TreeOptions limit a tree.
type TreeOptions struct {
	// Width is the maximum width; 0 is no limit.
	Width int
	// All shows every container, however many there are.
	All bool
	// Paint colours a text; nil for no colours.
	Paint func(Tone, string) string
}

// How many containers of a bridge, and how many groups, are shown one by one.
const (
	mostMembers = 48
	someMembers = 12
	mostGroups  = 16
)

// Tree is the topology for a terminal.
func (t Topology) Tree(o TreeOptions) string {
	if o.Paint == nil {
		o.Paint = func(_ Tone, s string) string { return s }
	}
	w := treeWriter{o}
	root := branch{lines: []string{w.Paint(Strong, "host") + "  " + t.Counts.String()}}
	for _, i := range t.Uplinks {
		root.add(w.uplink(i, t.DefaultRoutes))
	}
	for _, s := range t.Segments {
		root.add(w.segment(s))
	}
	if t.Hosts != nil {
		root.add(w.hosts(*t.Hosts))
	}
	if len(t.Chains) > 0 {
		root.add(w.chains(t.Chains))
	}
	if len(t.Others) > 0 {
		var names []string
		for _, i := range t.Others {
			names = append(names, i.brief())
		}
		root.add(branch{lines: w.wrap(w.Paint(Strong, "other interfaces")+"  ", names, 1)})
	}
	if len(t.Segments) == 0 {
		root.add(branch{lines: []string{"no network yet; trestle network create NAME makes one"}})
	}
	var out strings.Builder
	root.write(&out, w.Width, "", "")
	return out.String()
}

// chains is the branch of chains, hook by hook.
func (w treeWriter) chains(all []Chain) branch {
	b := branch{lines: []string{w.Paint(Strong, "chains")}}
	for first := 0; first < len(all); {
		last := first
		for last < len(all) && all[last].Hook == all[first].Hook {
			last++
		}
		b.add(branch{lines: w.wrap(all[first].Hook+"  ", texts(all[first:last]), 2)})
		first = last
	}
	return b
}

// branch is a branch of the tree: its lines, and the branches below.
type branch struct {
	lines    []string
	children []branch
}

func (b *branch) add(children ...branch) { b.children = append(b.children, children...) }

// indent is the width of a level's connectors.
const indent = 3

// write writes the branch. first is the beginning of its first line, rest that of all others.
// Lines are cut to the width.
func (b branch) write(out *strings.Builder, width int, first, rest string) {
	for i, line := range b.lines {
		begin := first
		switch {
		case i > 0 && len(b.children) > 0:
			begin = rest + "│  "
		case i > 0:
			begin = rest
		}
		line = strings.TrimRight(begin+line, " ")
		if width > 0 {
			line = text.Snip(line, width, "…")
		}
		out.WriteString(line + "\n")
	}
	for i, child := range b.children {
		if i == len(b.children)-1 {
			child.write(out, width, rest+"└─ ", rest+"   ")
		} else {
			child.write(out, width, rest+"├─ ", rest+"│  ")
		}
	}
}

type treeWriter struct{ TreeOptions }

// room is the width that is left for a branch at that depth.
func (w treeWriter) room(depth int) int {
	if w.Width == 0 {
		return 0
	}
	return max(w.Width-(depth+1)*indent, 20)
}

// wrap joins the words with commas, in as many lines as needed. The first begins with head; the
// others are aligned with the end of head if there is room.
func (w treeWriter) wrap(head string, words []string, depth int) []string {
	room := w.room(depth)
	hang := min(text.StringWidthWithoutEscSequences(head), 24)
	lines := []string{head}
	empty := true
	for i, word := range words {
		if i < len(words)-1 {
			word += ","
		}
		last := &lines[len(lines)-1]
		gap := " "
		if empty {
			gap = ""
		}
		if !empty && room > 0 && text.StringWidthWithoutEscSequences(*last+gap+word) > room {
			lines = append(lines, strings.Repeat(" ", hang)+word)
			continue
		}
		*last += gap + word
		empty = false
	}
	return lines
}

func (w treeWriter) uplink(i Interface, routes []DefaultRoute) branch {
	words := texts(i.Addresses)
	if out := outside(i, routes); out != "" {
		words = append(words, out)
	}
	b := branch{lines: w.wrap(w.title(i), words, 1)}
	for _, below := range i.Below {
		b.add(w.uplink(below, routes))
	}
	return b
}

// outside names the gateways of the link's default routes, or is "" if it has none.
func outside(i Interface, routes []DefaultRoute) string {
	leads := false
	var vias []string
	for _, r := range routes {
		if r.Link != i.Name {
			continue
		}
		leads = true
		if r.Via.IsValid() {
			vias = append(vias, r.Via.String())
		}
	}
	switch {
	case !leads:
		return ""
	case len(vias) == 0:
		return "outside"
	}
	return "outside via " + strings.Join(vias, " and ")
}

// title is a link's name, kind and state, to which its addresses are added.
func (w treeWriter) title(i Interface) string {
	return w.Paint(Strong, i.Name) + "  " + w.Paint(Faint, i.kind()) + w.down(i) + w.vlansOf(i.PortVLANs) + "  "
}

func (w treeWriter) down(i Interface) string {
	if i.Up {
		return ""
	}
	return " " + w.Paint(Bad, "down")
}

// kind is the link's kind for people.
func (i Interface) kind() string {
	switch {
	case i.VLAN > 0:
		return fmt.Sprintf("VLAN %d", i.VLAN)
	case i.Peer != "":
		return i.Kind + " to " + i.Peer
	}
	return i.Kind
}

// brief is the link in a list of links.
func (i Interface) brief() string {
	text := i.Name + " (" + i.kind() + ")"
	for _, below := range i.Below {
		text += ", " + below.brief()
	}
	return text
}

func (w treeWriter) segment(s Segment) branch {
	var b branch
	if s.Bridge != nil {
		b.lines = w.wrap(w.title(*s.Bridge), texts(s.Bridge.Addresses), 1)
	} else {
		b.lines = []string{w.Paint(Strong, s.Name) + "  " + w.Paint(Faint, s.lack())}
	}
	for _, n := range s.Networks {
		facts := slices.Concat(n.Badges, texts(n.Pools))
		b.lines = append(b.lines, w.wrap("network "+w.Paint(Strong, n.Name)+"  ", facts, 1)...)
	}
	if s.Bridge != nil {
		for _, below := range s.Bridge.Below {
			b.add(w.uplink(below, nil))
		}
	}
	for _, port := range s.Ports {
		b.add(w.uplink(port, nil))
	}
	b.add(w.members(s)...)
	return b
}

// lack says what the segment is instead of a bridge.
func (s Segment) lack() string {
	if s.hosts != nil {
		return s.hosts.String()
	}
	if s.Kind == "bridge" {
		return "bridge, not made yet"
	}
	return strings.TrimPrefix(s.Kind+", no bridge", ", ")
}

// members are the branches of the segment's containers: one for each if they are few, else one
// for each group.
func (w treeWriter) members(s Segment) []branch {
	groups := s.groups()
	if w.All || len(s.Members) <= mostMembers {
		rows := w.rows(s.Members, 2)
		if len(groups) < 2 || len(s.Members) <= someMembers {
			return rows
		}
		return w.grouped(groups)
	}
	if len(groups) < 2 {
		rows := w.rows(s.Members[:someMembers], 2)
		rest := s.Members[someMembers:]
		return append(rows, branch{lines: []string{fmt.Sprintf("… and %d more, ", len(rest)) + summary(rest)}})
	}
	var all []branch
	for i, g := range groups {
		if i == mostGroups {
			var rest []Member
			for _, g := range groups[i:] {
				rest = append(rest, g.Members...)
			}
			all = append(all, branch{lines: []string{fmt.Sprintf("… and %d more groups: %d, ", len(groups)-i, len(rest)) + summary(rest)}})
			break
		}
		all = append(all, branch{lines: []string{w.Paint(Strong, g.Name) + fmt.Sprintf(": %d, ", len(g.Members)) + summary(g.Members)}})
	}
	return all
}

func (w treeWriter) grouped(groups []group) []branch {
	var all []branch
	for _, g := range groups {
		all = append(all, branch{lines: []string{w.Paint(Strong, g.Name)}, children: w.rows(g.Members, 3)})
	}
	return all
}

// shortestName is the length to which names may be cut at least.
const shortestName = 20

// rows are branches of members with columns, and a line for each address and port; without
// columns if there is no room. Long names are cut if the rest then fits.
func (w treeWriter) rows(members []Member, depth int) []branch {
	rows := make([][4][]string, len(members))
	var widths [4]int
	for i, m := range members {
		rows[i] = [4][]string{{w.plugOf(m)}, {w.Paint(Strong, m.Name) + w.stateOf(m) + w.vlansOf(m.PortVLANs)}, texts(m.Addresses), w.ports(m)}
		for column, cell := range rows[i] {
			widths[column] = max(widths[column], longest(cell))
		}
	}
	columns := true
	if room := w.room(depth - 1); room > 0 {
		excess := max(widths[0]+widths[1]+widths[2]+widths[3]+2*3-room, 0)
		columns = widths[1]-excess >= min(shortestName, widths[1])
		if columns {
			widths[1] -= excess
		}
	}
	var all []branch
	for i, m := range members {
		if columns {
			all = append(all, branch{lines: table(rows[i], widths)})
			continue
		}
		b := branch{lines: []string{text.Pad(rows[i][0][0], widths[0], ' ') + "  " + rows[i][1][0]}}
		if words := slices.Concat(texts(m.Addresses), w.ports(m)); len(words) > 0 {
			b.lines = append(b.lines, w.wrap("   ", words, depth-1)...)
		}
		all = append(all, b)
	}
	return all
}

// ports are the member's published ports, or the first of many.
func (w treeWriter) ports(m Member) []string {
	if w.All {
		return m.Published
	}
	return portLabels(m.Published)
}

func longest(lines []string) int {
	n := 0
	for _, line := range lines {
		n = max(n, text.StringWidthWithoutEscSequences(line))
	}
	return n
}

// table is the lines of one row, whose cells may have several.
func table(row [4][]string, widths [4]int) []string {
	var lines []string
	for n := range max(len(row[0]), len(row[1]), len(row[2]), len(row[3])) {
		line := ""
		for column, cell := range row {
			word := ""
			if n < len(cell) {
				word = text.Snip(cell[n], widths[column], "…")
			}
			line += text.Pad(word, widths[column], ' ') + "  "
		}
		lines = append(lines, line)
	}
	return lines
}

// plugOf is the text of both ends of the member's veth.
func (w treeWriter) plugOf(m Member) string {
	if m.HostLink == "" {
		return w.Paint(Faint, "no link") + " ─ " + m.IfName
	}
	return m.HostLink + " ─ " + m.IfName
}

func (w treeWriter) vlansOf(vlans string) string {
	if vlans == "" {
		return ""
	}
	return " " + w.Paint(Faint, vlans)
}

func (w treeWriter) stateOf(m Member) string {
	switch m.State {
	case inventory.Dead:
		return " " + w.Paint(Bad, "dead")
	case inventory.Unknown:
		return " " + w.Paint(Warning, "unknown")
	default:
		return ""
	}
}
