// Package soak takes a host through a long time in a short one.
package soak

import (
	"context"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// size is how long a run is, and the seed of its plan where nobody asks for another. It ends
// before its calls are done when its time is up.
type size struct {
	calls, workers int
	time           time.Duration
	seed           uint64
}

// sizeOf reads $SOAK: quick, full, or a number of calls.
func sizeOf(t *testing.T, text string) size {
	long := size{workers: 32, time: 2 * time.Hour, seed: uint64(time.Now().UnixNano())}
	switch text {
	case "", "quick": // the same plan each time, since whoever changes something else is not to look for what it has found
		return size{calls: 1200, workers: 6, time: 25 * time.Second, seed: 1}
	case "full":
		long.calls = 20_000
		return long
	}
	calls, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("SOAK: %q is none of quick, full, and a number of ADDs and DELs", text)
	}
	long.calls = calls
	return long
}

// TestSoak lets workers attach and detach containers of three networks by all plugins of a
// chain, while a third of the calls are killed at some moment, namespaces vanish, rules are flushed and old ones loaded,
// /run is wiped, the index of leases damaged, and the host boots. All along no address and
// no port is given twice and everyone who is there answers; after each round the host
// is looked at as a whole: nothing of anyone who is gone is left, and everything of everyone
// who is there works. SOAK_SEED repeats the plan of a run; how the workers' calls meet, only
// the scheduler knows.
func TestSoak(t *testing.T) {
	t.Parallel()
	size := sizeOf(t, os.Getenv("SOAK"))
	seed := size.seed
	if text := os.Getenv("SOAK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SOAK_SEED: %v", err)
		}
	}
	t.Logf("SOAK_SEED=%d SOAK=%d: %d workers", seed, size.calls, size.workers)
	w := newWorld(t, seed, size.calls, size.workers)
	w.h.Outside.Serve("tcp", ":80")
	ctx, cancel := context.WithTimeout(context.Background(), size.time)
	defer cancel()
	w.stop = ctx
	turns, asked := 0, 0
	for i, r := range w.plan.rounds {
		if w.over() {
			break
		}
		w.note("round %d", i)
		done, probed := w.round(r)
		turns, asked = turns+done, asked+probed
		if size.workers > 8 {
			t.Logf("round %d of %d: %d ADDs and DELs, %d executions, %d killed", i+1, len(w.plan.rounds), turns, w.calls.Load(), w.kills.Load())
		}
	}
	w.leave()
	t.Logf("%d of %d ADDs and DELs, %d executions, %d of them killed, %d boots, %d questions meanwhile, %d faults",
		turns, size.calls, w.calls.Load(), w.kills.Load(), w.boots-1, asked, w.errors.Load())
	if turns == 0 || w.kills.Load() == 0 {
		t.Errorf("got %d turns, %d kills, want some", turns, w.kills.Load())
	}
}

func (w *world) round(r round) (done, asked int) {
	w.done.Store(0)
	var all, beside sync.WaitGroup
	over := make(chan bool)
	beside.Go(func() { asked = w.probe(over) })
	beside.Go(func() { w.disturbances(r, over) })
	for worker, turns := range r.workers {
		all.Go(func() {
			for _, turn := range turns {
				if w.over() {
					return
				}
				w.all[worker*slots+turn.slot].take(turn)
				w.done.Add(1)
			}
		})
	}
	all.Wait()
	close(over)
	beside.Wait()
	if r.boot != nil {
		w.boot(r.boot)
	}
	w.rest()
	return int(w.done.Load()), asked
}

// disturbances come at their places in the plan.
func (w *world) disturbances(r round, over <-chan bool) {
	total := float64(len(r.workers) * turnsInRound)
	for _, d := range r.disturbances {
		for float64(w.done.Load()) < d.after*total {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
		}
		w.disturb(d)
	}
}

// TestPlanIsOfTheSeed: one seed has one plan, another another.
func TestPlanIsOfTheSeed(t *testing.T) {
	t.Parallel()
	first, again, other := describe(newPlan(1, 500, 4)), describe(newPlan(1, 500, 4)), describe(newPlan(2, 500, 4))
	if first != again || first == other {
		t.Errorf("got another plan for the same seed, or the same for another")
	}
}
