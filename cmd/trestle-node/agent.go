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
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/overlay"
)

// agent is this host's member of the cluster: it follows the store, and hands what it
// believes to the kernel's loop. Its fields belong to the goroutine that calls run.
type agent struct {
	settings settings
	log      *slog.Logger
	board    *board
	kernel   *kernel
	member   *cluster.Member
	requests chan request
	ended    chan struct{} // closed when run has returned

	listing *cluster.Listing // of the session
	missing []string
	ready   bool
	left    bool
	beats   int // of this session
	seen    map[string]time.Time
	looked  int // how many hosts there were when their signs of life were looked at
	// refused says that another host is alive with this one's id: the disk is a copy.
	refused atomic.Bool
	// notified is done when systemd knows.
	notified sync.Once
	said     map[string]bool // problems that were logged
	outdated bool            // which was logged
}

// request is something that a person asks of the running agent.
type request struct {
	do    func(ctx context.Context, st store) error
	reply chan error
}

// patienceAtStart is how long a host waits for its store after it was started, before it
// trusts the subnets on its disk: they may have been released while it was off.
const patienceAtStart = 5 * time.Second

// sessionPauseMost is how long a host waits at most until it tries its store again: with a
// leader there again it is to be in within three seconds.
const sessionPauseMost = 2 * time.Second

func newMember(s settings, st cluster.State, save func(cluster.State) error) *cluster.Member {
	return &cluster.Member{State: st, Save: save, Nonce: newNonce, Now: time.Now, Quarantine: s.Quarantine.Duration, Version: release}
}

// errLeft ends the agent: this host has left.
var errLeft = errors.New("this host has left")

// run follows the store until ctx ends or this host has left. It begins when the kernel
// has been brought to what the disk says.
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

// trustDiskLater makes this host ready by what its disk says, where the store has not
// answered after patienceAtStart. A host that was never in the network goes on waiting, but
// systemd, and with it the boot, does not; one that its store has refused is not made
// ready. The agent's goroutine may be blocked in a question to the store, so the kernel's
// loop is told directly, and the agent when it has time.
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

// idle waits until d has passed or one request was answered, with no store at hand.
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
	defer func() { _ = st.Close() }() // nothing is under way
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

// identify is an error where another host is alive with this one's id, where another has
// its WireGuard key, or where a host that has no subnet yet cannot be in the network.
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

// checkKey refuses to publish a WireGuard key that another host has published before:
// whoever this host spoke to would take it for that one. Once published it is this
// host's, and another that comes with it is refused.
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

// checkHost looks for what would keep this host from being in the network: a kernel
// that lacks what the backend needs, and addresses of the pools that it has already.
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
	Boot     string         `json:"boot"`
	Instance string         `json:"instance"`
	Underlay []netip.Prefix `json:"underlay"`
	Since    time.Time      `json:"since"`
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // none is as good as unknown
	return strings.TrimSpace(string(data))
}

// checkClone: the same id with another boot and another address is a disk that was copied.
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

// instance tells this process from others.
var instance = newNonce()

// reconcileAndList makes store and state agree on this host's subnets, and reads the peers.
func (a *agent) reconcileAndList(ctx context.Context, st store) error {
	if err := a.reconcile(ctx, st); err != nil {
		a.tell() // what was lost is known all the same
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
		a.log.Warn("the cluster's least version of agents has changed", "minAgent", a.member.State.Config.MinAgent, "this", release, "tooOld", old)
	}
	if len(a.member.State.Lost) > lost {
		a.log.Error("FENCED: subnets of this host were given to another", "lost", a.member.State.Lost[lost:])
	}
	return err
}

// list reads all peers.
func (a *agent) list(ctx context.Context, st store) error {
	view, err := st.Get(ctx, cluster.PrefixNodes, cluster.PrefixReleased)
	if err != nil {
		return err
	}
	a.listing = cluster.NewListing(view)
	return a.believe()
}

