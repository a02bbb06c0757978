package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// agent is this host as a member of the cluster: it follows the store, and passes what it
// believes to the kernel's loop. Its fields belong to the goroutine that calls run.
type agent struct {
	settings settings
	log      *slog.Logger
	board    *board
	kernel   *kernel
	member   *cluster.Member
	requests chan request
	ended    chan struct{} // closed when run has returned

	listing *cluster.Listing // of this session
	missing []string
	ready   bool
	left    bool
	beats   int // of this session
	seen    map[string]time.Time
	looked  int // the number of hosts when their signs of life were last read
	// refused says that another host is alive with this one's id: the disk is a copy.
	refused atomic.Bool
	// notified is done when systemd has been told that this host is ready.
	notified sync.Once
	logged   map[string]bool // the present problems that were logged
	outdated bool            // what was last logged about this agent's version
}

// request is an operation for the agent's goroutine.
type request struct {
	do    func(ctx context.Context, st store) error
	reply chan error
}

// patienceAtStart is how long a host that was started waits for its store before it trusts
// the subnets on its disk: they may have been released while it was off.
const patienceAtStart = 5 * time.Second

// sessionPauseMost is the longest pause before a host tries its store again: it is to be
// connected within three seconds of the election of a new leader.
const sessionPauseMost = 2 * time.Second

func newMember(s settings, st cluster.State, save func(cluster.State) error) *cluster.Member {
	return &cluster.Member{State: st, Save: save, Nonce: newNonce, Now: time.Now, Quarantine: s.Quarantine.Duration, Version: release}
}

// errLeft is the error of a session after which run returns.
var errLeft = errors.New("this host has left")

// errNoUplink is for a host that cannot say where others reach it.
var errNoUplink = errors.New("this host has no uplink yet")

// run follows the store until ctx ends or this host has left. It begins when the kernel has
// been configured from the state on disk.
func (a *agent) run(ctx context.Context) {
	select {
	case <-a.kernel.done:
	case <-ctx.Done():
		return
	}
	a.trustDiskLater(ctx)
	wait := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		err := a.session(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, errLeft):
			return
		case errors.Is(err, errChanged):
			wait = 0
			continue
		}
		a.disconnected(err)
		if wait = min(max(2*wait, 500*time.Millisecond), sessionPauseMost); time.Since(began) > time.Minute {
			wait = 500 * time.Millisecond
		}
		a.idle(ctx, wait/2+rand.N(wait/2+1))
	}
}

// trustDiskLater makes this host ready by the state on disk if the store has not answered
// after patienceAtStart. A host without subnets goes on waiting, and one that is refused is
// not made ready; systemd, and with it the boot, is told to go on in any case. The agent's
// goroutine may be blocked in a call to the store, so the kernel's loop is told directly, and
// the agent when it takes the request.
func (a *agent) trustDiskLater(ctx context.Context) {
	s := a.member.State
	go func() {
		pause(ctx, patienceAtStart)
		if len(s.Claims) > 0 && !s.Drained && !a.refused.Load() {
			a.kernel.trust(ctx)
		}
		a.notify()
		select {
		case a.requests <- request{do: func(ctx context.Context, _ store) error {
			if !a.ready && len(a.member.State.Claims) > 0 && !a.refused.Load() {
				a.log.Warn("the store does not answer: trusting the disk")
				a.becomeReady(ctx)
			}
			return nil
		}, reply: make(chan error, 1)}:
		case <-ctx.Done():
		}
	}()
}

// idle waits until d has passed or it has answered a request, which gets no store.
func (a *agent) idle(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case r := <-a.requests:
			r.reply <- r.do(ctx, nil)
			return
		}
	}
}

// session opens the store, joins or finds this host's subnets, and follows changes until
// something fails.
func (a *agent) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if a.member.State.Told {
		return a.goOnLeaving(ctx)
	}
	st, err := openStore(a.settings)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // no call is pending
	if a.member.State.Leaving {
		if err := a.member.Leave(ctx, st); err != nil {
			return err
		}
		a.log.Info("the store has heard that this host has left")
		a.noteConnected(st)
		return a.goOnLeaving(ctx)
	}
	if err := a.identify(ctx, st); err != nil {
		return err
	}
	a.refused.Store(false)
	if err := a.reconcileAndList(ctx, st); err != nil {
		return err
	}
	a.connected(ctx, st)
	return a.follow(ctx, st)
}

// reconcileAndList makes store and state agree on this host's subnets, and reads the peers.
func (a *agent) reconcileAndList(ctx context.Context, st store) error {
	if err := a.reconcile(ctx, st); err != nil {
		a.tell() // lost subnets are known all the same
		return err
	}
	return a.list(ctx, st)
}

func (a *agent) self() cluster.Node {
	uplink := a.kernel.currentUplink()
	return cluster.Node{
		Underlay: uplink.Addresses,
		MTU:      uplink.MTU,
		MAC:      overlay.MAC(a.member.State.ID),
		WGKey:    a.kernel.key.PublicKey().String(),
		NAT:      a.settings.NAT,
		Version:  release,
	}
}

func (a *agent) reconcile(ctx context.Context, st store) error {
	if len(a.kernel.currentUplink().Addresses) == 0 {
		return errNoUplink
	}
	lost := len(a.member.State.Lost)
	err := a.member.Reconcile(ctx, st, a.self())
	if old := a.member.Outdated() != nil; old != a.outdated {
		a.outdated = old
		a.log.Warn("the least version of agents that the cluster asks for has changed", "minAgent", a.member.State.Config.MinAgent, "this", release, "tooOld", old)
	}
	if len(a.member.State.Lost) > lost {
		a.log.Error("FENCED: subnets of this host were given to another", "lost", a.member.State.Lost[lost:])
	}
	return err
}

// list reads all nodes' records and tombstones.
func (a *agent) list(ctx context.Context, st store) error {
	view, err := st.Get(ctx, cluster.PrefixNodes, cluster.PrefixReleased)
	if err != nil {
		return err
	}
	a.listing = cluster.NewListing(view)
	return a.believe()
}

// believe turns the listing into peers, saves them, reports problems, and tells the kernel's
// loop.
func (a *agent) believe() error {
	suspect := a.member.State.Suspect
	v := a.member.State.Believe(a.listing)
	a.missing = v.Missing
	if now := a.member.State.Suspect; now != suspect {
		a.log.Error("SUSPECT: no removal is believed", "why", now, "before", suspect)
	}
	problems := map[string]bool{}
	for _, p := range v.Problems {
		if problems[p] = true; !a.logged[p] {
			a.log.Warn(p)
		}
	}
	a.logged = problems
	a.board.problem("peers", v.Problems...)
	if v.Changed || a.member.State.Suspect != suspect {
		if err := a.member.Save(a.member.State); err != nil {
			return err
		}
	}
	a.tell()
	return nil
}

// tell passes the state to the kernel's loop, which writes the status when it has applied it.
func (a *agent) tell() {
	a.note()
	a.want()
}

func (a *agent) want() {
	s := a.member.State
	if s.Leaving {
		a.kernel.set(wanted{id: s.ID, config: s.Config, gone: true})
		return
	}
	a.kernel.set(wanted{
		id: s.ID, config: s.Config, claims: slices.Clone(s.Claims), lost: slices.Clone(s.Lost), peers: slices.Clone(s.Peers),
		missing: a.missing, ready: a.ready && !s.Drained, drained: s.Drained,
	})
}

func prefixesOf(all ...cluster.Owned) []netip.Prefix {
	var list []netip.Prefix
	for _, o := range all {
		list = append(list, o.Subnet)
	}
	return list
}
