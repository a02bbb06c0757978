package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// Store is the cluster's keys in etcd as simulated hosts see them: what many of
// pkg/cluster's members do to one store is tried without as many agents. All use one
// connection.
type Store struct {
	Client  *clientv3.Client
	Commits atomic.Int64 // transactions that were sent
	prefix  string
}

// Store connects.
func (e *Etcd) Store() *Store {
	e.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: e.URLs(), DialTimeout: Patience, Logger: zap.NewNop(),
		// The library dials from goroutines of its own, which are in no namespace of ours.
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(_ context.Context, address string) (conn net.Conn, err error) {
			err = e.Switch.Do(func() (err error) {
				conn, err = net.DialTimeout("tcp", strings.TrimPrefix(address, "http://"), Patience)
				return err
			})
			return conn, err
		})},
	})
	if err != nil {
		e.Fatalf("connect to etcd: %v", err)
	}
	e.Cleanup(func() { _ = client.Close() }) // etcd is gone by then
	return &Store{Client: client, prefix: "/trestle/v1/default/"}
}

// Get is one transaction of reads.
func (s *Store) Get(ctx context.Context, keys ...string) (cluster.View, error) {
	var ops []clientv3.Op
	for _, k := range keys {
		var options []clientv3.OpOption
		if strings.HasSuffix(k, "/") {
			options = append(options, clientv3.WithPrefix())
		}
		ops = append(ops, clientv3.OpGet(s.prefix+k, options...))
	}
	answer, err := s.Client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return cluster.View{}, err
	}
	view := cluster.View{Store: "etcd", Revision: answer.Header.Revision, Keys: map[string]cluster.Value{}}
	for _, r := range answer.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			view.Keys[strings.TrimPrefix(string(kv.Key), s.prefix)] = cluster.Value{Data: kv.Value, Revision: kv.ModRevision}
		}
	}
	return view, nil
}

// Commit counts.
func (s *Store) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	s.Commits.Add(1)
	var conditions []clientv3.Cmp
	for _, c := range txn.If {
		if c.Absent {
			conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(s.prefix+c.Key), "=", 0))
		} else {
			conditions = append(conditions, clientv3.Compare(clientv3.Value(s.prefix+c.Key), "=", string(c.Data)))
		}
	}
	var ops []clientv3.Op
	for _, w := range txn.Then {
		if w.Data == nil {
			ops = append(ops, clientv3.OpDelete(s.prefix+w.Key))
		} else {
			ops = append(ops, clientv3.OpPut(s.prefix+w.Key, string(w.Data)))
		}
	}
	answer, err := s.Client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil {
		return false, err
	}
	return answer.Succeeded, nil
}

// Put writes a key, whatever is there.
func (s *Store) Put(ctx context.Context, key, value string) error {
	_, err := s.Client.Put(ctx, s.prefix+key, value)
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

// Join has so many simulated hosts ask for subnets at the same moment, and gives them as they
// are then, and how long that took. reconcile is Member.Reconcile, or what comes around it.
func Join(hosts []*cluster.Member, reconcile func(*cluster.Member) error) (took time.Duration, err error) {
	start := make(chan struct{})
	failed := make(chan error, len(hosts))
	for _, m := range hosts {
		go func() {
			<-start
			failed <- reconcile(m)
		}()
	}
	began := time.Now()
	close(start)
	for range hosts {
		if e := <-failed; e != nil {
			err = e
		}
	}
	return time.Since(began), err
}
