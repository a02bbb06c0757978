package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// mesh is what can be told about all hosts from the store alone, without sending a packet.
type mesh struct {
	Hosts []meshHost `json:"hosts"`
	// Ways counts the ordered pairs of hosts by how the first reaches the second.
	Ways map[string]int `json:"ways"`
	// Problems keep hosts from reaching each other, or will; Notes are worth a look.
	Problems []finding `json:"problems"`
	Notes    []finding `json:"notes"`
}

type meshHost struct {
	listedNode
	// LastSeen is when this host's agent last saw the other's sign of life.
	LastSeen time.Time `json:"lastSeen,omitzero"`
}

// finding is one problem or note, and the way out.
type finding struct {
	Hosts  []string `json:"hosts,omitempty"`
	What   string   `json:"what"`
	WayOut string   `json:"wayOut,omitempty"`
}

func (f finding) String() string {
	text := f.What
	if len(f.Hosts) > 0 {
		text = strings.Join(f.Hosts, ", ") + ": " + text
	}
	if f.WayOut != "" {
		text += "; " + f.WayOut
	}
	return text
}

// readMesh reads what surveyMesh examines.
func readMesh(ctx context.Context, flags *storeFlags) (cluster.View, error) {
	st, err := flags.open()
	if err != nil {
		return cluster.View{}, err
	}
	defer func() { _ = st.Close() }() // only read from
	return st.Get(ctx, cluster.KeyConfig, cluster.KeyFrozen, cluster.PrefixClaims, cluster.PrefixNodes, cluster.PrefixAlive)
}

// survey finds the problems in a view, one kind after the other.
type survey struct {
	mesh
	view   cluster.View
	config cluster.Config
	nodes  []cluster.Node // the readable ones, sorted by name
	now    time.Time
}

// surveyMesh finds the problems in a view. seen is when each host was last seen, by its id, as
// far as this host knows.
func surveyMesh(view cluster.View, seen map[string]time.Time, now time.Time) mesh {
	s := &survey{view: view, now: now, mesh: mesh{Hosts: []meshHost{}, Ways: map[string]int{}, Problems: []finding{}, Notes: []finding{}}}
	listing := cluster.NewListing(view)
	for _, n := range listNodes(view) {
		s.Hosts = append(s.Hosts, meshHost{n, seen[n.ID]})
		if n.Error == "" {
			s.nodes = append(s.nodes, listing.Nodes[n.ID])
		}
	}
	var err error
	if value, ok := view.Keys[cluster.KeyConfig]; !ok {
		err = fmt.Errorf("%w; trestle cluster init makes one, and trestle cluster restore makes a lost one again", cluster.ErrNoConfig)
	} else {
		s.config, err = cluster.ParseConfig(value.Data)
	}
	if err != nil {
		s.problem(finding{What: err.Error()})
	}
	s.signsOfLife()
	s.subnets()
	s.duplicates()
	s.differences()
	s.clocks()
	if err == nil {
		s.pools()
		s.pairs()
	}
	return s.mesh
}

func (s *survey) problem(f finding) { s.Problems = append(s.Problems, f) }
func (s *survey) note(f finding)    { s.Notes = append(s.Notes, f) }

// signsOfLife finds hosts that are down, and records that cannot be read.
func (s *survey) signsOfLife() {
	for _, h := range s.Hosts {
		if h.Error != "" {
			s.problem(finding{[]string{h.ID}, "its record cannot be read: " + h.Error, "others keep what they had of it; restart its trestle-node, which writes it again"})
		}
		if h.Up {
			continue
		}
		what := "down, or cut off from the store"
		if !h.LastSeen.IsZero() {
			what += ", since " + h.LastSeen.UTC().Format(time.RFC3339) + " at the earliest"
		}
		name := cmp.Or(h.Name, h.ID)
		s.problem(finding{[]string{name}, what, "its subnets stay its own; if it is not coming back: trestle cluster release --node-is-dead " + name})
	}
}

// holding is a subnet and the host whose record has it.
type holding struct {
	cluster.Owned
	node cluster.Node
}

