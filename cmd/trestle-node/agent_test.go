package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// askedStore holds a view, and counts the keys that it is asked for.
type askedStore struct {
	view  cluster.View
	asked []string
}

func (s *askedStore) Get(_ context.Context, keys ...string) (cluster.View, error) {
	s.asked = append(s.asked, keys...)
	return s.view, nil
}

func (s *askedStore) Commit(context.Context, cluster.Txn) (bool, error) {
	return false, errors.New("written to")
}

func (s *askedStore) Watch(context.Context, string, int64, func([]cluster.Change)) error {
	return errors.New("watched")
}

func (s *askedStore) Announce(context.Context, string, []byte, func()) error {
	return errors.New("announced")
}
func (s *askedStore) Describe() string { return "askedStore" }
func (s *askedStore) Close() error     { return nil }

// TestOutdatedAsksLittle: an agent that is too old for its cluster, and has no subnet to keep,
// asks for no list of hosts or claims each time that it tries again.
func TestOutdatedAsksLittle(t *testing.T) {
	t.Parallel()
	const tooNew = `{"id": "c", "minAgent": "99.0.0", "networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16", "subnetLen": 24}}]}`
	config, err := cluster.ParseConfig([]byte(tooNew))
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{member: &cluster.Member{Version: release, State: cluster.State{ID: "id-a", Name: "a", Config: config}}}
	st := &askedStore{view: cluster.View{Store: "s", Revision: 1, Keys: map[string]cluster.Value{cluster.KeyConfig: {Data: []byte(tooNew)}}}}
	if err := a.identify(t.Context(), st); !errors.Is(err, cluster.ErrTooOld) {
		t.Errorf("got %v, want %v", err, cluster.ErrTooOld)
	}
	for _, key := range st.asked {
		if strings.HasSuffix(key, "/") {
			t.Errorf("asked for all of %s, want its own keys alone", key)
		}
	}
	// what it has to keep, or may have been given, and another configuration are looked at
	has := cluster.Owned{Network: "pods", Subnet: netip.MustParsePrefix("10.40.1.0/24"), Nonce: "n"}
	older := strings.Replace(tooNew, "99.0.0", "0.1.0", 1)
	for name, change := range map[string]func(*cluster.State, cluster.View){
		"a subnet":                  func(s *cluster.State, _ cluster.View) { s.Claims = []cluster.Owned{has} },
		"one that it has asked for": func(s *cluster.State, _ cluster.View) { s.Pending = []cluster.Owned{has} },
		"another configuration":     func(_ *cluster.State, v cluster.View) { v.Keys[cluster.KeyConfig] = cluster.Value{Data: []byte(older)} },
		"none":                      func(_ *cluster.State, v cluster.View) { delete(v.Keys, cluster.KeyConfig) },
	} {
		s, view := a.member.State, cluster.View{Keys: map[string]cluster.Value{cluster.KeyConfig: {Data: []byte(tooNew)}}}
		change(&s, view)
		other := &agent{member: &cluster.Member{Version: release, State: s}}
		if err := other.checkOutdated(view); err != nil {
			t.Errorf("%s: got %v, want it looked at", name, err)
		}
	}
}
