package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Listing is the nodes' records and the tombstones of a store, parsed once each.
type Listing struct {
	View View // without the keys
	// Nodes are the readable records, by their ids; Unreadable why the others cannot be read.
	Nodes      map[string]Node
	Unreadable map[string]error
	released   map[string]tombstone // by the claims' keys
	// AtBeat says that this is how the list is at a heartbeat, rather than after a change.
	AtBeat bool
}

// NewListing reads a view of PrefixNodes and PrefixReleased.
func NewListing(view View) *Listing {
	l := &Listing{View: view, Nodes: map[string]Node{}, Unreadable: map[string]error{}, released: map[string]tombstone{}}
	l.View.Keys = nil
	for id, value := range view.Under(PrefixNodes) {
		l.put(id, value)
	}
	l.Release(view)
	return l
}

// Release adds the view's tombstones.
func (l *Listing) Release(view View) {
	for key, value := range view.Under(PrefixReleased) {
		var g tombstone
		if json.Unmarshal(value.Data, &g) == nil {
			l.released[key] = g
		}
	}
}

// Apply applies changes of nodes' records. gone says that one was deleted: then the caller
// reads the tombstones as well (Release).
func (l *Listing) Apply(changes []Change) (gone bool) {
	l.AtBeat = false
	for _, c := range changes {
		id := c.Key[len(PrefixNodes):]
		if c.Data == nil && c.Err == nil {
			delete(l.Nodes, id)
			delete(l.Unreadable, id)
			gone = true
		} else {
			l.put(id, c.Value)
		}
		l.View.Revision = max(l.View.Revision, c.Revision)
	}
	return gone
}

func (l *Listing) put(id string, value Value) {
	var n Node
	err := value.Err
	if err == nil {
		n, err = ParseNode(value.Data)
	}
	if err == nil && n.ID != id {
		err = fmt.Errorf("its id is %q", n.ID)
	}
	if err != nil {
		l.Unreadable[id] = err
		return
	}
	delete(l.Unreadable, id)
	l.Nodes[id] = n
}

// Verdict is the result of Believe.
type Verdict struct {
	Changed bool
	// Missing are peers that are not listed, and not proved gone.
	Missing []string
	// Problems are messages for people, one line each.
	Problems []string
}

// Believe turns a listing into State.Peers. A listed host is a peer at once. One that is not
// listed any more is only gone with a proof for each of its subnets, a tombstone with the
// claim's nonce or another owner, or because the list is Complete. While the store is suspect
// no peer is gone. It becomes suspect when more than half of the peers, and at least three,
// are gone at once without a proof, or at all from a Complete list. Who deletes many from such a
// list does so one by one: a peer is gone from it if it is missing at two heartbeats. An
// administrator's own list (Fixed) is replaced whole.
func (s *State) Believe(l *Listing) Verdict {
	var v Verdict
	next, missed := map[string]Node{}, map[string]bool{}
	for id, n := range l.Nodes {
		if id != s.ID {
			next[id] = n
		}
	}
	s.suspectMany(l)
	for _, held := range s.Peers {
		if _, listed := next[held.ID]; listed {
			continue
		}
		waits := l.View.Complete && !l.View.Fixed && !(l.AtBeat && s.missed[held.ID])
		if s.Suspect == "" && s.isGone(held, l) && !waits {
			continue
		}
		missed[held.ID] = l.AtBeat || s.missed[held.ID]
		next[held.ID] = held
		v.Missing = append(v.Missing, held.ID)
	}
	s.missed = missed
	slices.Sort(v.Missing)
	for _, id := range slices.Sorted(maps.Keys(l.Unreadable)) {
		v.Problems = append(v.Problems, fmt.Sprintf("the record of node %s cannot be read, and is ignored: %v", id, l.Unreadable[id]))
	}
	s.dropSharedKeys(next, &v)
	peers := s.resolveSubnets(next, l, &v)
	v.Changed = !slices.EqualFunc(peers, s.Peers, Node.Equal)
	s.Peers = peers
	if s.Suspect != "" && len(v.Missing) == 0 && len(s.Config.ID) > 0 && l.View.Store == s.Store {
		s.Suspect = "" // all peers are listed again
	}
	return v
}

// Accept removes the peers that are not listed, on the administrator's word that they are gone.
func (s *State) Accept(l *Listing) {
	s.Suspect = ""
	s.Peers = slices.DeleteFunc(slices.Clone(s.Peers), func(n Node) bool { // a clone, since the caller may return to the former state
		_, listed := l.Nodes[n.ID]
		_, unreadable := l.Unreadable[n.ID]
		return !listed && !unreadable
	})
}

// suspectMany suspects the store if more than half of the peers are gone from it at once.
func (s *State) suspectMany(l *Listing) {
	gone := 0
	for _, held := range s.Peers {
		_, listed := l.Nodes[held.ID]
		_, unreadable := l.Unreadable[held.ID]
		if !listed && !unreadable && (l.View.Complete || !s.isGone(held, l)) {
			gone++
		}
	}
	if gone >= 3 && 2*gone > len(s.Peers) && s.Suspect == "" {
		s.Suspect = fmt.Sprintf("%d of %d peers are gone from the store at once", gone, len(s.Peers))
	}
}