// subnets finds subnets that two hosts' records have, and claims that no record has.
func (s *survey) subnets() {
	var all []holding
	for _, n := range s.nodes {
		for _, o := range n.Subnets {
			all = append(all, holding{o, n})
		}
	}
	slices.SortFunc(all, func(a, b holding) int {
		return cmp.Or(a.Subnet.Addr().Compare(b.Subnet.Addr()), cmp.Compare(a.Subnet.Bits(), b.Subnet.Bits()))
	})
	var widest holding // the last one that no other contains: of two prefixes that overlap one contains the other
	for _, h := range all {
		if widest.Subnet.IsValid() && widest.Subnet.Overlaps(h.Subnet) {
			s.problem(finding{
				[]string{widest.node.Name, h.node.Name},
				fmt.Sprintf("both say that they have %s (%s)", h.Subnet, widest.Subnet),
				"trestle cluster subnets says whose it is; the other one's trestle-node gives it up when it reaches the store",
			})
			continue
		}
		widest = h
	}
	s.claims(all)
}

func (s *survey) claims(all []holding) {
	said := map[cluster.Owned]bool{}
	for _, h := range all {
		said[cluster.Owned{Network: h.Network, Subnet: h.Subnet, Nonce: h.node.ID}] = true
	}
	for _, c := range cluster.Holders(s.view) {
		o := cluster.Owned{Network: c.Network, Subnet: c.Subnet, Nonce: c.Node}
		if c.Node != "" && !said[o] && !slices.ContainsFunc(s.Hosts, func(h meshHost) bool { return h.ID == c.Node && h.Error != "" }) {
			s.problem(finding{
				[]string{s.nameOf(c.Node)},
				fmt.Sprintf("it has claimed %s of %s, and its record does not say so: no host has a route to it", c.Subnet, c.Network),
				"its trestle-node publishes it within a heartbeat; if the host is gone: trestle cluster release --node-is-dead " + s.nameOf(c.Node),
			})
		}
	}
}

func (s *survey) nameOf(id string) string {
	for _, n := range s.nodes {
		if n.ID == id {
			return n.Name
		}
	}
	return id
}

// duplicates finds names, keys, MACs and addresses that two hosts have.
func (s *survey) duplicates() {
	for _, kind := range []struct {
		what, wayOut string
		of           func(cluster.Node) []string
	}{
		{"name", `give one of them another ("name" in node.json)`, func(n cluster.Node) []string { return []string{n.Name} }},
		{"WireGuard key", cluster.WayOutOfOneKey, func(n cluster.Node) []string { return []string{n.WGKey} }},
		{"MAC", "a MAC is made from a host's id; trestle node reset-id on the one whose disk is the copy", func(n cluster.Node) []string { return []string{n.MAC} }},
		{"address", `one of them has another address now and has not published it, or two hosts have the same address ("address" or "interface" in node.json)`, func(n cluster.Node) (all []string) {
			for _, p := range n.Underlay {
				all = append(all, p.Addr().String())
			}
			return all
		}},
	} {
		who := map[string][]string{}
		for _, n := range s.nodes {
			if kind.what == "address" && n.NAT {
				continue // private addresses, behind different routers
			}
			for _, value := range kind.of(n) {
				who[value] = append(who[value], n.Name)
			}
		}
		for _, value := range slices.Sorted(maps.Keys(who)) {
			if names := who[value]; value != "" && len(names) > 1 {
				s.problem(finding{names, fmt.Sprintf("they have the same %s, %s", kind.what, value), kind.wayOut})
			}
		}
	}
}