// believe makes peers of the listing, saves them, reports problems, and tells the kernel.
func (a *agent) believe() error {
	suspect := a.member.State.Suspect
	v := a.member.State.Believe(a.listing)
	a.missing = v.Missing
	if now := a.member.State.Suspect; now != suspect {
		a.log.Error("SUSPECT: no removal is believed", "why", now, "before", suspect)
	}
	problems := map[string]bool{}
	for _, p := range v.Problems {
		if problems[p] = true; !a.said[p] {
			a.log.Warn(p)
		}
	}
	a.said = problems
	a.board.problem("peers", v.Problems...)
	if v.Changed || a.member.State.Suspect != suspect {
		if err := a.member.Save(a.member.State); err != nil {
			return err
		}
	}
	a.tell()
	return nil
}

// tell hands the state to the kernel's loop, which writes the status when it has done what
// that asks for.
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

// note puts the state into the status.
func (a *agent) note() {
	s := a.member.State
	if s.Leaving || a.left {
		state, why := a.leaveState()
		a.board.note(func(b *Status) { b.State, b.Why, b.Subnets, b.Peers = state, why, nil, nil })
		return
	}
	restart, err := leases(s.Lost)
	if err != nil {
		a.log.Error("list containers with addresses of lost subnets", "error", err)
	}
	a.board.note(func(b *Status) {
		b.ID, b.Name, b.Subnets, b.Lost, b.Restart = s.ID, s.Name, subnetsOf(s.Claims), subnetsOf(s.Lost), restart
		b.Pools = s.Config.Pools()
		b.State, b.Why = a.standing(restart)
	})
}

// standing is the state for people: the worst that is true of this host, and why.
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

// becomeReady has the runtime's lists written, and then tells systemd.
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
	a.board.update(func(s *Status) {
		if !s.Store.Connected {
			s.Store = StoreInfo{Name: st.Describe(), Connected: true, Since: time.Now().UTC()}
		}
	})
}

// disconnected reports that the store is not reached. The network stays as it is.
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
	a.board.update(func(s *Status) {
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
	// The goroutines are given what they need: the state changes under them, as by leave.
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

// drain adds the changes that are already queued: when a thousand hosts join at once, the
// peers are worked out a few times rather than a thousand.
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
		Boot:     bootID(),
		Instance: instance,
		Underlay: a.kernel.currentUplink().Addresses,
		Since:    time.Now().UTC(),
	})
	if err != nil {
		return []byte("{}")
	}
	return data
}

// nextBeat is a heartbeat, give or take a fifth: a thousand hosts do not ask at once.
func (a *agent) nextBeat() time.Duration {
	d := a.settings.Heartbeat.Duration
	return d - d/5 + rand.N(2*d/5+1)
}

// take applies changes of nodes' records. Where one was deleted the tombstones are read:
// they prove whether its host has left.
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

// lookEvery is the number of heartbeats between two looks at the signs of life, unless a
// host has joined: the answer grows with the hosts, and only people use it.
const lookEvery = 10

// see notes who has given a sign of life.
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

// beat is one heartbeat: it asks whether the store still holds what this host relies on.
func (a *agent) beat(ctx context.Context, st store) error {
	a.beats++
	if a.beats%lookEvery == 1 || len(a.listing.Nodes) > a.looked {
		if err := a.see(ctx, st); err != nil {
			return err
		}
	}
	fine, err := a.member.Glance(ctx, st, a.self())
	if err != nil {
		return err
	}
	if fine {
		if a.member.State.Suspect != "" || len(a.missing) > 0 {
			return a.list(ctx, st)
		}
		a.show() // containers of lost subnets may be gone
		return nil
	}
	a.log.Info("the store is not as it was; look at everything")
	if err := a.reconcileAndList(ctx, st); err != nil {
		return err
	}
	return errChanged // the watch may wait for a revision that is far off
}

func prefixesOf(all ...cluster.Owned) []netip.Prefix {
	var list []netip.Prefix
	for _, o := range all {
		list = append(list, o.Subnet)
	}
	return list
}
