package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// joining is a round of a host that joins so many, itself among them, and leaves again.
func joining(t host.T, j joiner, agents, count int) round {
	keys := j.watched()
	simulated := count - 1 - agents
	if err := j.prepare(nil, simulated); err != nil {
		t.Fatalf("%v", err)
	}
	var others []*lab.Host
	for i := range agents {
		h := keys.Host(fmt.Sprintf("a%d", i))
		j.start(h)
		others = append(others, h)
		// one after the other: a flannel ends where another one was faster
		if err := settle(h, simulated+i); err != nil {
			t.Fatalf("%v", err)
		}
	}
	c, rest := keys.Host("c"), newAudience(t, keys, simulated)
	return func() ([]time.Duration, error) {
		all, err := look(append(others[:agents:agents], c))
		if err != nil {
			return nil, err
		}
		began := time.Now()
		stop := j.start(c)
		own := make(chan error, 1)
		var ownTook time.Duration
		go func() {
			err := all[agents].await(count - 1)
			ownTook = time.Since(began)
			own <- err
		}()
		err = rest.await(mvccpb.PUT)
		for _, l := range all[:agents] {
			err = errors.Join(err, l.await(1))
		}
		took := time.Since(began)
		err = errors.Join(err, <-own)
		for _, l := range all {
			l.close()
		}
		err = errors.Join(err, j.leave(c, stop), rest.await(mvccpb.DELETE))
		for _, h := range others {
			err = errors.Join(err, settle(h, count-2))
		}
		return []time.Duration{took, ownTook}, err
	}
}

// look listens on all of the hosts.
func look(hosts []*lab.Host) (all []*lookout, err error) {
	for _, h := range hosts {
		l, err := newLookout(h)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// audience are simulated hosts that watch etcd, each by a connection of its own.
type audience struct {
	count int
	news  chan news
}

// news is what one of them has heard, and asked about.
type news struct {
	who  int
	kind mvccpb.Event_EventType
	err  error
}

func newAudience(t host.T, keys watched, count int) *audience {
	ctx, stop := context.WithCancel(context.Background())
	c := &audience{count, make(chan news, 4*count)}
	for i := range count {
		client := keys.Client()
		watch := client.Watch(clientv3.WithRequireLeader(ctx), keys.prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if answer := <-watch; answer.Err() != nil {
			t.Fatalf("watch: %v", answer.Err())
		}
		go func() {
			for answer := range watch {
				for _, event := range answer.Events {
					n := news{i, event.Type, answer.Err()}
					if keys.asks && event.Type == mvccpb.PUT {
						_, n.err = client.TimeToLive(ctx, clientv3.LeaseID(event.Kv.Lease))
					}
					c.news <- n
				}
			}
		}()
	}
	t.Cleanup(stop) // before the connections are closed
	return c
}

// await waits until each of them has heard of such a thing.
func (c *audience) await(kind mvccpb.Event_EventType) error {
	heard := map[int]bool{}
	deadline := time.After(lab.Patience)
	for len(heard) < c.count {
		select {
		case n := <-c.news:
			if n.err != nil {
				return n.err
			}
			if n.kind == kind {
				heard[n.who] = true
			}
		case <-deadline:
			return fmt.Errorf("%d of %d hosts that watch etcd have heard of a %v", len(heard), c.count, kind)
		}
	}
	return nil
}

func watches(t host.T, s size) []measure.Variant {
	e := lab.New(t).Etcd(1)
	var all []measure.Variant
	for _, count := range s.hosts {
		all = append(all,
			measure.Variant{Name: fmt.Sprintf("%d hosts", count), Round: watching(t, e, count, false)},
			measure.Variant{Name: fmt.Sprintf("%d hosts, asking", count), Round: watching(t, e, count, true)})
	}
	return all
}

// watching is a round of one put that all watchers hear of.
func watching(t host.T, e *lab.Etcd, count int, asks bool) round {
	prefix := fmt.Sprintf("/bench/%d-%v/", count, asks)
	writer, all, ctx := e.Client(), newAudience(t, watched{e, prefix, asks}, count), context.Background()
	return func() ([]time.Duration, error) {
		lease, err := writer.Grant(ctx, 3600)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if _, err := writer.Put(ctx, prefix+"node", `{"id": "n", "underlay": ["192.0.2.1/24"]}`, clientv3.WithLease(lease.ID)); err != nil {
			return nil, err
		}
		err = all.await(mvccpb.PUT)
		return []time.Duration{time.Since(began)}, err
	}
}

// joiningAtOnce are rounds of so many simulated hosts that join a new cluster.
func joiningAtOnce(t host.T, count int) []measure.Variant {
	e := lab.New(t).Etcd(1)
	clusters := 0
	by := func(lock bool) round {
		return func() ([]time.Duration, error) {
			clusters++
			joined, err := joinAtOnce(e, fmt.Sprint("c", clusters), count, lock)
			return []time.Duration{joined.Took}, err
		}
	}
	return []measure.Variant{{Name: "at once", Round: by(false)}, {Name: "by a lock", Round: by(true)}}
}

// joinAtOnce has the hosts join; two that have one subnet are an error.
func joinAtOnce(e *lab.Etcd, cluster string, count int, lock bool) (lab.Joined, error) {
	store := e.StoreOf(cluster)
	if err := store.Put(context.Background(), "config", lab.Wide); err != nil {
		return lab.Joined{}, err
	}
	joined, err := store.Join(count, lock)
	if err == nil && joined.Subnets != 2*count {
		err = fmt.Errorf("%d hosts have %d different subnets, want one of each family each", count, joined.Subnets)
	}
	return joined, err
}
