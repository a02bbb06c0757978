// Package picture draws the host: as a tree for the terminal, as SVG, as a graph for
// Graphviz, and as a page for a browser. It draws what the inventory has found and reads
// nothing from the host itself, so that the same snapshot always gives the same picture.
//
// NewTopology collects what is drawn; tree.go, svg_topology.go, dot.go and page.go draw it.
// NewPoolMaps does the same for address pools, drawn by pool_text.go and svg_pool.go.
package picture

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// Topology is the host as it is drawn: uplinks, and bridges with their ports and containers.
type Topology struct {
	Counts Counts `json:"counts"`
	// DefaultRoutes lead outside.
	DefaultRoutes []DefaultRoute `json:"defaultRoutes"`
	Uplinks       []Interface    `json:"uplinks"`
	Segments      []Segment      `json:"segments"`
	// Others are links that are neither uplinks nor on a bridge.
	Others []Interface `json:"others"`
	// Hosts are the other hosts; nil without a network over several hosts.
	Hosts *Hosts `json:"hosts,omitempty"`
	// Chains are the base chains of nftables and iptables, in the order in which packets pass
	// them. The caller adds them, since the inventory does not have them.
	Chains []Chain `json:"chains,omitempty"`
}

// Chain is a base chain.
type Chain struct {
	Hook    string `json:"hook"` // "forward"; "forward of frames" for bridged frames
	Table   string `json:"table"`
	Name    string `json:"name"`
	Program string `json:"program"` // the program that lists it: "nft", "iptables" …
	// Drops says that its policy is drop.
	Drops bool `json:"drops,omitempty"`
}

// String is a text like "FORWARD of ip filter (iptables, drops what no rule accepts)".
func (c Chain) String() string {
	var remarks []string
	if c.Program != "nft" {
		remarks = append(remarks, c.Program)
	}
	if c.Drops {
		remarks = append(remarks, "drops what no rule accepts")
	}
	if len(remarks) == 0 {
		return c.Name + " of " + c.Table
	}
	return c.Name + " of " + c.Table + " (" + strings.Join(remarks, ", ") + ")"
}

// Counts sums the topology up.
type Counts struct {
	Networks   int `json:"networks"`
	Containers int `json:"containers"`
	Dead       int `json:"dead"`
	Ports      int `json:"ports"` // published ports of the host, of both families one
}

// String is a line for people.
func (c Counts) String() string {
	text := fmt.Sprintf("%s, %s", plural(c.Networks, "network"), plural(c.Containers, "container"))
	if c.Dead > 0 {
		text += fmt.Sprintf(" (%d dead)", c.Dead)
	}
	if c.Ports > 0 {
		text += ", " + plural(c.Ports, "published port")
	}
	return text
}

// DefaultRoute is a default route.
type DefaultRoute struct {
	Via  netip.Addr `json:"via,omitzero"`
	Link string     `json:"link"`
}