// isGone says whether it is proved that the peer is gone.
func (s *State) isGone(held Node, l *Listing) bool {
	if _, unreadable := l.Unreadable[held.ID]; unreadable {
		return false
	}
	if l.View.Complete {
		return true
	}
	for _, o := range held.Subnets {
		g, dead := l.released[keyOf(o)]
		if dead && g.Nonce == o.Nonce || s.has(o) {
			continue
		}
		if !taken(l, o) {
			return false
		}
	}
	return true
}

// taken says whether a listed node has claimed the subnet since.
func taken(l *Listing, o Owned) bool {
	for _, n := range l.Nodes {
		for _, other := range n.Subnets {
			if other.Subnet == o.Subnet && other.Nonce != o.Nonce {
				return true
			}
		}
	}
	return false
}

// has says whether the subnet overlaps one of this host's own.
func (s *State) has(o Owned) bool {
	return slices.ContainsFunc(s.Claims, func(mine Owned) bool { return mine.Subnet.Overlaps(o.Subnet) })
}

// WayOutOfOneKey says what to do where two hosts have the same WireGuard key.
const WayOutOfOneKey = "if a disk was copied, trestle node reset-id on the copy; or stop trestle-node there and remove /var/lib/trestle/node/wg.key, so that it makes another key"

// dropSharedKeys makes sure that no two peers have the same WireGuard key: the kernel knows
// peers by their keys, and would take the two for one. The peer that had the key before keeps
// it; if none had, all of them lose it, and so does any peer with this host's key.
func (s *State) dropSharedKeys(next map[string]Node, v *Verdict) {
	had, all := map[string]string{}, map[string][]string{}
	for _, held := range s.Peers {
		if n := next[held.ID]; held.WGKey != "" && n.WGKey == held.WGKey && had[held.WGKey] == "" {
			had[held.WGKey] = held.ID
		}
	}
	ids := slices.Sorted(maps.Keys(next))
	for _, id := range ids {
		all[next[id].WGKey] = append(all[next[id].WGKey], id)
	}
	who := func(id string) string { return fmt.Sprintf("node %s (%s)", next[id].Name, id) }
	for _, id := range ids {
		n := next[id]
		holder := had[n.WGKey]
		switch {
		case n.WGKey == "" || holder == id:
			continue
		case n.WGKey == s.Self.WGKey:
			v.Problems = append(v.Problems, fmt.Sprintf("%s says that it has the WireGuard key of this host; %s", who(id), WayOutOfOneKey))
		case holder != "":
			v.Problems = append(v.Problems, fmt.Sprintf("%s says that it has the WireGuard key of %s, which had it before; %s", who(id), who(holder), WayOutOfOneKey))
		case len(all[n.WGKey]) == 1:
			continue
		case all[n.WGKey][0] == id:
			v.Problems = append(v.Problems, fmt.Sprintf("%s and %s have the same WireGuard key, so that neither is reached by it; %s", who(id), who(all[n.WGKey][1]), WayOutOfOneKey))
		}
		n.WGKey = ""
		next[id] = n
	}
}

// resolveSubnets resolves conflicts, so that each subnet has one peer. Of two that say that
// they have it a listed one wins over one that is not, and then the one that was a peer before;
// while the store is suspect the one that was a peer before wins.
func (s *State) resolveSubnets(next map[string]Node, l *Listing, v *Verdict) []Node {
	ids := slices.Sorted(maps.Keys(next))
	held := map[string]bool{} // a map, since the sort asks often
	for _, n := range s.Peers {
		held[n.ID] = true
	}
	rank := func(id string) int {
		_, listed := l.Nodes[id]
		switch {
		case s.Suspect != "" && held[id]:
			return 0
		case listed && held[id]:
			return 1
		case listed:
			return 2
		}
		return 3
	}
	order := slices.Clone(ids)
	slices.SortStableFunc(order, func(a, b string) int { return rank(a) - rank(b) })
	d := newDivision(s)
	for _, id := range order {
		n := next[id]
		n.Subnets = d.give(n)
		next[id] = n
	}
	v.Problems = append(v.Problems, d.problems...)
	var peers []Node
	for _, id := range ids {
		peers = append(peers, next[id])
	}
	return peers
}

// division records which peer has which subnet, in a map by prefix. A look-up for each prefix
// length in use finds overlaps without comparing all with all.
type division struct {
	state    *State
	byPrefix map[string]string
	lengths  map[int]bool
	problems []string
}

func newDivision(s *State) *division {
	return &division{state: s, byPrefix: map[string]string{}, lengths: map[int]bool{}}
}

func (d *division) give(n Node) []Owned {
	var given []Owned
	for _, o := range n.Subnets {
		switch holder := d.holder(o); {
		case d.state.has(o):
			d.problems = append(d.problems, fmt.Sprintf("node %s (%s) says that it has %s, which is this host's", n.Name, n.ID, o.Subnet))
		case holder != "":
			d.problems = append(d.problems, fmt.Sprintf("node %s (%s) says that it has %s, which is node %s's", n.Name, n.ID, o.Subnet, holder))
		default:
			given = append(given, o)
			d.byPrefix[o.Subnet.String()] = n.ID
			d.lengths[o.Subnet.Bits()] = true
		}
	}
	return given
}

func (d *division) holder(o Owned) string {
	for length := range d.lengths {
		if length > o.Subnet.Bits() {
			continue
		}
		wider, err := o.Subnet.Addr().Prefix(length)
		if err != nil {
			continue
		}
		if id := d.byPrefix[wider.String()]; id != "" {
			return id
		}
	}
	return ""
}
