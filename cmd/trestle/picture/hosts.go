package picture

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// Hosts are the other hosts of networks over several hosts, and this host's own state.
type Hosts struct {
	// State is this host's state, as trestle-node reports it, and Why its reason.
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
	// Running says that trestle-node runs. Store names the store of the cluster.
	Running bool   `json:"running"`
	Store   string `json:"store,omitempty"`
	Peers   []Peer `json:"peers"`
}

// Peer is another host.
type Peer struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Networks []string `json:"networks"`
	// Subnets are the subnets of its containers.
	Subnets  []netip.Prefix `json:"subnets"`
	Underlay []netip.Prefix `json:"underlay"`
	Way      string         `json:"way"` // "direct", "vxlan" …; "none"
	Device   string         `json:"device,omitempty"`
	MTU      int            `json:"mtu,omitempty"`
	// Seen is when it last gave a sign of life, and Ago the same for people; "" if unknown.
	Seen    time.Time `json:"seen,omitzero"`
	Ago     string    `json:"ago,omitempty"`
	Missing bool      `json:"missing,omitempty"`
}

// hosts are the other hosts with a subnet in the networks that are drawn.
func (d *drafting) hosts() {
	node := d.snapshot.Node
	if node == nil {
		return
	}
	h := Hosts{State: node.State, Why: node.Why, Running: node.Running, Store: node.Store.Name, Peers: []Peer{}}
	if h.Store != "" && !node.Store.Connected {
		h.Store += ", not connected"
	}
	for _, p := range node.Peers {
		drawn := Peer{
			ID: p.ID, Name: p.Name, Underlay: p.Underlay, Way: node.WayTo(p), Device: node.Device(p), MTU: p.MTU, Missing: p.Missing,
			Seen: p.Seen,
		}
		if !p.Seen.IsZero() {
			drawn.Ago = ago(d.snapshot.Time.Sub(p.Seen))
		}
		for _, s := range p.Subnets {
			drawn.Subnets = append(drawn.Subnets, s.Subnet)
			if !slices.Contains(drawn.Networks, s.Network) {
				drawn.Networks = append(drawn.Networks, s.Network)
			}
		}
		if len(d.only) == 0 || slices.ContainsFunc(drawn.Networks, d.wants) {
			h.Peers = append(h.Peers, drawn)
		}
	}
	d.topology.Hosts = &h
}

// String is a line like "3, by vxlan".
func (h Hosts) String() string {
	ways := map[string]int{}
	var names []string
	for _, p := range h.Peers {
		if ways[p.Way]++; ways[p.Way] == 1 {
			names = append(names, p.Way)
		}
	}
	slices.Sort(names)
	words := []string{fmt.Sprintf("%d", len(h.Peers))}
	for _, name := range names {
		count := ""
		if len(names) > 1 {
			count = fmt.Sprintf("%d ", ways[name])
		}
		words = append(words, count+"by "+name)
	}
	text := strings.Replace(strings.Join(words, ", "), "by none", "not reached", 1)
	if h.State != "ready" {
		text += "; this host is " + h.State
	}
	if !h.Running {
		text += "; trestle-node does not run"
	}
	return text
}

// state is the peer's state as that of a container, for its colour: one that is not reached has
// the colour of the dead.
func (p Peer) state() inventory.State {
	switch {
	case p.Device == "":
		return inventory.Dead
	case p.Missing:
		return inventory.Unknown
	}
	return inventory.Alive
}

// ago is a time span for people: "12s ago", "3m ago", "5h ago".
func ago(span time.Duration) string {
	switch {
	case span >= 2*time.Hour:
		return fmt.Sprintf("%dh ago", span/time.Hour)
	case span >= 2*time.Minute:
		return fmt.Sprintf("%dm ago", span/time.Minute)
	}
	return fmt.Sprintf("%ds ago", max(span, 0)/time.Second)
}

// facts are the peer's details besides its addresses, a line each.
func (p Peer) facts() []string {
	words := []string{p.Way}
	if p.Device == "" {
		words[0] = "not reached"
	}
	if p.MTU > 0 {
		words = append(words, fmt.Sprintf("MTU %d", p.MTU))
	}
	lines := []string{strings.Join(words, ", ")}
	if p.Missing {
		lines = append(lines, "not in the store")
	}
	if p.Ago != "" {
		lines = append(lines, "seen "+p.Ago)
	}
	return lines
}

// hostsName is the name of the panel of other hosts.
const hostsName = "other hosts"

// drawn are the segments, and one more whose members are the other hosts, if there are any.
func (t Topology) drawn() []Segment {
	if t.Hosts == nil || len(t.Hosts.Peers) == 0 {
		return t.Segments
	}
	s := Segment{Name: hostsName, hosts: t.Hosts}
	for _, p := range t.Hosts.Peers {
		m := Member{
			Name: p.Name, Network: hostsName, Container: p.ID, IfName: p.Way, State: p.state(), HostLink: p.Device,
			lesser: append(texts(p.Underlay), p.facts()...),
		}
		for _, subnet := range p.Subnets {
			m.Addresses = append(m.Addresses, subnet.Addr())
			m.prefixes = append(m.prefixes, subnet)
		}
		s.Members = append(s.Members, m)
	}
	return append(slices.Clone(t.Segments), s)
}

// hosts is the tree's branch of the other hosts.
func (w treeWriter) hosts(h Hosts) branch {
	b := branch{lines: []string{w.Paint(Strong, hostsName) + "  " + h.String()}}
	if h.Why != "" {
		b.lines = append(b.lines, w.Paint(Warning, h.Why))
	}
	shown := h.Peers
	if !w.All && len(shown) > mostMembers {
		shown = shown[:someMembers]
	}
	var rows [][4][]string
	var widths [4]int
	for _, p := range shown {
		row := [4][]string{{p.plug()}, {w.Paint(Strong, p.Name) + w.remark(p)}, texts(p.Subnets), append(texts(p.Underlay), p.facts()...)}
		for column, cell := range row {
			widths[column] = max(widths[column], longest(cell))
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		b.add(branch{lines: table(row, widths)})
	}
	if more := len(h.Peers) - len(shown); more > 0 {
		b.add(branch{lines: []string{fmt.Sprintf("… and %d more; trestle ls --hosts lists all", more)}})
	}
	return b
}

// plug names the device by which the peer is reached.
func (p Peer) plug() string { return cmp.Or(p.Device, "no way") }

// remark is what is wrong with the peer.
func (w treeWriter) remark(p Peer) string {
	switch {
	case p.Device == "":
		return " " + w.Paint(Bad, "not reached")
	case p.Missing:
		return " " + w.Paint(Warning, "missing")
	}
	return ""
}
