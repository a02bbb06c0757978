package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// FuzzConfig: an accepted configuration can be written and read again, and has subnets.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(modelConfig))
	f.Add([]byte(`{"id":"c","backend":"auto","vni":7,"port":9,"mtu":1400,"vxlanNoTxChecksum":true,"later":[1],"networks":[{"name":"a","ipv6":{"pool":"fd00::/96","subnetLen":126}}]}`))
	f.Add([]byte(`{"ID":"c","Networks":[{"name":"a","ipv4":null,"IPv4":{"pool":"10.0.0.0/8","subnetLen":30}}]}`))
	f.Add([]byte(`{"networks":[{"name":"a","ipv4":{"pool":"10.0.0.0/8"},"later":1,"cniVersion":"1.1.0","Plugins":{"tuning":null},"plugins":{"bridge":{"ipam":{"x":1e400}},"portmap":{"Backend":"iptables","backend":""}}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := cluster.ParseConfig(data)
		if err != nil {
			return
		}
		written := marshal(t, config)
		again, err := cluster.ParseConfig(written)
		if err != nil || !bytes.Equal(marshal(t, again), written) {
			t.Errorf("written as %s it is read as %s, %v", written, marshal(t, again), err)
		}
		for _, n := range config.Networks {
			for _, p := range n.Pools() {
				for _, i := range []uint64{0, p.Size() - 1} {
					if s := p.Subnet(i); !p.Prefix.Overlaps(s) || s != s.Masked() || s.Bits() != p.SubnetLen {
						t.Errorf("subnet %d of %+v is %s", i, p, s)
					}
				}
				if s, err := p.Choose(cluster.Wish{Seed: "x"}); err != nil || !p.Prefix.Overlaps(s) {
					t.Errorf("of %+v got %s, %v", p, s, err)
				}
			}
		}
	})
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// FuzzNode: an accepted record can be written and read again.
func FuzzNode(f *testing.F) {
	f.Add([]byte(`{"id":"a","name":"n","underlay":["192.0.2.1/24"],"mtu":1500,"mac":"0a:00:00:00:00:01","subnets":[{"network":"n","subnet":"10.0.0.0/27","nonce":"x"}],"version":"2","later":{}}`))
	f.Add([]byte(`{"ID":"a","id":"b","underlay":null,"subnets":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := cluster.ParseNode(data)
		if err != nil {
			return
		}
		again, err := cluster.ParseNode(marshal(t, n))
		if err != nil || !again.Equal(n) {
			t.Errorf("written as %s it is read as %s, %v", marshal(t, n), marshal(t, again), err)
		}
	})
}

// FuzzStore: with any value of a key, and any state file, a host neither panics nor claims a
// subnet that another host's claim has.
func FuzzStore(f *testing.F) {
	keys := []string{
		cluster.KeyConfig, cluster.KeyFrozen, cluster.PrefixClaims + "n/10.0.0.0-27", cluster.PrefixClaims + "n/10.0.0.0-26", cluster.PrefixClaims + "odd",
		cluster.PrefixNodes + "a", cluster.PrefixNodes + "b", cluster.PrefixNames + "host", cluster.PrefixReleased + "n/10.0.0.32-27", cluster.PrefixAlive + "b",
	}
	for i := range keys {
		f.Add(uint8(i), []byte(`{"id":"b","name":"b","node":"b","nonce":"1","at":"2001-02-03T04:05:06Z","by":"x","why":"y","subnets":[{"network":"n","subnet":"10.0.0.64/27","nonce":"2"}]}`), []byte(nil))
		f.Add(uint8(i), []byte(`null`), []byte(`{"id":"a","name":"host","store":"1","revision":9,"config":`+modelConfig+`,"claims":[{"network":"n","subnet":"10.0.0.0/27","nonce":"1"}],"peers":[{"id":"b"}]}`))
	}
	f.Fuzz(func(t *testing.T, which uint8, value, state []byte) {
		store := newMemory()
		store.keys[cluster.KeyConfig] = cluster.Value{Data: []byte(modelConfig), Revision: 1}
		store.keys[cluster.PrefixClaims+"n/10.0.0.96-27"] = cluster.Value{Data: []byte(`{"node":"c","nonce":"3"}`), Revision: 1}
		store.keys[keys[int(which)%len(keys)]] = cluster.Value{Data: value, Revision: 1}
		member := &cluster.Member{Save: func(cluster.State) error { return nil }, Now: time.Now, Quarantine: time.Hour, Nonce: nonces()}
		member.State = readState(t, state)
		member.State.ID, member.State.Name = "a", "host"
		foreign := foreignClaims(store, member.State)
		ctx := context.Background()
		self := cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
		reconciled := member.Reconcile(ctx, store, self) // it may be refused
		view, err := store.Get(ctx, cluster.PrefixNodes, cluster.PrefixReleased)
		if err != nil {
			t.Fatal(err)
		}
		member.State.Believe(cluster.NewListing(view))
		if _, err := member.Unchanged(ctx, store, self); err != nil {
			t.Error(err)
		}
		for _, o := range member.State.Claims {
			if reconciled == nil && slices.ContainsFunc(foreign, o.Subnet.Overlaps) {
				t.Errorf("took %v, where another has %v", o, foreign)
			}
		}
		marshal(t, member.State)
	})
}

// readState reads a state file with this content, or a missing one.
func readState(t *testing.T, data []byte) cluster.State {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.json")
	if len(data) > 0 {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	state, err := cluster.ReadState(path)
	if err != nil {
		return cluster.State{} // a host whose state cannot be read starts without one
	}
	return state
}

// foreignClaims are the claimed subnets that are not under this host's id, and whose nonce its
// state does not have.
func foreignClaims(store *memory, s cluster.State) (all []netip.Prefix) {
	view, err := store.Get(context.Background(), cluster.PrefixClaims)
	if err != nil {
		return nil
	}
	for _, o := range cluster.Claims(view) {
		var c struct{ Node string }
		data := view.Keys[cluster.ClaimKey(o.Network, o.Subnet)].Data
		readable := json.Unmarshal(data, &c) == nil
		known := slices.ContainsFunc(slices.Concat(s.Claims, s.Pending), func(mine cluster.Owned) bool { return mine.Nonce == o.Nonce })
		if (!readable || c.Node != "a") && !known {
			all = append(all, o.Subnet)
		}
	}
	return all
}

func nonces() func() string {
	n := 0
	return func() string {
		n++
		return "nonce" + strconv.Itoa(n)
	}
}
