package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Member is one host's part in a cluster.
type Member struct {
	State State
	// Save is called before the store is asked for anything that is not known yet to
	// be this host's, and after each change of what it believes.
	Save func(State) error
	// Nonce gives a new one.
	Nonce func() string
	Now   func() time.Time
	// Quarantine is how long a subnet that was given up is left alone.
	Quarantine time.Duration
	// Version is this agent's: see Config.MinAgent.
	Version string
}

// Errors of Reconcile that the caller tells apart.
var (
	// ErrNoConfig: the store has no configuration. A host that was in the cluster goes
	// on with what it has.
	ErrNoConfig = errors.New("the store has no configuration of this cluster")
	// ErrFrozen: no subnets are given meanwhile.
	ErrFrozen = errors.New("no subnets are given")
	// ErrName: another host has the name.
	ErrName = errors.New("the name is another host's")
	// ErrLeaving: this host has left, and the store does not know yet: Leave first.
	ErrLeaving = errors.New("this host is leaving")
	// ErrBusy: others changed the same, time and again.
	ErrBusy = errors.New("given up, since other hosts change the same at the same time")
)

// reconcileTries bounds the transactions of one Reconcile. Each that fails means that another
// host's succeeded.
const reconcileTries = 64

// unsureTries bounds those of which no answer came.
const unsureTries = 3

// Reconcile makes store and state agree on this host's subnets: those that it has are
// asserted again where the store has lost them, or given up at once where the store
// gave them to another; those that it lacks are claimed; and self, which need not say
// its subnets, is published. It may be called at any time and does nothing where
// nothing is amiss.
//
// An agent that is too old for the cluster (Outdated) hears of what it has lost, and does
// no more.
//
// Where it fails the state holds what is known all the same: an ErrFrozen host has the
// subnets that it had.
func (m *Member) Reconcile(ctx context.Context, store Store, self Node) error {
	if m.State.Leaving {
		return ErrLeaving
	}
	unsure := 0
	for range reconcileTries {
		view, err := store.Get(ctx, KeyConfig, KeyFrozen, PrefixClaims, PrefixReleased, PrefixNodes+m.State.ID, PrefixNames+m.State.Name)
		if err != nil {
			return err
		}
		if m.suspectStore(view) {
			if err := m.freeze(ctx, store, view); err != nil {
				return err
			}
		}
		if err := m.takeConfig(view); err != nil {
			return err
		}
		if outdated := m.Outdated(); outdated != nil {
			return m.keep(view, outdated)
		}
		done, err := m.reconcileOnce(ctx, store, view, self)
		if errors.Is(err, ErrUnsure) && unsure < unsureTries {
			unsure++
			continue // Pending says what was asked for
		}
		if done || err != nil {
			return err
		}
	}
	return ErrBusy
}

// takeConfig takes the configuration over.
func (m *Member) takeConfig(view View) error {
	s := &m.State
	value, ok := view.Keys[KeyConfig]
	if !ok {
		return errors.Join(fmt.Errorf("%w; trestle cluster init makes one, and trestle cluster restore makes the lost one again", ErrNoConfig), m.save())
	}
	config, err := ParseConfig(value.Data)
	if err != nil {
		return err
	}
	if s.Config.ID != "" && s.Config.ID != config.ID && len(s.Claims) > 0 {
		s.Suspect = fmt.Sprintf("the store holds cluster %s, and this host is of %s", config.ID, s.Config.ID)
		return errors.Join(fmt.Errorf("the store has another cluster's configuration: %s, and this host is of %s; trestle node leave --local makes it forget that", config.ID, s.Config.ID), m.save())
	}
	s.Config = config
	s.Store, s.Revision = view.Store, view.Revision
	return nil
}

