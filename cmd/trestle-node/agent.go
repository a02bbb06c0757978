package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/hosts"
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

// identify is an error if another host is alive with this one's id or has published its
// WireGuard key, or if this host has no subnet yet and cannot be in the network (checkHost).
func (a *agent) identify(ctx context.Context, st store) error {
	s := &a.member.State
	view, err := st.Get(ctx, cluster.KeyConfig, cluster.PrefixAlive+s.ID, cluster.PrefixNodes+s.ID)
	if err != nil {
		return err
	}
	if value, ok := view.Keys[cluster.PrefixAlive+s.ID]; ok {
		if err := a.checkClone(value.Data); err != nil {
			return err
		}
	}
	if err := a.checkOutdated(view); err != nil {
		return err
	}
	if err := a.checkKey(ctx, st, view); err != nil {
		return err
	}
	value, ok := view.Keys[cluster.KeyConfig]
	if !ok || len(s.Claims) > 0 {
		return nil
	}
	config, err := cluster.ParseConfig(value.Data)
	if err != nil {
		return err
	}
	return checkHost(config)
}

// checkOutdated is an error where this agent is known to be too old for the cluster, and has
// no subnet to keep: until the configuration changes there is nothing more to ask for.
func (a *agent) checkOutdated(view cluster.View) error {
	s := a.member.State
	if len(s.Claims)+len(s.Pending) > 0 || a.member.Outdated() == nil {
		return nil
	}
	config, err := cluster.ParseConfig(view.Keys[cluster.KeyConfig].Data)
	if err != nil {
		return nil //nolint:nilerr // Reconcile says what is wrong with it
	}
	return config.CheckAgent(a.member.Version)
}

// checkKey refuses to publish a WireGuard key that another host has published before: peers
// would take this host for that one. A key that this host has published stays its own.
func (a *agent) checkKey(ctx context.Context, st store, view cluster.View) error {
	key, id := a.kernel.key.PublicKey().String(), a.member.State.ID
	if own, err := cluster.ParseNode(view.Keys[cluster.PrefixNodes+id].Data); err == nil && own.WGKey == key {
		return nil
	}
	all, err := st.Get(ctx, cluster.PrefixNodes)
	if err != nil {
		return err
	}
	for other, n := range cluster.NewListing(all).Nodes {
		if other != id && n.WGKey == key {
			return fmt.Errorf("the WireGuard key of this host is that of node %s (%s) at %v; %s; or, if that host is gone for good, trestle cluster release --node-is-dead %s",
				n.Name, other, n.Underlay, cluster.WayOutOfOneKey, n.Name)
		}
	}
	return nil
}

// checkHost is an error if this host cannot be in the network: because its kernel lacks what
// the backend needs, or it uses addresses of the pools for something else.
func checkHost(config cluster.Config) error {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return err
	}
	err = host.CheckBackend(overlay.Backend(config.Backend))
	if err := errors.Join(err, host.Close()); err != nil {
		return fmt.Errorf("backend %s: %w", config.Backend, err)
	}
	return checkOverlaps(config)
}

func checkOverlaps(config cluster.Config) error {
	host, err := overlay.Open(nftDir)
	if err != nil {
		return err
	}
	defer func() { _ = host.Close() }() // only looked at
	found, err := host.Overlaps(config.Pools(), bridgesOf(config)...)
	if err != nil {
		return err
	}
	for _, o := range found {
		for _, n := range config.Networks {
			for _, p := range n.Pools() {
				if p.Prefix.Overlaps(o.Prefix) {
					return fmt.Errorf("pool %s of network %s overlaps %s on this host; choose another pool (trestle cluster config set), or remove that", p.Prefix, n.Name, o.What)
				}
			}
		}
	}
	return clashing(config.Pools())
}

// alive is the value of a host's sign of life.
type alive struct {
	Instance string         `json:"instance"`
	Underlay []netip.Prefix `json:"underlay"`
	Since    time.Time      `json:"since"`
}

// checkClone is an error if the sign of life under this host's id is another process's, at
// other addresses: then the disk was copied.
func (a *agent) checkClone(data []byte) error {
	var other alive
	if err := json.Unmarshal(data, &other); err != nil {
		return nil //nolint:nilerr // a sign of life that cannot be read proves nothing
	}
	mine := a.kernel.currentUplink().Addresses
	elsewhere := !slices.ContainsFunc(other.Underlay, func(p netip.Prefix) bool { return slices.Contains(mine, p) })
	if other.Instance != instance && elsewhere && len(other.Underlay) > 0 {
		a.refused.Store(true)
		return fmt.Errorf("node %s is alive at %v, and this host is %v; was its disk copied? trestle node reset-id makes this one a host of its own",
			a.member.State.ID, other.Underlay, mine)
	}
	return nil
}

