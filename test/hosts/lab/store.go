package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/trestle-cni/trestle/cmd/trestle-node/etcdkeys"
	"github.com/trestle-cni/trestle/pkg/cluster"
)

// Store is the cluster's keys in etcd as simulated hosts see them: what many of
// pkg/cluster's members do to one store is tried without as many agents. All use one
// connection.
type Store struct {
	etcdkeys.Keys
	Commits atomic.Int64 // transactions that were sent
}

// Store is that of the cluster which agents are in where nothing else is said.
func (e *Etcd) Store() *Store {
	e.Helper()
	return e.StoreOf("default")
}

// StoreOf is the named cluster's.
func (e *Etcd) StoreOf(name string) *Store {
	e.Helper()
	return &Store{Keys: etcdkeys.Keys{Client: e.Client(), Prefix: "/trestle/v1/" + name + "/"}}
}

// Commit counts.
func (s *Store) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	s.Commits.Add(1)
	return s.Keys.Commit(ctx, txn)
}

// Put writes a key, whatever is there.
func (s *Store) Put(ctx context.Context, key, value string) error {
	_, err := s.Client.Put(ctx, s.Prefix+key, value)
	return err
}

// Watch is not simulated.
func (s *Store) Watch(ctx context.Context, _ string, _ int64, _ func([]cluster.Change)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Simulated are members of a cluster without a kernel of their own.
func Simulated(n int, name string) []*cluster.Member {
	var all []*cluster.Member
	for i := range n {
		id := fmt.Sprint(name, i)
		nonces := 0
		all = append(all, &cluster.Member{
			State: cluster.State{ID: id, Name: id},
			Save:  func(cluster.State) error { return nil },
			Nonce: func() string { nonces++; return fmt.Sprint(id, "-", nonces) },
			Now:   time.Now, Quarantine: time.Hour,
		})
	}
	return all
}

// Record is what the i-th simulated host says of itself.
func Record(i int) cluster.Node {
	high, low := byte(i>>8), byte(i)
	return cluster.Node{
		Underlay: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, high, low}), 15)},
		MTU:      1500, MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", high, low),
	}
}

// Wide is the configuration of a cluster with room for thousands of hosts.
const Wide = `{"id": "lab", "networks": [{"name": "pods", "ipv4": {"pool": "10.0.0.0/8", "subnetLen": 24}, "ipv6": {"pool": "fd40::/48", "subnetLen": 64}}]}`

// Joined is how simulated hosts joined a cluster.
type Joined struct {
	Hosts   []*cluster.Member
	Took    time.Duration
	Commits int64 // transactions that all of them together took
	Subnets int   // that are different
}

// Join has so many simulated hosts ask for subnets at the same moment, those of the
// store's configuration; by a lock they take turns, as most programs would have them.
func (s *Store) Join(n int, byLock bool) (Joined, error) {
	j := Joined{Hosts: Simulated(n, "n")}
	before := s.Commits.Load()
	var err error
	j.Took, err = s.again(j.Hosts, byLock)
	j.Commits = s.Commits.Load() - before
	subnets := map[netip.Prefix]bool{}
	for _, m := range j.Hosts {
		for _, subnet := range m.State.Subnets("pods") {
			subnets[subnet] = true
		}
	}
	j.Subnets = len(subnets)
	return j, err
}

// Again has hosts that have joined come back at the same moment, and says how many
// transactions that took.
func (s *Store) Again(hosts []*cluster.Member) (took time.Duration, commits int64, err error) {
	before := s.Commits.Load()
	took, err = s.again(hosts, false)
	return took, s.Commits.Load() - before, err
}

func (s *Store) again(hosts []*cluster.Member, byLock bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	defer cancel()
	start := make(chan struct{})
	failed := make(chan error, len(hosts))
	for i, m := range hosts {
		go func() {
			<-start
			join := func() error { return m.Reconcile(ctx, s, Record(i)) }
			if byLock {
				failed <- s.locked(ctx, join)
			} else {
				failed <- join()
			}
		}()
	}
	began := time.Now()
	close(start)
	var err error
	for range hosts {
		if e := <-failed; err == nil {
			err = e // a thousand would say the same
		}
	}
	return time.Since(began), err
}

// locked does it while no other host does.
func (s *Store) locked(ctx context.Context, do func() error) error {
	session, err := concurrency.NewSession(s.Client)
	if err != nil {
		return err
	}
	lock := concurrency.NewMutex(session, s.Prefix+"lock")
	err = lock.Lock(ctx)
	if err == nil {
		err = errors.Join(do(), lock.Unlock(ctx))
	}
	return errors.Join(err, session.Close())
}
