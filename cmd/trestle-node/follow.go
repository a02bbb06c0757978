package main

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// follow is the session's main loop: it handles changes of peers, heartbeats, a changed
// uplink and requests, until one of them fails.
func (a *agent) follow(ctx context.Context, st store) error {
	changes := make(chan []cluster.Change, 64)
	failed := make(chan error, 2)
	// The goroutines get copies: the agent's state changes meanwhile, for example by leave.
	after, key, sign := a.listing.View.Revision, cluster.PrefixAlive+a.member.State.ID, a.signOfLife()
	go func() {
		failed <- st.Watch(ctx, cluster.PrefixNodes, after, func(c []cluster.Change) {
			select {
			case changes <- c:
			case <-ctx.Done():
			}
		})
	}()
	go func() { failed <- a.announce(ctx, st, key, sign) }()
	a.beats = 0
	beat := time.NewTimer(a.nextBeat())
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-failed:
			return err
		case c := <-changes:
			err = a.take(ctx, st, drain(c, changes))
		case <-beat.C:
			err = a.beat(ctx, st)
			beat.Reset(a.nextBeat())
		case <-a.kernel.moved:
			err = a.reconcile(ctx, st)
			a.tell()
		case r := <-a.requests:
			r.reply <- r.do(ctx, st)
			if a.left {
				return errLeft
			}
			if a.member.State.Leaving {
				return errChanged
			}
		}
		if err != nil {
			return err
		}
	}
}

// announce gives a sign of life until that fails. A store that refuses it answers all the same,
// and is followed: it is asked again after a heartbeat.
func (a *agent) announce(ctx context.Context, st store, key string, sign []byte) error {
	told := false
	for {
		err := st.Announce(ctx, key, sign, func() { a.board.problem("life") })
		if !errors.Is(err, errNoSign) || ctx.Err() != nil {
			return err
		}
		text := cni.Plain(err).Error()
		if a.board.problem("life", text); !told {
			a.log.Warn(text)
		}
		told = true
		pause(ctx, a.nextBeat())
	}
}

// drain adds the changes that are already queued: if a thousand hosts join at once, the
// peers are computed a few times rather than a thousand times.
func drain(c []cluster.Change, more <-chan []cluster.Change) []cluster.Change {
	for {
		select {
		case next := <-more:
			c = append(c, next...)
		default:
			return c
		}
	}
}

// nextBeat is the interval of heartbeats, plus or minus a fifth, so that a thousand hosts do
// not ask at the same time.
func (a *agent) nextBeat() time.Duration {
	d := a.settings.Heartbeat.Duration
	return d - d/5 + rand.N(2*d/5+1)
}

// take applies changes of nodes' records. If one was deleted it reads the tombstones, which
// prove whether its host has left.
func (a *agent) take(ctx context.Context, st store, c []cluster.Change) error {
	if a.listing.Apply(c) {
		view, err := st.Get(ctx, cluster.PrefixReleased)
		if err != nil {
			return err
		}
		a.listing.Release(view)
	}
	return a.believe()
}

// lookEvery is the number of heartbeats after which the signs of life are read again, unless
// a host has joined: the answer grows with the number of hosts, and only people use it.
const lookEvery = 10

// see notes which hosts have a sign of life.
func (a *agent) see(ctx context.Context, st store) error {
	view, err := st.Get(ctx, cluster.PrefixAlive)
	if err != nil {
		return err
	}
	a.looked = len(a.listing.Nodes)
	if view.Complete {
		return nil // such a list has no signs of life
	}
	now, alive := time.Now().UTC(), view.Under(cluster.PrefixAlive)
	for id := range a.listing.Nodes {
		if _, ok := alive[id]; ok {
			a.seen[id] = now
		}
	}
	maps.DeleteFunc(a.seen, func(id string, _ time.Time) bool { _, ok := a.listing.Nodes[id]; return !ok })
	a.board.see(a.seen)
	return nil
}

// beat is one heartbeat: it asks whether the store still has what this host relies on.
func (a *agent) beat(ctx context.Context, st store) error {
	a.beats++
	if a.beats%lookEvery == 1 || len(a.listing.Nodes) > a.looked {
		if err := a.see(ctx, st); err != nil {
			return err
		}
	}
	fine, err := a.member.Unchanged(ctx, st, a.self())
	if err != nil {
		return err
	}
	if fine {
		switch {
		case len(a.missing) > 0 && a.listing.View.Complete && a.member.State.Suspect == "":
			a.listing.AtBeat = true // what was watched is the list: a thousand hosts need not ask for it
			return a.believe()
		case len(a.missing) > 0 || a.member.State.Suspect != "":
			return a.list(ctx, st)
		}
		a.note() // containers with addresses of lost subnets may have ended
		a.board.write(false)
		return nil
	}
	a.log.Info("the store is not as it was; look at everything")
	if err := a.reconcileAndList(ctx, st); err != nil {
		return err
	}
	return errChanged // the watch may wait for a revision far in the future
}
