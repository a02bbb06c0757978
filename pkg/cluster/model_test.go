package cluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

var (
	seed   = flag.Uint64("seed", 1, "the first seed of the model test; 0 takes the time")
	rounds = flag.Int("rounds", 100, "how many seeds of the model test")
)

// TestModel: hosts join, leave, crash and are cut off; answers are lost; the store is
// wiped, and restored from what a host knows or from an old backup; administrators
// release hosts, sometimes live ones. At no moment do two hosts believe in the same subnet,
// except after the release of a live host, which gives up its subnets as soon as it sees that.
//
// The administrator does what docs/hosts.md asks: a backup is restored frozen, and thawed
// when every host that is alive has its subnets in the store.
func TestModel(t *testing.T) {
	t.Parallel()
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	did := map[string]int{}
	for round := range uint64(*rounds) {
		w := newWorld(t, first+round)
		w.run(400)
		for what, n := range w.did {
			did[what] += n
		}
		if t.Failed() {
			t.Fatalf("repeat it: go test ./pkg/cluster -run TestModel -seed %d -rounds 1", first+round)
		}
	}
	t.Logf("seeds from %d: %v", first, did)
	for _, what := range []string{"joined", "left", "crashed", "answers lost", "wiped", "rolled back", "restored", "thawed", "released", "fenced", "full"} {
		if did[what] == 0 {
			t.Errorf("in %d rounds nobody ever %s: the model proves nothing of it", *rounds, what)
		}
	}
}

const modelNodes, modelConfig = 12, `{"id": "c1", "networks": [{"name": "n",
	"ipv4": {"pool": "10.0.0.0/24", "subnetLen": 27}, "ipv6": {"pool": "fd00::/60", "subnetLen": 64}}]}`

// world is hosts and a store. One host acts at a time, and pauses before each call to the store.
type world struct {
	t      *testing.T
	rand   *rand.Rand
	store  *memory
	backup *memory
	hosts  []*modelHost
	nonces int
	did    map[string]int
	// wrongly counts how often each claim was released while its owner was alive. forgotten are
	// those of which the store has lost the tombstone since: nothing is guaranteed for them.
	wrongly   map[cluster.Owned]int
	forgotten map[cluster.Owned]bool
}

type modelHost struct {
	*world
	name      string
	disk      cluster.State
	member    *cluster.Member // nil while no agent runs
	cut       bool            // it cannot reach the store
	resume    chan error      // the result of the call before which it has paused
	paused    chan bool       // whether it has paused before a call, or is done
	reconcile bool            // it runs Reconcile
	lost      int             // the number of subnets that it had lost before
	before    map[cluster.Owned]int
}

var (
	errCut   = errors.New("cut off")
	errLost  = errors.New("the answer was lost")
	errCrash = errors.New("crashed")
)

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 0)), store: newMemory(), did: map[string]int{}, wrongly: map[cluster.Owned]int{}, forgotten: map[cluster.Owned]bool{}}
	config, err := cluster.ParseConfig([]byte(modelConfig))
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Init(t.Context(), w.store, config); err != nil {
		t.Fatal(err)
	}
	w.backup = w.store.clone()
	for i := range modelNodes {
		id := strconv.Itoa(i)
		w.hosts = append(w.hosts, &modelHost{
			world: w, name: "h" + id, disk: cluster.State{ID: "id" + id, Name: "h" + id},
			resume: make(chan error), paused: make(chan bool),
		})
	}
	return w
}

func (w *world) run(steps int) {
	for range steps {
		w.step()
		w.check()
		if w.t.Failed() {
			break
		}
	}
	for _, h := range w.hosts { // so that no goroutine is left
		for h.member != nil {
			h.goOn(errCrash)
		}
	}
}