// Interface is a link of the host.
type Interface struct {
	Name      string         `json:"name"`
	Kind      string         `json:"kind"`
	Up        bool           `json:"up"`
	MTU       int            `json:"mtu"`
	MAC       string         `json:"mac,omitempty"`
	VLAN      int            `json:"vlan,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Peer is a veth's other end: its name, or its index and its namespace's name or id
	// (link-netnsid), which is all that is visible from outside.
	Peer string `json:"peer,omitempty"`
	// PortVLANs are its VLANs as a port of a bridge that filters VLANs.
	PortVLANs string `json:"portVLANs,omitempty"`
	// Below are the VLANs on the link, or the members of a bond; they are drawn below it.
	Below []Interface `json:"below,omitempty"`
}

// Segment is a bridge with its networks, ports and containers, or a network without a bridge.
type Segment struct {
	// Name is the bridge's name, or that of a network without a bridge.
	Name string `json:"name"`
	// Kind is "bridge" or the network's driver; "" if unknown.
	Kind string `json:"kind"`
	// Bridge is nil if the driver makes none, or has not made it yet.
	Bridge        *Interface `json:"bridge,omitempty"`
	VLANFiltering bool       `json:"vlanFiltering,omitempty"`
	Networks      []Network  `json:"networks"`
	// Ports are links on the bridge that do not belong to attachments.
	Ports   []Interface `json:"ports,omitempty"`
	Members []Member    `json:"members"`
	// hosts is set if the members stand for other hosts.
	hosts *Hosts
}

// Network is a network as it is drawn.
type Network struct {
	Name string `json:"name"`
	// Badges are its properties, each a word or two ("masquerade", "internal").
	Badges []string `json:"badges,omitempty"`
	Pools  []Use    `json:"pools,omitempty"`
}

// Use is the use of a pool.
type Use struct {
	Subnet netip.Prefix `json:"subnet"`
	Used   uint64       `json:"used"`
	Size   uint64       `json:"size"`
	// Unread says that Used is not known, since the leases could not be read.
	Unread bool `json:"unread,omitempty"`
}

// String is a text like "3 of 253 in 10.1.0.0/24".
func (u Use) String() string {
	if u.Unread {
		return fmt.Sprintf("? of %s in %s", amount(u.Size), u.Subnet)
	}
	return fmt.Sprintf("%d of %s in %s", u.Used, amount(u.Size), u.Subnet)
}

// Member is an attachment.
type Member struct {
	Name      string          `json:"name"` // the container's name for people
	Network   string          `json:"network"`
	Container string          `json:"container"`
	IfName    string          `json:"ifname"`
	Pod       string          `json:"pod,omitempty"`
	NetNS     string          `json:"netns,omitempty"`
	State     inventory.State `json:"state"`
	HostLink  string          `json:"hostLink,omitempty"`
	// PortVLANs are the host veth's.
	PortVLANs string       `json:"portVLANs,omitempty"`
	MAC       string       `json:"mac,omitempty"`
	Addresses []netip.Addr `json:"addresses"`
	// Published are its published ports ("8080→80/tcp").
	Published []string `json:"published,omitempty"`
	ports     int      // how many these are: a line may be of a range
	// Also are other attachments of the same container ("eth1 on db").
	Also []string `json:"also,omitempty"`
	// prefixes are drawn instead of the addresses, if there are any. lesser lines follow.
	prefixes []netip.Prefix
	lesser   []string
}

// NewTopology collects what is drawn of the named networks, or of all. Links that belong to no
// network are included only if none is named.
func NewTopology(s *inventory.Snapshot, networks ...string) Topology {
	d := drafting{snapshot: s, only: networks, places: map[string]int{}, hostLinks: map[string]bool{}}
	d.links()
	d.segments()
	d.plug()
	d.hosts()
	t := d.topology
	for i := range t.Segments {
		slices.SortStableFunc(t.Segments[i].Members, compareMembers)
	}
	slices.SortStableFunc(t.Segments, func(x, y Segment) int {
		return cmp.Or(cmp.Compare(x.rank(), y.rank()), cmp.Compare(x.Name, y.Name))
	})
	t.Counts = d.count()
	t.DefaultRoutes, t.Uplinks, t.Segments, t.Others = list(t.DefaultRoutes), list(t.Uplinks), list(t.Segments), list(t.Others)
	for i := range t.Segments {
		t.Segments[i].Networks, t.Segments[i].Members = list(t.Segments[i].Networks), list(t.Segments[i].Members)
	}
	return t
}

// rank sorts bridges of networks first, and segments without a network last.
func (s Segment) rank() int {
	switch {
	case s.Bridge != nil && len(s.Networks) > 0:
		return 0
	case len(s.Networks) > 0:
		return 1
	}
	return 2
}

func compareMembers(x, y Member) int {
	return cmp.Or(cmp.Compare(x.Network, y.Network), slices.CompareFunc(x.Addresses, y.Addresses, netip.Addr.Compare),
		cmp.Compare(x.Name, y.Name), cmp.Compare(x.IfName, y.IfName))
}

// drafting is a topology under construction.
type drafting struct {
	snapshot  *inventory.Snapshot
	only      []string
	topology  Topology
	places    map[string]int  // the index of each segment, by its bridge's name, or "/" and its network's
	hostLinks map[string]bool // the attachments' host veths
	uplinks   map[string]bool
	names     map[int]string // of the host's links
	below     map[string][]Interface
}

func (d *drafting) wants(network string) bool {
	return len(d.only) == 0 || slices.Contains(d.only, network)
}

// links finds uplinks, and which link is drawn below which.
func (d *drafting) links() {
	s := d.snapshot
	for _, a := range s.Attachments {
		if a.Evidence.Link {
			d.hostLinks[a.HostLink] = true
		}
	}
	d.names, d.uplinks, d.below = map[int]string{}, map[string]bool{}, map[string][]Interface{}
	for _, l := range s.Links {
		d.names[l.Index] = l.Name
	}
	for _, r := range s.Routes {
		if r.To.Bits() == 0 && r.Link != "" {
			d.uplinks[r.Link] = true
			d.topology.DefaultRoutes = append(d.topology.DefaultRoutes, DefaultRoute{r.Gateway, r.Link})
		}
	}
	for _, l := range s.Links {
		if on := d.under(l); on != "" {
			d.below[on] = append(d.below[on], d.drawn(l))
		}
	}
}

// under is the link below which l is drawn: a VLAN's parent, or the bond of its member. It is ""
// for any other link.
func (d *drafting) under(l inventory.Link) string {
	if l.Kind == "vlan" && l.PeerNetNS < 0 {
		return d.names[l.Peer]
	}
	if master, ok := d.snapshot.LinkOf(l.Master); ok && master.Kind != "bridge" {
		return master.Name
	}
	return ""
}

// drawn is the link without those below it.
func (d *drafting) drawn(l inventory.Link) Interface {
	i := Interface{
		Name: l.Name, Kind: l.Kind, MTU: l.MTU, MAC: l.MAC, VLAN: l.VLAN, Addresses: global(l.Addresses), PortVLANs: vlansOf(l),
		Up: l.Up && l.Operational != "down" && l.Operational != "lowerlayerdown",
	}
	switch {
	case l.Kind != "veth" || l.Peer == 0:
	case l.PeerNetNS < 0:
		i.Peer = d.names[l.Peer]
	case l.PeerNetNSName != "":
		i.Peer = fmt.Sprintf("index %d in %s", l.Peer, l.PeerNetNSName)
	default:
		i.Peer = fmt.Sprintf("index %d in namespace %d", l.Peer, l.PeerNetNS)
	}
	return i
}

// vlansOf is a port's VLANs as text; "" for the kernel's default, VLAN 1 untagged.
func vlansOf(l inventory.Link) string {
	if len(l.PortVLANs) == 1 && l.PortVLANs[0] == (inventory.PortVLANs{First: 1, Last: 1, Untagged: true}) {
		return ""
	}
	var own, tagged []string
	for _, v := range l.PortVLANs {
		text := strconv.Itoa(int(v.First))
		if v.Last > v.First {
			text += "-" + strconv.Itoa(int(v.Last))
		}
		if v.Untagged {
			own = append(own, "VLAN "+text)
		} else {
			tagged = append(tagged, text)
		}
	}
	if len(tagged) > 0 {
		own = append(own, "tagged "+strings.Join(tagged, ", "))
	}
	return strings.Join(own, ", ")
}

// global leaves out link-local addresses, which each interface has.
func global(addresses []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	for _, a := range addresses {
		if !a.Addr().IsLinkLocalUnicast() {
			kept = append(kept, a)
		}
	}
	return kept
}

// withBelow is the link with those below it.
func (d *drafting) withBelow(l inventory.Link) Interface {
	i := d.drawn(l)
	i.Below = d.below[l.Name]
	for n := range i.Below {
		i.Below[n].Below = d.below[i.Below[n].Name] // a VLAN on a VLAN, or on a bond
	}
	return i
}

// segments makes a segment for each bridge, and for each network without a bridge.
func (d *drafting) segments() {
	for _, l := range d.snapshot.Links {
		if l.Kind == "bridge" && (len(d.only) == 0 || d.isWanted(l.Name)) {
			bridge := d.withBelow(l)
			d.places[l.Name] = len(d.topology.Segments)
			d.topology.Segments = append(d.topology.Segments, Segment{
				Name:          l.Name,
				Kind:          l.Kind,
				Bridge:        &bridge,
				VLANFiltering: l.VLANFiltering,
			})
		}
	}
	for _, n := range d.snapshot.Networks {
		if d.wants(n.Name) {
			s := d.segmentOf(n)
			s.Networks = append(s.Networks, networkOf(n))
		}
	}
}

// isWanted says whether a network that is drawn has this bridge, or an attachment on it.
func (d *drafting) isWanted(bridge string) bool {
	return slices.ContainsFunc(d.snapshot.Networks, func(n inventory.Network) bool { return n.Bridge == bridge && d.wants(n.Name) }) ||
		slices.ContainsFunc(d.snapshot.Attachments, func(a inventory.Attachment) bool { return a.Bridge == bridge && d.wants(a.Network) })
}

// segmentOf is the segment of the network's bridge, or of the network itself, added if it is
// new. The bridge of a network without a list is that of its attachments.
func (d *drafting) segmentOf(n inventory.Network) *Segment {
	bridge := n.Bridge
	if bridge == "" {
		i := slices.IndexFunc(d.snapshot.Attachments, func(a inventory.Attachment) bool { return a.Network == n.Name && a.Bridge != "" })
		if i >= 0 {
			bridge = d.snapshot.Attachments[i].Bridge
		}
	}
	place, ok := d.places[bridge]
	if !ok || bridge == "" {
		place = len(d.topology.Segments)
		s := Segment{Name: n.Name, Kind: n.Driver}
		if bridge != "" {
			s.Name = bridge
			d.places[bridge] = place
		}
		d.topology.Segments = append(d.topology.Segments, s)
	}
	d.places["/"+n.Name] = place
	return &d.topology.Segments[place]
}

func networkOf(n inventory.Network) Network {
	drawn := Network{Name: n.Name}
	badge := func(holds bool, text string) {
		if holds && text != "" {
			drawn.Badges = append(drawn.Badges, text)
		}
	}
	badge(n.Internal, "internal")
	badge(n.Masquerade, "masquerade")
	badge(true, n.IngressPolicy)
	badge(n.File != "" && n.Driver != "bridge", n.Driver)
	badge(n.File == "", "no list")
	for _, p := range n.Pools {
		drawn.Pools = append(drawn.Pools, Use{p.Subnet, p.Used, p.Size, p.Unread})
	}
	return drawn
}

// plug assigns attachments and links to segments.
func (d *drafting) plug() {
	on := map[string][]string{} // each container's attachments, like "eth0 on web"
	for _, a := range d.snapshot.Attachments {
		on[a.Container] = append(on[a.Container], a.IfName+" on "+a.Network)
	}
	for _, a := range d.snapshot.Attachments {
		place, ok := d.places[a.Bridge]
		if !ok || a.Bridge == "" {
			place, ok = d.places["/"+a.Network]
		}
		if !ok || !d.wants(a.Network) {
			continue
		}
		m := memberOf(a)
		if l, ok := d.snapshot.LinkOf(m.HostLink); ok && m.HostLink != "" {
			m.PortVLANs = vlansOf(*l)
		}
		m.Also = slices.DeleteFunc(slices.Clone(on[a.Container]), func(one string) bool { return one == a.IfName+" on "+a.Network })
		s := &d.topology.Segments[place]
		s.Members = append(s.Members, m)
	}
	for _, l := range d.snapshot.Links {
		d.plugLink(l)
	}
}

// plugLink assigns a link, unless it is an attachment's host veth or a bridge.
func (d *drafting) plugLink(l inventory.Link) {
	place, onBridge := d.places[l.Master]
	switch {
	case d.hostLinks[l.Name] || l.Kind == "bridge" || d.under(l) != "" && !d.uplinks[l.Name]:
	case onBridge && l.Master != "":
		d.topology.Segments[place].Ports = append(d.topology.Segments[place].Ports, d.withBelow(l))
	case d.uplinks[l.Name] || l.Kind == "device" && l.Name != loopback || l.Kind == "bond":
		d.topology.Uplinks = append(d.topology.Uplinks, d.withBelow(l))
	case len(d.only) == 0 && l.Master == "" && (l.Name != loopback || len(l.Addresses) > 2):
		d.topology.Others = append(d.topology.Others, d.withBelow(l))
	}
}

// loopback is only drawn if it has more than its two usual addresses.
const loopback = "lo"

func memberOf(a inventory.Attachment) Member {
	m := Member{
		Name: a.Called(), Network: a.Network, Container: a.Container, IfName: a.IfName, Pod: a.Pod, NetNS: a.NetNS,
		State: a.State, MAC: a.MAC, Addresses: a.Addresses,
	}
	if a.Evidence.Link {
		m.HostLink = a.HostLink
	}
	for _, p := range a.Published() {
		m.ports += int(p.Count)
		m.Published = append(m.Published, strings.Replace(p.String(), "->", "→", 1))
	}
	return m
}

func (d *drafting) count() Counts {
	var c Counts
	containers, dead := map[string]bool{}, map[string]bool{}
	for _, s := range d.topology.Segments {
		c.Networks += len(s.Networks)
		for _, m := range s.Members {
			c.Ports += m.ports
			containers[m.Container] = true
			if m.State == inventory.Dead {
				dead[m.Container] = true
			}
		}
	}
	c.Containers, c.Dead = len(containers), len(dead)
	return c
}