// suspectStore sets Suspect where the store cannot be the one that was seen last: another
// cluster id, an older revision, or no configuration.
func (m *Member) suspectStore(view View) bool {
	s := &m.State
	_, hasConfig := view.Keys[KeyConfig]
	switch {
	case s.Store == "" || view.Fixed:
		return false
	case view.Store != s.Store:
		s.Suspect = fmt.Sprintf("the store is another one (%s, it was %s)", view.Store, s.Store)
	case view.Revision < s.Revision:
		s.Suspect = fmt.Sprintf("the store went back to revision %d, it was at %d", view.Revision, s.Revision)
	case !hasConfig:
		s.Suspect = "the store has lost the cluster's configuration"
	default:
		return false
	}
	return true
}

// freeze keeps everybody from taking new subnets: the store does not know of all that
// there are. Whoever notices first does it, for as long as the administrator wants. Where
// hosts take none it is enough to remember.
func (m *Member) freeze(ctx context.Context, store Store, view View) error {
	if err := m.save(); err != nil {
		return err
	}
	if _, frozen := view.Keys[KeyFrozen]; frozen || view.Complete {
		return nil
	}
	return Freeze(ctx, store, m.State.Name, m.State.Suspect)
}

// reconcileOnce makes the claims of the view and the state agree, and the one transaction
// that this takes. It is not done where that was too late.
func (m *Member) reconcileOnce(ctx context.Context, store Store, view View, self Node) (done bool, err error) {
	s := &m.State
	claims := readClaims(view)
	var txn Txn
	m.hear(claims)
	m.adopt(view, claims)
	kept, again := m.compare(claims, &txn)
	if err := m.save(); err != nil {
		return false, err
	}
	if len(again) > 0 && view.Lacking != nil {
		return false, view.Lacking
	}
	wanted, wantErr := m.choose(view, claims, self)
	if wantErr == nil && len(wanted) > 0 {
		txn.absent(KeyFrozen)
	}
	if err := m.checkName(view, &txn); err != nil {
		return false, err
	}
	if _, listed := view.Keys[PrefixNodes+s.ID]; wantErr != nil && !listed && len(kept)+len(again) == 0 {
		return false, wantErr // it is in no network, and nobody need know it
	}
	self.ID, self.Name, self.Subnets = s.ID, s.Name, slices.Concat(kept, again, wanted)
	if err := m.publish(view, self, &txn); err != nil {
		return false, err
	}
	for _, o := range slices.Concat(again, wanted) {
		if err := txn.claim(view, s.ID, o); err != nil {
			return false, err
		}
	}
	if len(txn.Then) == 0 {
		s.Self = self
		return true, errors.Join(wantErr, m.save())
	}
	txn.unchanged(KeyConfig, view.Keys[KeyConfig])
	s.Pending = wanted
	if err := m.save(); err != nil {
		return false, err
	}
	committed, err := store.Commit(ctx, txn)
	if err != nil || !committed {
		return false, err
	}
	s.Claims = append(s.Claims, wanted...)
	s.Pending, s.Self = nil, self
	return true, errors.Join(wantErr, m.save())
}

// readClaims are the claims of the view, by their keys without the prefix. One that
// cannot be read is somebody's all the same.
func readClaims(view View) map[string]claim {
	claims := map[string]claim{}
	for key, value := range view.Under(PrefixClaims) {
		var c claim
		if err := json.Unmarshal(value.Data, &c); err != nil {
			c = claim{Nonce: "unreadable"}
		}
		c.raw = value
		if network, subnet, err := parseOwnedKey(key); err == nil {
			c.owned = Owned{network, subnet, c.Nonce}
		}
		claims[key] = c
	}
	return claims
}

// hear resolves Pending: if the transaction whose answer was lost did happen, the claims in
// the store have its nonces.
func (m *Member) hear(claims map[string]claim) {
	s := &m.State
	for _, o := range s.Pending {
		if c, ok := claims[keyOf(o)]; ok && c.Nonce == o.Nonce && !slices.Contains(s.Claims, o) {
			s.Claims = append(s.Claims, o)
		}
	}
	s.Pending = nil
}