func (w *world) step() {
	h := w.hosts[w.rand.IntN(len(w.hosts))]
	switch dice := w.rand.IntN(1000); {
	case dice < 20:
		h.cut = !h.cut
	case dice < 22:
		w.wipe()
	case dice < 40:
		w.restoreFrom(h)
	case dice < 46:
		w.backup = w.store.clone()
	case dice < 48:
		w.rollBack()
	case dice < 70:
		w.release(h)
	case dice < 120:
		w.thaw()
	case h.member == nil && dice < 160:
		h.begin(false)
	case h.member == nil:
		h.begin(true)
	case dice < 180:
		w.count("crashed")
		h.goOn(errCrash)
	case h.cut:
		h.goOn(errCut)
	case dice < 200:
		w.count("answers lost")
		h.goOn(errLost)
	default:
		h.goOn(nil)
	}
}

func (w *world) count(what string) { w.did[what]++ }

// begin starts Reconcile or Leave on the host, up to its first call to the store.
func (h *modelHost) begin(reconcile bool) {
	reconcile = reconcile && !h.disk.Leaving
	h.reconcile, h.before, h.lost = reconcile, maps.Clone(h.wrongly), len(h.disk.Lost)
	h.member = &cluster.Member{
		State: clone(h.disk), Now: func() time.Time { return time.Unix(0, 0).Add(time.Duration(h.store.revision) * time.Second) },
		Quarantine: 10 * time.Second,
		Nonce:      func() string { h.nonces++; return strconv.Itoa(h.nonces) },
		Save:       func(s cluster.State) error { h.disk = clone(s); return nil },
	}
	member := h.member
	go func() {
		defer func() { h.paused <- false }()
		if !reconcile {
			err := member.Leave(context.Background(), h)
			if err == nil {
				err = member.EndLeave()
			}
			h.finish(err, "left")
			return
		}
		self := cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, MTU: 1500}
		had := len(member.State.Claims)
		err := member.Reconcile(context.Background(), h, self)
		if err == nil && had == 0 {
			h.count("joined")
		}
		if err == nil {
			err = h.believe(member)
		}
		h.finish(err, "reconciled")
	}()
	h.wait()
}

// believe lists the peers, as the agent does after Reconcile.
func (h *modelHost) believe(member *cluster.Member) error {
	view, err := h.Get(context.Background(), cluster.PrefixNodes, cluster.PrefixReleased)
	if err != nil {
		return err
	}
	member.State.Believe(cluster.NewListing(view))
	for _, peer := range member.State.Peers {
		for _, o := range peer.Subnets {
			if slices.ContainsFunc(member.State.Claims, func(mine cluster.Owned) bool { return mine.Subnet == o.Subnet }) {
				return fmt.Errorf("%s routes its own %s to %s", h.name, o.Subnet, peer.Name)
			}
		}
	}
	return member.Save(member.State)
}

func (h *modelHost) finish(err error, what string) {
	if len(h.disk.Lost) > h.lost {
		h.count("fenced")
	}
	switch {
	case err == nil:
		h.count(what)
	case errors.Is(err, cluster.ErrFull):
		h.count("full")
	case errors.Is(err, errCut), errors.Is(err, errLost), errors.Is(err, errCrash), errors.Is(err, cluster.ErrFrozen), errors.Is(err, cluster.ErrNoConfig), errors.Is(err, cluster.ErrBusy):
		h.count("gave up")
	default:
		h.t.Errorf("%s: %v", h.name, err)
	}
	if err == nil && h.reconcile {
		h.fencedAtFirstSight()
	}
}

// fencedAtFirstSight: a host that was released before it began Reconcile, and has read the store,
// has no subnet any more that the store gives to another.
func (h *modelHost) fencedAtFirstSight() {
	for _, o := range h.disk.Claims {
		if h.before[o] > 0 && h.before[o] == h.wrongly[o] {
			delete(h.wrongly, o) // it is the owner again, if any host is
		}
	}
	for o := range h.before {
		if slices.Contains(h.disk.Lost, o) {
			delete(h.wrongly, o)
		}
	}
}

// goOn lets the host make its call, and go on to its next one.
func (h *modelHost) goOn(fate error) {
	h.resume <- fate
	h.wait()
}

func (h *modelHost) wait() {
	if !<-h.paused {
		h.member = nil
	}
}

// ask pauses before a call, and returns the error that the call is to have.
func (h *modelHost) ask() error {
	h.paused <- true
	return <-h.resume
}

