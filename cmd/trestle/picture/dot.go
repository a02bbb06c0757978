package picture

import (
	"fmt"
	"strings"
)

// DOT is the topology as a graph for Graphviz (dot(1)).
func (t Topology) DOT() string {
	g := &graph{}
	g.line("graph host {")
	g.line("rankdir=LR;")
	g.line(`node [shape=box style="rounded,filled" fillcolor="#f5f7f9" color="#9aa7b4" fontname="sans-serif" fontsize=11];`)
	g.line(`edge [color="#9aa7b4" fontname="sans-serif" fontsize=9];`)
	g.node("host", "", "host", t.Counts.String())
	if len(t.DefaultRoutes) > 0 {
		g.node("outside", "fillcolor=\"#e3eef5\"", "outside")
	}
	for _, i := range t.Uplinks {
		g.link(i)
		g.edge(linkID(i.Name), "host", "")
		if out := outside(i, t.DefaultRoutes); out != "" {
			g.edge("outside", linkID(i.Name), strings.TrimPrefix(out, "outside "))
		}
	}
	for n, s := range t.drawn() {
		g.segment(n, s)
	}
	for _, i := range t.Others {
		g.link(i)
		g.edge("host", linkID(i.Name), "")
	}
	if len(t.Chains) > 0 {
		g.chains(t.hooks())
	}
	g.line("}")
	return g.out.String()
}

type graph struct{ out strings.Builder }

func (g *graph) line(text string) { g.out.WriteString(text + "\n") }

// quoted is a string of DOT. In it \n ends a line, and only quotes and backslashes are escaped.
func quoted(lines ...string) string {
	for i, line := range lines {
		line = strings.ReplaceAll(line, `\`, `\\`)
		lines[i] = strings.ReplaceAll(strings.ReplaceAll(line, `"`, `\"`), "\n", " ")
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}

func (g *graph) node(id, attributes string, lines ...string) {
	g.line(fmt.Sprintf("%s [label=%s %s];", quoted(id), quoted(lines...), attributes))
}

func (g *graph) edge(from, to, label string) {
	if label != "" {
		label = " [label=" + quoted(label) + "]"
	}
	g.line(fmt.Sprintf("%s -- %s%s;", quoted(from), quoted(to), label))
}

func (g *graph) link(i Interface) {
	g.node(linkID(i.Name), downStyle(i.Up), append([]string{i.Name, i.kind()}, texts(i.Addresses)...)...)
	for _, below := range i.Below {
		g.link(below)
		g.edge(linkID(i.Name), linkID(below.Name), "")
	}
}

func downStyle(up bool) string {
	if up {
		return ""
	}
	return `style="rounded,filled,dashed"`
}

// chains are the rules that packets come to, hook by hook.
func (g *graph) chains(hooks []hooked) {
	lines := []string{chainsName}
	for _, h := range hooks {
		for _, text := range texts(h.chains) {
			lines = append(lines, h.hook+": "+text)
		}
	}
	g.node(linkID(chainsName), "", lines...)
	g.edge("host", linkID(chainsName), "")
}

func (g *graph) segment(n int, s Segment) {
	g.line(fmt.Sprintf("subgraph cluster_%d {", n))
	g.line(`style="rounded"; color="#d5dbe1"; label=` + quoted(s.Name) + ";")
	id := linkID(s.Name)
	lines := []string{s.Name}
	if s.Bridge != nil {
		lines = append(lines, texts(s.Bridge.Addresses)...)
	} else {
		lines = append(lines, s.lack())
	}
	for _, network := range s.Networks {
		lines = append(lines, strings.Join(append([]string{"network " + network.Name}, network.Badges...), ", "))
		lines = append(lines, texts(network.Pools)...)
	}
	g.node(id, `fillcolor="#e3eef5"`, lines...)
	for _, port := range s.Ports {
		g.link(port)
		g.edge(id, linkID(port.Name), "")
	}
	for _, m := range s.Members {
		words := append([]string{m.Name, m.IfName + " " + string(m.State)}, m.lines()...)
		g.node(m.id(), downStyle(m.HostLink != ""), append(words, m.Published...)...)
		if m.HostLink != "" {
			g.edge(id, m.id(), m.HostLink)
		}
	}
	g.line("}")
	g.edge("host", id, "")
}