// differences finds releases and MTUs that are not the same on all hosts.
func (s *survey) differences() {
	versions, mtus := map[string][]string{}, map[string][]string{}
	for _, n := range s.nodes {
		if n.Version != "" { // a list in a file has none
			versions[n.Version] = append(versions[n.Version], n.Name)
		}
		if n.MTU != 0 {
			mtus[fmt.Sprint(n.MTU)] = append(mtus[fmt.Sprint(n.MTU)], n.Name)
		}
		if err := s.config.CheckAgent(n.Version); err != nil && !s.view.Fixed {
			s.problem(finding{
				[]string{n.Name},
				fmt.Sprintf(`its trestle-node, %s, is older than "minAgent", %s: it keeps what it has, and publishes nothing`, n.Version, s.config.MinAgent),
				"upgrade it",
			})
		}
	}
	if len(versions) > 1 {
		s.note(finding{What: "hosts run several releases of trestle-node: " + grouped(versions), WayOut: "upgrade the older ones"})
	}
	if len(mtus) > 1 {
		s.note(finding{
			What:   "uplinks have several MTUs: " + grouped(mtus),
			WayOut: "containers on all hosts have the MTU that the smallest leaves; raise that if the link takes more",
		})
	}
}

// grouped says which hosts have which value, and of many hosts how many more.
func grouped(all map[string][]string) string {
	var texts []string
	for _, value := range slices.Sorted(maps.Keys(all)) {
		names := all[value]
		if len(names) > shownHosts {
			names = append(slices.Clone(names[:shownHosts]), fmt.Sprintf("%d more", len(names)-shownHosts))
		}
		texts = append(texts, fmt.Sprintf("%s (%s)", value, strings.Join(names, ", ")))
	}
	return strings.Join(texts, ", ")
}

const shownHosts = 5

// clockSlack is how long a sign of life may take to reach the store.
const clockSlack = 10 * time.Second

// clocks compares the times in the hosts' signs of life with the order in which the store got
// them.
func (s *survey) clocks() {
	type sign struct {
		alive
		name     string
		revision int64
	}
	var all []sign
	for id, value := range s.view.Under(cluster.PrefixAlive) {
		g := sign{name: s.nameOf(id), revision: value.Revision}
		if json.Unmarshal(value.Data, &g.alive) == nil && !g.Since.IsZero() {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b sign) int { return cmp.Compare(a.revision, b.revision) })
	const wayOut = "synchronise their clocks (NTP): a quarantine goes by them, and certificates do"
	var latest sign
	for _, g := range all {
		switch {
		case g.Since.Sub(s.now) > clockSlack:
			s.note(finding{[]string{g.name}, fmt.Sprintf("its clock is ahead of this host's by %v at least", g.Since.Sub(s.now).Round(time.Second)), wayOut})
		case latest.Since.Sub(g.Since) > clockSlack:
			s.note(finding{[]string{latest.name, g.name}, fmt.Sprintf("their clocks differ by %v at least", latest.Since.Sub(g.Since).Round(time.Second)), wayOut})
		}
		if g.Since.After(latest.Since) {
			latest = g
		}
	}
}

// pools finds what keeps hosts from getting subnets.
func (s *survey) pools() {
	if _, frozen := s.view.Keys[cluster.KeyFrozen]; frozen {
		s.problem(finding{
			What:   "no host gets a new subnet, since the store was lost or restored",
			WayOut: "when trestle cluster nodes lists every host that lives: trestle cluster accept",
		})
	}
	for _, u := range poolUse(s.config, cluster.Holders(s.view)) {
		if u.isNearlyFull() {
			s.note(finding{What: u.String()})
		}
	}
	for _, n := range s.nodes {
		if outside := s.config.Outside(n.Subnets); len(outside) > 0 {
			s.problem(finding{[]string{n.Name}, "it has subnets that are in no pool: " + strings.Join(outside, ", "), "give the network a pool that contains them (trestle cluster config set), or let the host leave"})
		}
	}
}

// shownPairs bounds the problems of pairs: in a misconfigured network there are N² of them.
const shownPairs = 20

