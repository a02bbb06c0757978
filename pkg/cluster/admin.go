package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// This file has what administrators do with a store, and how a host leaves.

// ErrUnknown says that there is no such node, subnet or network.
var ErrUnknown = errors.New("unknown")

// Init writes the first configuration of a cluster.
func Init(ctx context.Context, store Store, c Config) error {
	c.fill()
	if err := c.check(); err != nil {
		return err
	}
	txn, err := firstConfig(c)
	if err != nil {
		return err
	}
	done, err := store.Commit(ctx, txn)
	if err == nil && !done {
		err = errors.New("the store has a configuration of this cluster already; trestle cluster config shows it, and trestle cluster config set changes it")
	}
	return err
}

// firstConfig is a transaction that writes a configuration if there is none.
func firstConfig(c Config) (txn Txn, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return txn, err
	}
	txn.absent(KeyConfig)
	txn.put(KeyConfig, data)
	return txn, nil
}

// SetConfig replaces the configuration. It is refused if hosts have subnets that are in no
// pool of the new one.
func SetConfig(ctx context.Context, store Store, c Config) error {
	view, err := store.Get(ctx, KeyConfig, PrefixClaims)
	if err != nil {
		return err
	}
	value, ok := view.Keys[KeyConfig]
	if !ok {
		return fmt.Errorf("%w; trestle cluster init makes one", ErrNoConfig)
	}
	old, err := ParseConfig(value.Data)
	if err != nil {
		return err
	}
	c.fill()
	c.ID = old.ID
	if c.extra == nil {
		c.extra = old.extra
	}
	if err := errors.Join(c.check(), c.checkChange(Claims(view))); err != nil {
		return err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	var txn Txn
	txn.unchanged(KeyConfig, value)
	txn.put(KeyConfig, data)
	done, err := store.Commit(ctx, txn)
	if err == nil && !done {
		err = errors.New("somebody else changed the configuration at the same time; look at it again")
	}
	return err
}

// Claims lists the claimed and reserved subnets, sorted.
func Claims(view View) []Owned {
	var all []Owned
	for _, c := range readClaims(view) {
		if c.owned.Subnet.IsValid() {
			all = append(all, c.owned)
		}
	}
	slices.SortFunc(all, compareOwned)
	return all
}

// A host leaves in three steps, each of which can be repeated after it failed or was
// killed: BeginLeave, Leave, EndLeave. Until the last is done State.Leaving is true.

// BeginLeave makes this host give up its subnets in its own state. It needs no store. If the
// state cannot be saved, nothing changes.
func (m *Member) BeginLeave() error {
	if m.State.Leaving {
		return nil
	}
	before := m.State
	s := &m.State
	s.Leaving, s.Claims, s.Pending, s.Lost, s.Peers = true, nil, nil, nil, nil
	if err := m.save(); err != nil {
		m.State = before
		return err
	}
	return nil
}

// Leave releases this host's subnets in the store, and deletes its record. It calls
// BeginLeave first: a host does not believe in subnets that the store may give to others.
func (m *Member) Leave(ctx context.Context, store Store) error {
	if err := m.BeginLeave(); err != nil {
		return err
	}
	if m.State.Told {
		return nil
	}
	unsure := 0
	for range reconcileTries {
		done, err := releaseNode(ctx, store, m.State.ID, m.Now())
		switch {
		case errors.Is(err, ErrReadOnly):
			done, err = true, nil // only the administrator changes the list of nodes
		case errors.Is(err, ErrUnsure) && unsure < unsureTries:
			unsure++
			continue
		}
		if err != nil {
			return err
		}
		if done {
			m.State.Told = true
			return m.save()
		}
	}
	return ErrBusy
}

// EndLeave clears the state. The caller calls it when the store knows that this host has left,
// and nothing of the network is left on the host. If the state cannot be saved, the host is
// still leaving: one that had forgotten that would join again.
func (m *Member) EndLeave() error {
	before := m.State
	m.State = State{ID: before.ID, Name: before.Name}
	if err := m.save(); err != nil {
		m.State = before
		return err
	}
	return nil
}

// Release makes a dead host leave. If the host is alive after all, it gives up its subnets at
// its next Reconcile; until then another host may have claimed them as well.
func Release(ctx context.Context, store Store, id string, now time.Time) error {
	view, err := store.Get(ctx, PrefixNodes+id, PrefixClaims)
	if err != nil {
		return err
	}
	if _, listed := view.Keys[PrefixNodes+id]; !listed && len(claimsOf(view, id)) == 0 {
		return fmt.Errorf("node %s: %w; trestle cluster nodes lists them", id, ErrUnknown)
	}
	for range reconcileTries {
		if done, err := releaseNode(ctx, store, id, now); done || err != nil {
			return err
		}
	}
	return ErrBusy
}

// releaseNode replaces a node's claims with tombstones, and deletes its names and record. It
// returns false where somebody else changed one of these meanwhile.
func releaseNode(ctx context.Context, store Store, id string, now time.Time) (bool, error) {
	view, err := store.Get(ctx, PrefixNodes+id, PrefixClaims, PrefixNames)
	if err != nil {
		return false, err
	}
	if view.Fixed {
		return false, fmt.Errorf("node %s is in the list of nodes: %w", id, ErrReadOnly)
	}
	var txn Txn
	if !view.Complete {
		if err := txn.release(view, id, now); err != nil {
			return false, err
		}
	}
	if _, listed := view.Keys[PrefixNodes+id]; listed {
		txn.delete(PrefixNodes + id)
	}
	if len(txn.Then) == 0 {
		return true, nil
	}
	return store.Commit(ctx, txn)
}

// release replaces a node's claims with tombstones, and deletes its names.
func (t *Txn) release(view View, id string, now time.Time) error {
	claims := claimsOf(view, id)
	for _, key := range slices.Sorted(maps.Keys(claims)) {
		c := claims[key]
		data, err := json.Marshal(tombstone{Node: id, Nonce: c.Nonce, At: now.UTC()})
		if err != nil {
			return err
		}
		t.unchanged(PrefixClaims+key, c.raw)
		t.delete(PrefixClaims + key)
		t.put(PrefixReleased+key, data)
	}
	for name, value := range view.Under(PrefixNames) {
		if string(value.Data) == id {
			t.unchanged(PrefixNames+name, value)
			t.delete(PrefixNames + name)
		}
	}
	return nil
}

func claimsOf(view View, id string) map[string]claim {
	claims := readClaims(view)
	maps.DeleteFunc(claims, func(_ string, c claim) bool { return c.Node != id })
	return claims
}

// Reserve keeps hosts from claiming a subnet; why is shown to administrators.
func Reserve(ctx context.Context, store Store, o Owned, why string) error {
	view, err := store.Get(ctx, KeyConfig, PrefixClaims)
	if err != nil {
		return err
	}
	config, err := ParseConfig(view.Keys[KeyConfig].Data)
	if err != nil {
		return err
	}
	if len(config.Outside([]Owned{o})) > 0 {
		return fmt.Errorf("%s %s is no subnet of a network's pool: %w", o.Network, o.Subnet, ErrUnknown)
	}
	data, err := json.Marshal(claim{Nonce: o.Nonce, Reserved: why})
	if err != nil {
		return err
	}
	var txn Txn
	txn.absent(PrefixClaims + keyOf(o))
	txn.put(PrefixClaims+keyOf(o), data)
	done, err := store.Commit(ctx, txn)
	if err == nil && !done {
		err = fmt.Errorf("%s %s is %s; trestle cluster subnets lists all", o.Network, o.Subnet, readClaims(view)[keyOf(o)].holder())
	}
	return err
}

// Unreserve undoes Reserve.
func Unreserve(ctx context.Context, store Store, network string, subnet netip.Prefix) error {
	key := ClaimKey(network, subnet)
	view, err := store.Get(ctx, key)
	if err != nil {
		return err
	}
	c, ok := readClaims(view)[keyOf(Owned{Network: network, Subnet: subnet})]
	if !ok || c.Reserved == "" {
		return fmt.Errorf("%s %s is not reserved; trestle cluster release --node-is-dead releases the subnets of a host", network, subnet)
	}
	var txn Txn
	txn.unchanged(key, c.raw)
	txn.delete(key)
	_, err = store.Commit(ctx, txn)
	return err
}

// Freeze keeps hosts from claiming new subnets, until Thaw.
func Freeze(ctx context.Context, store Store, by, why string) error {
	data, err := json.Marshal(freeze{By: by, Why: why})
	if err != nil {
		return err
	}
	var txn Txn
	txn.absent(KeyFrozen)
	txn.put(KeyFrozen, data)
	_, err = store.Commit(ctx, txn) // if it is not done, claims are frozen already
	return err
}

// Thaw lets hosts claim subnets again: the administrator has made sure that the store has the
// subnets of every host that is alive.
func Thaw(ctx context.Context, store Store) error {
	_, err := store.Commit(ctx, Txn{Then: []Write{{Key: KeyFrozen}}})
	return err
}

// Restore writes what a host knows into a store that has lost it: the configuration, its
// own claims and those of its peers. Keys that the store has stay unchanged. It freezes claims
// until Thaw, since there may be hosts that this one does not know. For the same reason it
// reserves nothing (State.Unreserved): such a host may have taken what was reserved for it.
func Restore(ctx context.Context, store Store, s State) error {
	if s.Config.ID == "" {
		return errors.New("this host was never in a cluster: it has nothing to restore")
	}
	if err := Freeze(ctx, store, s.Name, "the store is being restored from this host's state"); err != nil {
		return err
	}
	data, err := json.Marshal(s.Config)
	if err != nil {
		return err
	}
	var txn Txn
	txn.absent(KeyConfig)
	txn.put(KeyConfig, data)
	if _, err := store.Commit(ctx, txn); err != nil {
		return err
	}
	for _, n := range append([]Node{s.Self}, s.Peers...) {
		if n.ID == "" {
			continue
		}
		if err := restoreNode(ctx, store, n); err != nil {
			return fmt.Errorf("node %s: %w", n.ID, err)
		}
	}
	return nil
}

// restoreNode writes a node's claims, record and name, each where the store has none.
func restoreNode(ctx context.Context, store Store, n Node) error {
	for _, o := range n.Subnets {
		data, err := json.Marshal(claim{Node: n.ID, Nonce: o.Nonce})
		if err != nil {
			return err
		}
		var txn Txn
		txn.absent(PrefixClaims + keyOf(o))
		txn.put(PrefixClaims+keyOf(o), data)
		if _, err := store.Commit(ctx, txn); err != nil {
			return err
		}
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	for key, value := range map[string][]byte{PrefixNodes + n.ID: data, PrefixNames + n.Name: []byte(n.ID)} {
		var txn Txn
		txn.absent(key)
		txn.put(key, value)
		if _, err := store.Commit(ctx, txn); err != nil {
			return err
		}
	}
	return nil
}

// Holder says who has a subnet: a node, or why it is reserved.
type Holder struct {
	Network  string       `json:"network"`
	Subnet   netip.Prefix `json:"subnet"`
	Node     string       `json:"node,omitempty"`
	Reserved string       `json:"reserved,omitempty"`
}

// Holders lists the claimed and reserved subnets with their holders, sorted.
func Holders(view View) []Holder {
	claims := readClaims(view)
	var all []Holder
	for _, o := range Claims(view) {
		c := claims[keyOf(o)]
		all = append(all, Holder{o.Network, o.Subnet, c.Node, c.Reserved})
	}
	return all
}
