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
	// Save saves the state: before the store is asked for a new claim, and after each change
	// of what this host believes.
	Save func(State) error
	// Nonce returns a new nonce.
	Nonce func() string
	Now   func() time.Time
	// Quarantine is how long a released subnet is not claimed again.
	Quarantine time.Duration
	// Version is this agent's version: see Config.MinAgent.
	Version string
}

// Errors of Reconcile, to be told apart with errors.Is.
var (
	// ErrNoConfig: the store has no configuration. A host that was in the cluster keeps its
	// subnets.
	ErrNoConfig = errors.New("the store has no configuration of this cluster")
	// ErrFrozen: an administrator, or a host that suspects the store, has frozen claims.
	ErrFrozen = errors.New("no subnets are given")
	// ErrName: another host has the name.
	ErrName = errors.New("the name is another host's")
	// ErrLeaving: this host is leaving the cluster: call Leave.
	ErrLeaving = errors.New("this host is leaving")
	// ErrBusy: each transaction came too late, because other hosts changed the same keys.
	ErrBusy = errors.New("given up, since other hosts change the same at the same time")
)

// reconcileTries bounds the transactions of one Reconcile. Each one that fails means that
// another host's succeeded.
const reconcileTries = 64

// unsureTries bounds the transactions without an answer.
const unsureTries = 3

// Reconcile makes store and state agree on this host's subnets. It writes claims again that
// the store has lost, gives up at once those that the store has given to another host, claims
// the subnets that this host lacks, and publishes self (whose Subnets it fills in). It can be
// called at any time, and writes nothing where nothing differs.
//
// An agent that is too old for the cluster (Outdated) only gives up what is another host's.
//
// After an error the state holds what is known all the same: with ErrFrozen, for example, the
// host keeps the subnets that it had.
func (m *Member) Reconcile(ctx context.Context, store Store, self Node) error {
	if m.State.Leaving {
		return ErrLeaving
	}
	unsure := 0
	for range reconcileTries {
		view, err := store.Get(ctx, m.State.asked()...)
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
			continue // State.Pending has what was asked for
		}
		if done || err != nil {
			return err
		}
	}
	return ErrBusy
}

// asked are the keys that Reconcile reads.
func (s *State) asked() []string {
	keys := []string{KeyConfig, KeyFrozen, PrefixClaims, PrefixReleased, PrefixNodes + s.ID, PrefixNames + s.Name}
	if former := s.Self.Name; former != "" && former != s.Name {
		keys = append(keys, PrefixNames+former)
	}
	return keys
}

// takeConfig takes the store's configuration into the state.
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

// suspectStore sets Suspect where the store has lost what this host saw there: it has another
// id, an older revision, or no configuration.
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

// freeze saves the suspicion, and keeps all hosts from claiming subnets until an administrator
// ends that: the store does not have all claims. The first host that notices does it. In a
// Complete list hosts claim nothing, so that it need not be frozen.
func (m *Member) freeze(ctx context.Context, store Store, view View) error {
	if err := m.save(); err != nil {
		return err
	}
	if _, frozen := view.Keys[KeyFrozen]; frozen || view.Complete {
		return nil
	}
	return Freeze(ctx, store, m.State.Name, m.State.Suspect)
}

// reconcileOnce makes the view's claims and the state agree, with at most one transaction.
// done is false where the store has changed since the view was read.
func (m *Member) reconcileOnce(ctx context.Context, store Store, view View, self Node) (done bool, err error) {
	s := &m.State
	claims := readClaims(view)
	var txn Txn
	m.resolvePending(claims)
	m.adopt(view, claims)
	kept, again := m.compare(claims, &txn)
	if s.Suspect == "" {
		s.Reserved = reservations(claims)
	}
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
		return false, wantErr // a host without subnets is not published
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

// readClaims are the claims of the view, by their keys without the prefix. A claim that
// cannot be read still takes its subnet.
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

// resolvePending clears State.Pending: if the transaction whose answer was lost was done, the
// store has claims with its nonces, and they are this host's.
func (m *Member) resolvePending(claims map[string]claim) {
	s := &m.State
	for _, o := range s.Pending {
		if c, ok := claims[keyOf(o)]; ok && c.Nonce == o.Nonce && !slices.Contains(s.Claims, o) {
			s.Claims = append(s.Claims, o)
		}
	}
	s.Pending = nil
}

// compare sorts this host's claims by what the store has: kept are still its own, again are
// missing and have to be written again, and those that another host has move to State.Lost.
func (m *Member) compare(claims map[string]claim, txn *Txn) (kept, again []Owned) {
	s := &m.State
	var lost []Owned
	for _, o := range s.Claims {
		c, ok := claims[keyOf(o)]
		switch {
		case ok && c.Nonce == o.Nonce && c.Node == s.ID: // in an administrator's list all nonces may be the same
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

// adopt adds to the state claims that are under this host's id and that it does not know:
// its state was lost, or an administrator wrote them. Where it has another subnet of that
// slot, only an administrator's list (Complete) replaces it: a store that was restored from a
// backup may have a former subnet of this host, which another host has now.
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

func overlapped(claims map[string]claim, o Owned) bool {
	for _, c := range claims {
		if c.owned.Subnet.Overlaps(o.Subnet) {
			return true
		}
	}
	return false
}

// choose chooses a subnet of each pool from which this host has none: the one that is reserved
// for it, or a free one.
func (m *Member) choose(view View, claims map[string]claim, self Node) ([]Owned, error) {
	s := &m.State
	has := map[slot]bool{}
	for _, o := range s.Claims {
		has[o.slot()] = true
	}
	var wanted []Owned
	wish := sync.OnceValue(func() Wish { return m.wish(view, claims) }) // expensive, and rarely needed
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

// reserved is the slot's subnet that is reserved for one of self's addresses.
func reserved(claims map[string]claim, s slot, self Node) (netip.Prefix, bool) {
	for _, c := range claims {
		if c.Node == "" && c.For.IsValid() && self.has(c.For) && c.owned.Subnet.IsValid() && c.owned.slot() == s {
			return c.owned.Subnet, true
		}
	}
	return netip.Prefix{}, false
}

// mayChoose is an error where hosts must not claim subnets: in an administrator's list, or
// while claims are frozen, because hosts may have subnets that the store does not know.
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
	// A peer's subnet counts as taken, even if the store does not say so, and so does a
	// subnet that this host has lost: containers with its addresses may be running.
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
		var g tombstone
		if err := json.Unmarshal(value.Data, &g); err != nil {
			continue // then the subnet is like one that nobody ever had
		}
		all = append(all, Tombstone{Subnet: subnet, Revision: value.Revision, At: g.At})
	}
	return all
}

// checkName refuses a name that another host has, and claims one that nobody has. A name that
// this host had before is anybody's again: whoever releases it would mean another host.
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
	former := PrefixNames + m.State.Self.Name
	if had, ok := view.Keys[former]; ok && former != key && string(had.Data) == m.State.ID {
		txn.unchanged(former, had)
		txn.delete(former)
	}
	return nil
}

// publish writes this host's record if it differs from the store's.
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

// claim writes a claim of the subnet, and deletes its tombstone.
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

// Subnets are this host's subnets of one network.
func (s *State) Subnets(network string) []netip.Prefix {
	var all []netip.Prefix
	for _, o := range s.Claims {
		if o.Network == network {
			all = append(all, o.Subnet)
		}
	}
	return all
}
