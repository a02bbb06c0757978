package cluster

import (
	"bytes"
	"context"
	"encoding/json"
)

// Unchanged says whether the store is as Reconcile left it, by one small read: this host's own
// keys, the configuration, and the store's id and revision. A watch does not notice a store
// that was wiped or restored from a backup: it waits silently for a revision in the
// future. If it is false, the caller calls Reconcile.
func (m *Member) Unchanged(ctx context.Context, store Store, self Node) (bool, error) {
	s := &m.State
	ask := []string{KeyConfig, PrefixNodes + s.ID, PrefixNames + s.Name}
	for _, o := range s.Claims {
		ask = append(ask, PrefixClaims+keyOf(o))
	}
	view, err := store.Get(ctx, ask...)
	if err != nil {
		return false, err
	}
	outdated := m.Outdated() != nil
	if m.suspectStore(view) || s.Leaving || !s.complete() && !outdated || !s.sameConfig(view) {
		return false, nil
	}
	claims := readClaims(view)
	for _, o := range s.Claims {
		c, there := claims[keyOf(o)]
		// a claim that the store has lost is not written again by an agent that is too old
		if c.Nonce != o.Nonce && (there || !outdated) {
			return false, nil
		}
	}
	s.Revision = view.Revision
	if view.Fixed || outdated {
		return true, nil
	}
	self.ID, self.Name, self.Subnets = s.ID, s.Name, s.Claims
	published, err := ParseNode(view.Keys[PrefixNodes+s.ID].Data)
	self.extra = published.extra
	named := string(view.Keys[PrefixNames+s.Name].Data) == s.ID
	return err == nil && named && self.Equal(published), nil
}

// complete says whether the host has a subnet of each pool.
func (s *State) complete() bool {
	has := map[slot]bool{}
	for _, o := range s.Claims {
		has[o.slot()] = true
	}
	for _, n := range s.Config.Networks {
		for _, p := range n.Pools() {
			if !has[slot{n.Name, FamilyOf(p.Prefix.Addr())}] {
				return false
			}
		}
	}
	return true
}

func (s *State) sameConfig(view View) bool {
	config, err := ParseConfig(view.Keys[KeyConfig].Data)
	if err != nil {
		return false
	}
	now, errNow := json.Marshal(config)
	had, errHad := json.Marshal(s.Config)
	return errNow == nil && errHad == nil && bytes.Equal(now, had)
}
