package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
)

type object = map[string]any

// world is a host, those who are on it, and what has befallen it.
type world struct {
	t    *testing.T
	h    *host.Host
	plan plan
	seed uint64
	stop context.Context // the time is up
	all  []*attachment   // worker by worker
	durations
	claims

	// still is held for reading by whoever acts, for writing by who needs that nobody does.
	still sync.RWMutex
	// clock counts disturbances; lost is when records were lost for the last time.
	clock, lost atomic.Uint64
	done        atomic.Int64 // turns of this round
	calls       atomic.Int64 // of all
	kills       atomic.Int64
	errors      atomic.Int64

	eventsLock sync.Mutex
	events     []string
	saved      bool // there is a saved ruleset
	boots      int
}

func newWorld(t *testing.T, seed uint64, calls, workers int) *world {
	w := &world{t: t, h: host.New(t), plan: newPlan(seed, calls, workers), seed: seed}
	w.h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	w.typical = map[string]time.Duration{}
	w.holders = map[string]*attachment{}
	for worker := range workers {
		for slot := range slots {
			a := &attachment{w: w, worker: worker, slot: slot, network: w.plan.networks[networkOf(worker, slot)], port: portOf(worker, slot)}
			a.renew()
			w.all = append(w.all, a)
		}
	}
	for i, n := range w.plan.networks {
		w.h.InstallNetwork(fmt.Sprintf("%d.conflist", i), n.list())
	}
	w.boot(nil)
	return w
}

// list is the network as runtimes have it.
func (n network) list() string {
	var plugins []any
	for i := range chain {
		plugins = append(plugins, n.config(i))
	}
	return mustJSON(object{"cniVersion": "1.1.0", "name": n.name, "plugins": plugins})
}

// config is that of the chain's i-th plugin.
func (n network) config(i int) object {
	config := object{"type": chain[i]}
	switch chain[i] {
	case "bridge":
		var ranges []any
		for _, subnet := range n.subnets {
			ranges = append(ranges, []any{object{"subnet": subnet}})
		}
		for key, value := range n.bridgeKeys {
			config[key] = value
		}
		config["bridge"], config["isDefaultGateway"], config["ipMasq"], config["ipMasqBackend"] = n.bridge, true, true, n.backend
		config["ipam"] = object{"type": "host-local", "ranges": ranges}
	case "tuning":
		config["sysctl"] = object{"net.core.somaxconn": "512"}
	case "bandwidth":
		for key, value := range map[string]int{"ingressRate": 800_000_000, "ingressBurst": 80_000_000, "egressRate": 800_000_000, "egressBurst": 80_000_000} {
			config[key] = value
		}
	case "portmap":
		config["backend"], config["capabilities"] = n.backend, object{"portMappings": true}
	case "firewall":
		config["ingressPolicy"] = n.policy
	}
	return config
}

func mustJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is made of maps, texts and numbers
	}
	return string(data)
}

// note keeps what has befallen the host.
func (w *world) note(format string, args ...any) {
	w.eventsLock.Lock()
	defer w.eventsLock.Unlock()
	w.events = append(w.events, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
	w.events = w.events[max(0, len(w.events)-60):]
}

const maxErrors = 10

// fault reports one, and what came before it.
func (w *world) fault(a *attachment, format string, args ...any) {
	n := w.errors.Add(1)
	if n > maxErrors {
		return
	}
	text := fmt.Sprintf(format, args...)
	if a != nil {
		text = a.id() + ": " + text + "\n\t" + strings.Join(a.history, "\n\t")
	}
	w.eventsLock.Lock()
	defer w.eventsLock.Unlock()
	w.t.Errorf("SOAK_SEED=%d: %s %s", w.seed, time.Now().Format("05.000"), text)
	if n == 1 {
		w.t.Logf("what had befallen the host before:\n\t%s", strings.Join(w.events, "\n\t"))
	}
}

func (w *world) over() bool { return w.stop.Err() != nil || w.errors.Load() > maxErrors }

// durations are what calls take, by plugin and command.
type durations struct {
	lock    sync.Mutex
	typical map[string]time.Duration
}

func (d *durations) learn(key string, took time.Duration) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.typical[key] == 0 {
		d.typical[key] = took
	}
	d.typical[key] += (took - d.typical[key]) / 8
}

func (d *durations) typicalOf(key string) time.Duration {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.typical[key] == 0 {
		return 4 * time.Millisecond
	}
	return d.typical[key]
}

// claims are what those who are there have: addresses and host ports.
type claims struct {
	claimsLock sync.Mutex
	holders    map[string]*attachment
}

// claim returns who has it already.
func (c *claims) claim(what string, a *attachment) *attachment {
	c.claimsLock.Lock()
	defer c.claimsLock.Unlock()
	if other := c.holders[what]; other != nil && other != a {
		return other
	}
	c.holders[what] = a
	return nil
}

func (c *claims) drop(a *attachment) {
	c.claimsLock.Lock()
	defer c.claimsLock.Unlock()
	for what, holder := range c.holders {
		if holder == a {
			delete(c.holders, what)
		}
	}
}

// answer is what a plugin said; killed ones said nothing.
type answer struct {
	host.Answer
	killed bool
}

// exec runs a plugin as runtimes do, and kills it where the plan says so.
func (w *world) exec(call host.Call, env []string, k kill) answer {
	key := call.Plugin + " " + call.Command
	a, took, err := w.run([]string{filepath.Join(w.h.Dirs().Trestle, call.Plugin)}, env, call.Config, w.moment(key, k))
	if err != nil {
		w.fault(nil, "%s: %v", key, err)
	}
	if !a.killed {
		w.learn(key, took)
	} else {
		w.kills.Add(1)
	}
	w.calls.Add(1)
	return a
}

// moment is when to kill; negative where not.
func (w *world) moment(key string, k kill) time.Duration {
	if k.plugin < 0 {
		return -1
	}
	return time.Duration(k.at * float64(w.typicalOf(key)))
}

// patience is for what must not hang.
const patience = time.Minute

func (w *world) run(args, env []string, stdin string, killAfter time.Duration) (a answer, took time.Duration, err error) {
	var stdout, stderr strings.Builder
	var state *os.ProcessState
	err = w.h.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), strings.NewReader(stdin), &stdout, &stderr
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return err
		}
		if killAfter >= 0 {
			timer := time.AfterFunc(killAfter, func() { _ = cmd.Process.Kill() }) // it may be done
			defer timer.Stop()
		}
		waited := cmd.Wait()
		took, state = time.Since(began), cmd.ProcessState
		if ctx.Err() != nil {
			return fmt.Errorf("%v: not done after %v", args, patience)
		}
		if state == nil {
			return waited
		}
		return nil
	})
	a.Stdout, a.Stderr = stdout.String(), stderr.String()
	if state != nil {
		a.Code = state.ExitCode()
		a.killed = a.Code == -1
	}
	return a, took, err
}
