package picture

// chainsName is the name of the node with all chains.
const chainsName = "chains"

// hookW is the room for a hook's name, "postrouting of frames".
const hookW = 176.0

type hooked struct {
	hook   string
	chains []Chain
}

// hooks are the chains by hook, in the order in which packets pass them.
func (t Topology) hooks() []hooked {
	var all []hooked
	for _, c := range t.Chains {
		if len(all) == 0 || all[len(all)-1].hook != c.Hook {
			all = append(all, hooked{hook: c.Hook})
		}
		last := &all[len(all)-1]
		last.chains = append(last.chains, c)
	}
	return all
}

// rows are the chains' texts, as many in a row as fit the width.
func (h hooked) rows(width float64) []string {
	var rows []string
	for _, text := range texts(h.chains) {
		if n := len(rows); n > 0 {
			if longer := rows[n-1] + ", " + text; sansWidth(longer, textPx) <= width {
				rows[n-1] = longer
				continue
			}
		}
		rows = append(rows, text)
	}
	return rows
}

// chains draws the panel of chains, hook by hook.
func (s *sketch) chains(left float64) {
	hooks, width := s.topology.hooks(), s.width-2*padding-hookW
	lines := 0
	for _, h := range hooks {
		lines += len(h.rows(width))
	}
	r := rect{left, s.y, s.width, 2*padding + 12 + float64(lines)*lineH}
	s.node(linkID(chainsName))
	s.box("panel", r, 10)
	s.text("name", point{r.x + padding, r.y + padding + 8}, chainsName)
	y := r.y + padding + 22 + lineH/2
	for _, h := range hooks {
		s.text("faint", point{r.x + padding, y}, fitSans(h.hook, hookW-gap, textPx))
		for _, row := range h.rows(width) {
			s.text("", point{r.x + padding + hookW, y}, fitSans(row, width, textPx))
			y += lineH
		}
	}
	s.close("g")
	s.y += r.h + gap
}

// addChains adds the node with the chains at each hook.
func (v *viewer) addChains(t Topology) {
	var facts [][2]string
	for _, h := range t.hooks() {
		facts = append(facts, [2]string{h.hook, lines(texts(h.chains))})
	}
	v.add(node{ID: linkID(chainsName), Name: chainsName, Kind: "nftables, iptables"}, facts...)
}