func (h *modelHost) Get(ctx context.Context, prefixes ...string) (cluster.View, error) {
	if err := h.ask(); err != nil {
		return cluster.View{}, err
	}
	return h.store.Get(ctx, prefixes...)
}

// Commit may do the transaction although its answer is lost.
func (h *modelHost) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	fate := h.ask()
	if errors.Is(fate, errCut) || errors.Is(fate, errCrash) && h.rand.IntN(2) == 0 {
		return false, fate
	}
	done, err := h.store.Commit(ctx, txn)
	return done, errors.Join(err, fate)
}

func (h *modelHost) Watch(ctx context.Context, p string, after int64, f func([]cluster.Change)) error {
	return h.store.Watch(ctx, p, after, f)
}

func (w *world) wipe() {
	w.count("wiped")
	w.forget()
	w.store = newMemory()
	w.store.id = strconv.Itoa(w.rand.IntN(3))
}

// forget records that the store has lost its tombstones.
func (w *world) forget() {
	for o := range w.wrongly {
		w.forgotten[o] = true
	}
}

func (w *world) restoreFrom(h *modelHost) {
	if view, err := w.store.Get(context.Background(), cluster.KeyConfig); err != nil || len(view.Keys) > 0 || h.disk.Config.ID == "" {
		return
	}
	w.count("restored")
	if err := cluster.Restore(context.Background(), w.store, h.disk); err != nil {
		w.t.Error(err)
	}
}

func (w *world) rollBack() {
	w.count("rolled back")
	w.forget()
	w.store = w.backup.clone()
	if err := cluster.Freeze(context.Background(), w.store, "administrator", "restored from a backup"); err != nil {
		w.t.Error(err)
	}
}

// release is an administrator who believes that a host is dead.
func (w *world) release(h *modelHost) {
	err := cluster.Release(context.Background(), w.store, h.disk.ID, time.Unix(w.store.revision, 0))
	if errors.Is(err, cluster.ErrUnknown) {
		return
	}
	if err != nil {
		w.t.Error(err)
	}
	w.count("released")
	for _, o := range slices.Concat(h.disk.Claims, h.disk.Pending, h.believed()) {
		w.wrongly[o]++
	}
}

// thaw is an administrator who has made sure that every live host is in the store.
func (w *world) thaw() {
	view, err := w.store.Get(context.Background(), cluster.PrefixClaims, cluster.KeyFrozen, cluster.KeyConfig)
	if err != nil || len(view.Keys) == 0 {
		return
	}
	if _, frozen := view.Keys[cluster.KeyFrozen]; !frozen {
		return
	}
	claims := cluster.Claims(view)
	for _, h := range w.hosts {
		for _, o := range h.believed() {
			if !slices.Contains(claims, o) && w.wrongly[o] == 0 && !w.forgotten[o] {
				return
			}
		}
		// A host that has paused may be about to believe it.
		for _, o := range h.disk.Pending {
			if !slices.Contains(claims, o) && h.member != nil {
				return
			}
		}
	}
	w.count("thawed")
	if err := cluster.Thaw(context.Background(), w.store); err != nil {
		w.t.Error(err)
	}
}

// believed are the subnets that the host would use: those of the state on disk, on which it acts.
func (h *modelHost) believed() []cluster.Owned { return h.disk.Claims }

// check is the invariant.
func (w *world) check() {
	type holder struct {
		host *modelHost
		cluster.Owned
	}
	holders := map[netip.Prefix]holder{}
	for _, h := range w.hosts {
		for _, o := range h.believed() {
			if w.wrongly[o] > 0 || w.forgotten[o] {
				continue
			}
			if other, taken := holders[o.Subnet]; taken {
				w.t.Errorf("%s is believed in by %s (nonce %s) and by %s (nonce %s)", o.Subnet, other.host.name, other.Nonce, h.name, o.Nonce)
			}
			holders[o.Subnet] = holder{h, o}
		}
	}
}

func clone(s cluster.State) cluster.State {
	s.Claims, s.Pending, s.Lost, s.Peers = slices.Clone(s.Claims), slices.Clone(s.Pending), slices.Clone(s.Lost), slices.Clone(s.Peers)
	return s
}