// compare sorts this host's claims by what the store says: kept are still its own, again are
// missing and have to be written again, and those that another host has now move to Lost.
func (m *Member) compare(claims map[string]claim, txn *Txn) (kept, again []Owned) {
	s := &m.State
	var lost []Owned
	for _, o := range s.Claims {
		c, ok := claims[keyOf(o)]
		switch {
		case ok && c.Nonce == o.Nonce && c.Node == s.ID: // the nonces of a list need not differ
			kept = append(kept, o)
			txn.unchanged(PrefixClaims+keyOf(o), c.raw)
		case ok || overlapped(claims, o):
			lost = append(lost, o)
		default:
			again = append(again, o)
		}
	}
	s.Claims = slices.DeleteFunc(s.Claims, func(o Owned) bool { return slices.Contains(lost, o) })
	for _, o := range lost {
		if !slices.Contains(s.Lost, o) {
			s.Lost = append(s.Lost, o)
		}
	}
	return kept, again
}

// adopt takes claims over that are under this host's id, and that it does not know of:
// its state was lost, or its administrator wrote them. Where it has another subnet in
// their place only the administrator's word counts: a store restored from a backup
// may hold what this host had once, and somebody else has now.
func (m *Member) adopt(view View, claims map[string]claim) {
	s := &m.State
	if _, frozen := view.Keys[KeyFrozen]; frozen {
		return
	}
	for _, c := range claims {
		o := c.owned
		if !o.Subnet.IsValid() || c.Node != s.ID {
			continue
		}
		had := slices.IndexFunc(s.Claims, func(h Owned) bool { return h.slot() == o.slot() })
		switch {
		case slices.Contains(s.Claims, o) || slices.Contains(s.Lost, o):
		case had < 0:
			s.Claims = append(s.Claims, o)
		case view.Complete:
			s.Lost = append(s.Lost, s.Claims[had])
			s.Claims[had] = o
		}
	}
	slices.SortFunc(s.Claims, compareOwned)
}

func compareOwned(a, b Owned) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), a.Subnet.Addr().Compare(b.Subnet.Addr()))
}

func keyOf(o Owned) string { return o.Network + "/" + subnetKey(o.Subnet) }

// overlapped says whether a claim of another length covers a part of the subnet.
func overlapped(claims map[string]claim, o Owned) bool {
	for _, c := range claims {
		if c.owned.Subnet.Overlaps(o.Subnet) {
			return true
		}
	}
	return false
}

// choose picks a subnet for each pool that this host has none of: the one that is reserved
// for it, or a free one.
func (m *Member) choose(view View, claims map[string]claim, self Node) ([]Owned, error) {
	s := &m.State
	has := map[slot]bool{}
	for _, o := range s.Claims {
		has[o.slot()] = true
	}
	var wanted []Owned
	wish := sync.OnceValue(func() Wish { return m.wish(view, claims) }) // it is a lot to read
	for _, n := range s.Config.Networks {
		for _, p := range n.Pools() {
			if has[slot{n.Name, FamilyOf(p.Prefix.Addr())}] {
				continue
			}
			if err := m.mayChoose(view); err != nil {
				return nil, err
			}
			if subnet, ok := reserved(claims, slot{n.Name, FamilyOf(p.Prefix.Addr())}, self); ok {
				wanted = append(wanted, Owned{n.Name, subnet, m.Nonce()})
				continue
			}
			subnet, err := p.Choose(wish())
			if err != nil {
				return nil, fmt.Errorf("network %s: %w", n.Name, err)
			}
			wanted = append(wanted, Owned{n.Name, subnet, m.Nonce()})
		}
	}
	return wanted, nil
}

// reserved is the subnet of a slot that is kept for the host with one of self's addresses.
func reserved(claims map[string]claim, s slot, self Node) (netip.Prefix, bool) {
	for _, c := range claims {
		if c.Node == "" && c.For.IsValid() && self.has(c.For) && c.owned.Subnet.IsValid() && c.owned.slot() == s {
			return c.owned.Subnet, true
		}
	}
	return netip.Prefix{}, false
}

