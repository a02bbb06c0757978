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

// What administrators do with a store, and hosts that leave.

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

// firstConfig writes a configuration where there is none.
func firstConfig(c Config) (txn Txn, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return txn, err
	}
	txn.absent(KeyConfig)
	txn.put(KeyConfig, data)
	return txn, nil
}

// SetConfig replaces the configuration, unless hosts have subnets that the new one has
// no place for.
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
	if err := errors.Join(c.check(), c.CheckChange(Claims(view))); err != nil {
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

// Claims are the subnets that are taken, in order.
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

// A host leaves in three steps, each of which may be done again after it failed or was
// killed: BeginLeave, Leave, EndLeave. In between the state says that it is leaving.

// BeginLeave makes this host believe in none of its subnets any more. It needs no store.
// A host whose state cannot be saved stays as it was.
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

// Leave gives this host's subnets back, and takes its record away. From its first moment
// on the host believes in none of them.
func (m *Member) Leave(ctx context.Context, store Store) error {
	if err := m.BeginLeave(); err != nil {
		return err
	}
	if m.State.Told {
		return nil
	}
	unsure := 0
	for range reconcileTries {
		done, err := bury(ctx, store, m.State.ID, m.Now())
		switch {
		case errors.Is(err, ErrReadOnly):
			done, err = true, nil // the administrator's list is the administrator's to change
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

// EndLeave forgets the cluster: the store knows that this host has left, and nothing of
// the network is left on it. Where that cannot be saved the host goes on leaving: one that
// has forgotten would join again.
func (m *Member) EndLeave() error {
	before := m.State
	m.State = State{ID: before.ID, Name: before.Name}
	if err := m.save(); err != nil {
		m.State = before
		return err
	}
	return nil
}

// Release does for a host that is dead what it cannot do any more. A host that lives
// gives its subnets up when it hears of it; until then there are two of them.
func Release(ctx context.Context, store Store, id string, now time.Time) error {
	view, err := store.Get(ctx, PrefixNodes+id, PrefixClaims)
	if err != nil {
		return err
	}
	if _, listed := view.Keys[PrefixNodes+id]; !listed && len(claimsOf(view, id)) == 0 {
		return fmt.Errorf("node %s: %w; trestle cluster nodes lists them", id, ErrUnknown)
	}
	for range reconcileTries {
		if done, err := bury(ctx, store, id, now); done || err != nil {
			return err
		}
	}
	return ErrBusy
}

// bury replaces the claims of a node by tombstones and takes its record away.
func bury(ctx context.Context, store Store, id string, now time.Time) (bool, error) {
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

// release replaces the claims of a node by tombstones, and takes its names away.
func (t *Txn) release(view View, id string, now time.Time) error {
	for _, key := range slices.Sorted(maps.Keys(claimsOf(view, id))) {
		c := claimsOf(view, id)[key]
		data, err := json.Marshal(grave{Node: id, Nonce: c.Nonce, At: now.UTC()})
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

// Reserve keeps a subnet from hosts.
func Reserve(ctx context.Context, store Store, o Owned, why string) error {
	view, err := store.Get(ctx, KeyConfig, PrefixClaims)
	if err != nil {
		return err
	}
	config, err := ParseConfig(view.Keys[KeyConfig].Data)
	if err != nil {
		return err
	}
	if err := config.CheckChange([]Owned{o}); err != nil {
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

// Unreserve ends that.
func Unreserve(ctx context.Context, store Store, network string, subnet netip.Prefix) error {
	key := PrefixClaims + network + "/" + subnetKey(subnet)
	view, err := store.Get(ctx, key)
	if err != nil {
		return err
	}
	c, ok := readClaims(view)[network+"/"+subnetKey(subnet)]
	if !ok || c.Reserved == "" {
		return fmt.Errorf("%s %s is not reserved; what a host has goes by trestle cluster release --node-is-dead", network, subnet)
	}
	var txn Txn
	txn.unchanged(key, c.raw)
	txn.delete(key)
	_, err = store.Commit(ctx, txn)
	return err
}

// Freeze keeps hosts from taking new subnets, until Thaw.
func Freeze(ctx context.Context, store Store, by, why string) error {
	data, err := json.Marshal(freeze{By: by, Why: why})
	if err != nil {
		return err
	}
	var txn Txn
	txn.absent(KeyFrozen)
	txn.put(KeyFrozen, data)
	_, err = store.Commit(ctx, txn) // not done: frozen already
	return err
}

// Thaw is the administrator's word that every host that lives has its subnets in the store.
func Thaw(ctx context.Context, store Store) error {
	_, err := store.Commit(ctx, Txn{Then: []Write{{Key: KeyFrozen}}})
	return err
}

// Restore writes what a host knows into a store that has lost it: the configuration, its
// own claims and those of its peers. What the store has is left as it is. Until Thaw
// nobody takes a new subnet, since there may be hosts that this one did not know.
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

// restoreNode writes one node's claims, each that is nobody's, and its record.
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

// Holder is who has a subnet.
type Holder struct {
	Network  string       `json:"network"`
	Subnet   netip.Prefix `json:"subnet"`
	Node     string       `json:"node,omitempty"`
	Reserved string       `json:"reserved,omitempty"`
}

// Holders are all subnets that are taken, in order.
func Holders(view View) []Holder {
	claims := readClaims(view)
	var all []Holder
	for _, o := range Claims(view) {
		c := claims[keyOf(o)]
		all = append(all, Holder{o.Network, o.Subnet, c.Node, c.Reserved})
	}
	return all
}