// pairs plans the routes of each host to all others, as the hosts do themselves.
func (s *survey) pairs() {
	peers := peersOf(s.nodes)
	unreached := 0
	for i, n := range s.nodes {
		state, problems := overlay.Plan(s.selfOf(n), slices.Delete(slices.Clone(peers), i, i+1))
		ways := map[string]string{}
		for _, r := range state.Routes {
			ways[r.Dst.String()] = s.shownWay(r.Kind)
		}
		for _, other := range s.nodes {
			if other.ID != n.ID && len(other.Subnets) > 0 {
				s.Ways[cmp.Or(ways[other.Subnets[0].Subnet.String()], hosts.None)]++
			}
		}
		for _, p := range problems {
			if unreached++; unreached <= shownPairs {
				s.problem(finding{Hosts: []string{n.Name}, What: p})
			}
		}
	}
	if unreached > shownPairs {
		s.problem(finding{What: fmt.Sprintf("there are %d more pairs without a way", unreached-shownPairs)})
	}
}

func (s *survey) shownWay(k overlay.Kind) string {
	switch k {
	case overlay.ByTunnel:
		return string(overlay.VXLAN)
	case overlay.Direct, overlay.ByWireGuard:
		return string(k)
	}
	return hosts.None
}

// selfOf is another host as it sees itself, apart from its kernel, which the store does not know.
func (s *survey) selfOf(n cluster.Node) overlay.Self {
	self := overlay.Self{
		Pools: s.config.Pools(), Underlay: n.Underlay, Uplink: "its uplink", MTU: n.MTU, MAC: n.MAC, Key: n.WGKey, NAT: n.NAT,
		Backend: overlay.Backend(s.config.Backend), VNI: s.config.VNI, Port: s.config.Port,
	}
	for _, o := range n.Subnets {
		self.Subnets = append(self.Subnets, o.Subnet)
	}
	return self
}

// lastSeen is when the status says that each peer was last seen.
func lastSeen(s hosts.Status) map[string]time.Time {
	seen := map[string]time.Time{}
	for _, p := range s.Peers {
		seen[p.ID] = p.Seen
	}
	return seen
}

// usage is how full a pool is.
type usage struct {
	network string
	pool    netip.Prefix
	used    uint64
	size    uint64
}

func poolUse(config cluster.Config, holders []cluster.Holder) (all []usage) {
	for _, n := range config.Networks {
		for _, p := range n.Pools() {
			u := usage{network: n.Name, pool: p.Prefix, size: p.Size()}
			for _, h := range holders {
				if p.Prefix.Overlaps(h.Subnet) {
					u.used++
				}
			}
			all = append(all, u)
		}
	}
	return all
}

// isNearlyFull is true from four fifths on.
func (u usage) isNearlyFull() bool { return u.used*5 >= u.size*4 }

func (u usage) String() string {
	text := fmt.Sprintf("pool %s of %s: %d of %d subnets are taken", u.pool, u.network, u.used, u.size)
	if u.isNearlyFull() {
		text += "; nearly full: release the subnets of dead hosts, or enlarge the pool"
	}
	return text
}

func (m mesh) fine() bool { return len(m.Problems) == 0 }

func (m mesh) String() string {
	var text strings.Builder
	up := 0
	for _, h := range m.Hosts {
		if h.Up {
			up++
		}
	}
	fmt.Fprintf(&text, "the store lists hosts: %d, of which are up: %d\n", len(m.Hosts), up)
	for _, way := range slices.Sorted(maps.Keys(m.Ways)) {
		fmt.Fprintf(&text, "pairs by %s: %d\n", way, m.Ways[way])
	}
	for _, p := range m.Problems {
		fmt.Fprintln(&text, "problem:", p)
	}
	for _, n := range m.Notes {
		fmt.Fprintln(&text, "note:", n)
	}
	return text.String()
}

// meshOf examines the store, or says that it does not answer.
func meshOf(ctx context.Context, flags *storeFlags, s hosts.Status) mesh {
	view, err := readMesh(ctx, flags)
	if err != nil {
		return mesh{
			Hosts: []meshHost{}, Ways: map[string]int{}, Notes: []finding{},
			Problems: []finding{{What: "the store was not asked: " + cni.Plain(err).Error()}},
		}
	}
	return surveyMesh(view, lastSeen(s), time.Now())
}