// instance distinguishes this process from others.
var instance = newNonce()

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
		return errors.New("this host has no uplink yet")
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

// show writes the status at once.
func (a *agent) show() {
	a.note()
	a.board.write(true)
}

// note copies the state to the status.
func (a *agent) note() {
	s := a.member.State
	if s.Leaving || a.left {
		state, why := a.leaveState()
		a.board.note(func(b *hosts.Status) { b.State, b.Why, b.Subnets, b.Peers = state, why, nil, nil })
		return
	}
	restart, err := leases(s.Lost)
	if err != nil {
		a.log.Error("list containers with addresses of lost subnets", "error", err)
	}
	a.board.note(func(b *hosts.Status) {
		b.ID, b.Name, b.Subnets, b.Lost, b.Restart = s.ID, s.Name, subnetsOf(s.Claims), subnetsOf(s.Lost), restart
		b.Pools = s.Config.Pools()
		b.State, b.Why = a.standing(restart)
	})
}

// standing is this host's state for people: the worst that applies, and why.
func (a *agent) standing(restart []container) (state, why string) {
	s := a.member.State
	switch {
	case len(s.Lost) > 0 && len(restart) > 0:
		return hosts.Fenced, howMany(restart) + " addresses of subnets that are another host's; restart them"
	case len(s.Lost) > 0:
		return hosts.Fenced, "subnets of this host were given to another; trestle node accept takes note of it"
	case s.Suspect != "":
		return hosts.Suspect, s.Suspect
	case a.member.Outdated() != nil:
		return hosts.Outdated, a.member.Outdated().Error() + "; routes and containers go on, and nothing new is claimed or published"
	case s.Drained:
		return hosts.Drained, "the runtime starts no containers; trestle node undrain ends it"
	case !a.ready:
		return hosts.Starting, ""
	}
	return hosts.Ready, ""
}

// becomeReady waits until the runtime's network lists are written, and then tells systemd.
func (a *agent) becomeReady(ctx context.Context) {
	if a.ready {
		return
	}
	a.ready = true
	a.want()
	a.kernel.flush(ctx)
	a.show()
	a.notify()
}

// notify tells systemd, once, that units ordered after this one may start.
func (a *agent) notify() {
	a.notified.Do(func() {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			a.log.Warn("tell systemd", "error", err)
		}
	})
}

func (a *agent) connected(ctx context.Context, st store) {
	if !a.board.now().Store.Connected {
		a.log.Info("connected", "store", st.Describe(), "peers", len(a.member.State.Peers))
	}
	a.noteConnected(st)
	a.becomeReady(ctx)
}

func (a *agent) noteConnected(st store) {
	a.board.problem("store")
	a.board.update(func(s *hosts.Status) {
		if !s.Store.Connected {
			s.Store = hosts.Store{Name: st.Describe(), Connected: true, Since: time.Now().UTC()}
		}
	})
}

// disconnected reports that there is no connection to the store. The network stays as it is.
func (a *agent) disconnected(err error) {
	text := "unknown"
	if err != nil {
		text = cni.Plain(err).Error()
	}
	before := a.board.now().Store
	if before.Connected || before.Error != text {
		a.log.Warn("not connected to the store; everything stays as it is", "error", text)
	}
	a.board.problem("store", "not connected to the store: "+text)
	a.board.update(func(s *hosts.Status) {
		if s.Store.Connected || s.Store.Since.IsZero() {
			s.Store.Since = time.Now().UTC()
		}
		s.Store.Connected, s.Store.Error = false, text
	})
}

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
	go func() { failed <- st.Announce(ctx, key, sign) }()
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

func (a *agent) signOfLife() []byte {
	data, err := json.Marshal(alive{
		Instance: instance,
		Underlay: a.kernel.currentUplink().Addresses,
		Since:    time.Now().UTC(),
	})
	if err != nil {
		return []byte("{}")
	}
	return data
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
		if a.member.State.Suspect != "" || len(a.missing) > 0 {
			return a.list(ctx, st)
		}
		a.show() // containers with addresses of lost subnets may have ended
		return nil
	}
	a.log.Info("the store is not as it was; look at everything")
	if err := a.reconcileAndList(ctx, st); err != nil {
		return err
	}
	return errChanged // the watch may wait for a revision far in the future
}

func prefixesOf(all ...cluster.Owned) []netip.Prefix {
	var list []netip.Prefix
	for _, o := range all {
		list = append(list, o.Subnet)
	}
	return list
}
