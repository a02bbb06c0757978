package picture

import (
	_ "embed" // for the page's parts
	"fmt"
	"html/template"
	"net/netip"
	"slices"
	"strings"
	"time"
)

var (
	//go:embed page/page.html
	pageHTML string
	//go:embed page/page.css
	pageCSS string
	//go:embed page/page.js
	pageJS string
)

// page is the template's data.
type page struct {
	Title  string
	Remark string
	Time   string
	CSS    template.CSS
	JS     template.JS
	Viewer viewer
	Report *Report // nil for a page with the picture alone
}

// viewer is a picture to move around in, with the details of its nodes.
type viewer struct {
	SVG   template.HTML
	Nodes []node
}

// node has the details of a part of the picture.
type node struct {
	ID    string      `json:"id"`
	Name  string      `json:"name"`
	Kind  string      `json:"kind"`
	Facts [][2]string `json:"facts"`
}

// Page is the topology as a page for a browser: to move around in, to search, and with
// details on a click. It loads nothing, and its Content-Security-Policy forbids it to.
func Page(t Topology, at time.Time) (string, error) {
	return render(page{Title: "Topology", Remark: t.Counts.String(), Time: at.Format(timeLayout), Viewer: newViewer(t)})
}

const timeLayout = "2006-01-02 15:04:05 MST"

func render(p page) (string, error) {
	p.CSS = template.CSS(pageCSS)
	p.JS = template.JS("/*<![CDATA[*/" + pageJS + "/*]]>*/") // the page is also valid XML
	parsed, err := template.New("page").Funcs(template.FuncMap{"lines": func(values any) string { return lines(anyTexts(values)) }}).Parse(pageHTML)
	if err != nil {
		return "", fmt.Errorf("parse the page's template: %w", err)
	}
	var out strings.Builder
	if err := parsed.Execute(&out, p); err != nil {
		return "", fmt.Errorf("fill in the page: %w", err)
	}
	return out.String(), nil
}

func newViewer(t Topology) viewer {
	v := viewer{SVG: template.HTML(t.SVG())}
	for _, i := range slices.Concat(t.Uplinks, t.Others) {
		v.addLink(i, outside(i, t.DefaultRoutes))
	}
	if len(t.Chains) > 0 {
		v.addChains(t)
	}
	if t.Hosts != nil {
		v.addHosts(*t.Hosts)
	}
	for _, s := range t.Segments {
		v.addSegment(s)
		for _, i := range s.Ports {
			v.addLink(i, "on "+s.Name)
		}
		for _, m := range s.Members {
			v.addMember(m, s.Name)
		}
	}
	return v
}

func (v *viewer) add(n node, facts ...[2]string) {
	for _, fact := range facts {
		if fact[1] != "" {
			n.Facts = append(n.Facts, fact)
		}
	}
	v.Nodes = append(v.Nodes, n)
}

// lines puts each value on a line of its own.
func lines(values []string) string { return strings.Join(values, "\n") }

// anyTexts are the values of a slice as strings.
func anyTexts(values any) []string {
	switch v := values.(type) {
	case []string:
		return v
	case []netip.Addr:
		return texts(v)
	case []netip.Prefix:
		return texts(v)
	}
	return nil
}

func linkFacts(i Interface) [][2]string {
	state := "up"
	if !i.Up {
		state = "down"
	}
	var below []string
	for _, one := range i.Below {
		below = append(below, one.brief())
	}
	return [][2]string{
		{"State", state},
		{"Addresses", lines(texts(i.Addresses))},
		{"MAC", i.MAC},
		{"MTU", fmt.Sprint(i.MTU)},
		{"VLANs", i.PortVLANs},
		{"Other end", i.Peer},
		{"On it", lines(below)},
	}
}

func (v *viewer) addLink(i Interface, remark string) {
	v.add(node{ID: linkID(i.Name), Name: i.Name, Kind: i.kind()}, append([][2]string{{"Leads", remark}}, linkFacts(i)...)...)
}

func (v *viewer) addSegment(s Segment) {
	var facts [][2]string
	kind := s.lack()
	if s.Bridge != nil {
		kind, facts = s.Bridge.kind(), linkFacts(*s.Bridge)
	}
	for _, n := range s.Networks {
		facts = append(facts, [2]string{"Network", lines(slices.Concat([]string{n.Name}, n.Badges, texts(n.Pools)))})
	}
	v.add(node{ID: linkID(s.Name), Name: s.Name, Kind: kind}, append(facts, [2]string{"Containers", fmt.Sprint(len(s.Members))})...)
}

func (v *viewer) addHosts(h Hosts) {
	v.add(node{ID: linkID(hostsName), Name: hostsName, Kind: "hosts"},
		[2]string{"State", h.State}, [2]string{"Why", h.Why}, [2]string{"Store", h.Store}, [2]string{"Hosts", h.String()})
	for _, p := range h.Peers {
		mtu := ""
		if p.MTU > 0 {
			mtu = fmt.Sprint(p.MTU)
		}
		v.add(node{ID: Member{Network: hostsName, Container: p.ID, IfName: p.Way}.id(), Name: p.Name, Kind: "host"},
			[2]string{"State", map[bool]string{true: "not in the store; kept"}[p.Missing]},
			[2]string{"Networks", lines(p.Networks)},
			[2]string{"Subnets", lines(texts(p.Subnets))},
			[2]string{"Underlay", lines(texts(p.Underlay))},
			[2]string{"Way", p.Way},
			[2]string{"Device", p.Device},
			[2]string{"MTU", mtu},
			[2]string{"Last seen", p.Ago},
			[2]string{"ID", p.ID},
		)
	}
}

func (v *viewer) addMember(m Member, segment string) {
	v.add(node{ID: m.id(), Name: m.Name, Kind: "container"},
		[2]string{"State", string(m.State)},
		[2]string{"Network", m.Network},
		[2]string{"On", segment},
		[2]string{"Interface", m.IfName},
		[2]string{"Addresses", lines(texts(m.Addresses))},
		[2]string{"Ports", lines(m.Published)},
		[2]string{"MAC", m.MAC},
		[2]string{"Host veth", m.HostLink},
		[2]string{"VLANs", m.PortVLANs},
		[2]string{"Namespace", m.NetNS},
		[2]string{"ID", m.Container},
		[2]string{"Also", lines(m.Also)},
	)
}