// mayChoose is an error where a subnet that the store does not know of may be some
// host's.
func (m *Member) mayChoose(view View) error {
	if view.Lacking != nil {
		return view.Lacking
	}
	if view.Complete {
		return fmt.Errorf("this host, %s, has no subnet in the list of nodes: %w", m.State.Name, ErrReadOnly)
	}
	if value, frozen := view.Keys[KeyFrozen]; frozen {
		var f freeze
		if err := json.Unmarshal(value.Data, &f); err != nil {
			f.Why = "unknown"
		}
		return fmt.Errorf("%w: frozen by %s: %s; when trestle cluster nodes lists every host that lives, trestle cluster accept ends it", ErrFrozen, f.By, f.Why)
	}
	return nil
}

func (m *Member) wish(view View, claims map[string]claim) Wish {
	w := Wish{Seed: m.State.ID, Quarantine: m.Quarantine, Now: m.Now()}
	for _, c := range claims {
		if c.owned.Subnet.IsValid() {
			w.Taken = append(w.Taken, c.owned.Subnet)
		}
	}
	// What this host has heard of counts as taken, whatever the store says, and so does
	// what it has lost: containers with addresses of it may be running.
	for _, peer := range m.State.Peers {
		for _, o := range peer.Subnets {
			w.Taken = append(w.Taken, o.Subnet)
		}
	}
	for _, o := range m.State.Lost {
		w.Taken = append(w.Taken, o.Subnet)
	}
	w.Released = tombstones(view)
	return w
}

func tombstones(view View) []Tombstone {
	var all []Tombstone
	for key, value := range view.Under(PrefixReleased) {
		_, subnet, err := parseOwnedKey(key)
		if err != nil {
			continue
		}
		var g grave
		if err := json.Unmarshal(value.Data, &g); err != nil {
			continue // its subnet is as good as one that nobody ever had
		}
		all = append(all, Tombstone{Subnet: subnet, Revision: value.Revision, At: g.At})
	}
	return all
}

// checkName refuses a name that is another host's: one of the two is misnamed.
func (m *Member) checkName(view View, txn *Txn) error {
	key := PrefixNames + m.State.Name
	value, taken := view.Keys[key]
	if taken && string(value.Data) != m.State.ID {
		return fmt.Errorf("%w: %s is node %s; give this host another (\"name\" in node.json), or, if that host is dead, trestle cluster release --node-is-dead %s",
			ErrName, m.State.Name, value.Data, m.State.Name)
	}
	if view.Complete {
		return nil
	}
	if !taken {
		txn.absent(key)
		txn.put(key, []byte(m.State.ID))
	}
	return nil
}

// publish writes the record where it says something new.
func (m *Member) publish(view View, self Node, txn *Txn) error {
	value, ok := view.Keys[PrefixNodes+self.ID]
	if view.Fixed {
		return nil
	}
	if ok {
		if old, err := ParseNode(value.Data); err == nil {
			self.extra = old.extra
			if self.Equal(old) {
				return nil
			}
		}
	}
	data, err := json.Marshal(self)
	if err != nil {
		return err
	}
	txn.put(PrefixNodes+self.ID, data)
	return nil
}

// claim takes the subnet, and its tombstone away.
func (t *Txn) claim(view View, id string, o Owned) error {
	data, err := json.Marshal(claim{Node: id, Nonce: o.Nonce})
	if err != nil {
		return err
	}
	if kept, ok := view.Keys[PrefixClaims+keyOf(o)]; ok {
		t.unchanged(PrefixClaims+keyOf(o), kept) // reserved for this host
	} else {
		t.absent(PrefixClaims + keyOf(o))
	}
	t.put(PrefixClaims+keyOf(o), data)
	if _, dead := view.Keys[PrefixReleased+keyOf(o)]; dead {
		t.delete(PrefixReleased + keyOf(o))
	}
	return nil
}

func (m *Member) save() error { return m.Save(m.State) }

// Subnets are those of one network that this host believes to be its own.
func (s *State) Subnets(network string) []netip.Prefix {
	var all []netip.Prefix
	for _, o := range s.Claims {
		if o.Network == network {
			all = append(all, o.Subnet)
		}
	}
	return all
}
