// Command soak runs what takes too long for the tests of networks over several hosts: an
// etcd that stands still for 40 seconds, a thousand hosts that join at once, and a
// thousand peers. It prints what it measures, and exits with 1 at the first thing that is
// not as it should be.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

func main() { os.Exit(host.Program(soak)) }

func soak(t host.T) {
	standStill(t)
	atOnce(t)
	thousand(t)
}

func put(e *lab.Etcd, key, value string) {
	if err := e.Ctl("put", "/trestle/v1/default/"+key, value); err != nil {
		e.Fatalf("%v", err)
	}
}

// standStill: an etcd that answers nothing for 40 s costs neither routes nor CPU, nor a
// log full of lines.
func standStill(t host.T) {
	l := lab.New(t)
	e := l.Etcd(1)
	put(e, "config", lab.Config)
	a := l.Agent(l.Host("a"), e.Settings("a"))
	b := l.Agent(l.Host("b"), e.Settings("b"))
	l.Ready(a.Host, 1)
	s := l.Ready(b.Host, 1)
	before, cpu := a.MustRun("ip", "route", "show", "proto", "116"), cpuOf(a.Host)
	e.Members[0].Signal("STOP")
	time.Sleep(40 * time.Second)
	spent := cpuOf(a.Host) - cpu
	if got := a.MustRun("ip", "route", "show", "proto", "116"); got != before {
		l.Fatalf("routes were\n%s\nand are\n%s", before, got)
	}
	e.Members[0].Signal("CONT")
	if after := l.Ready(b.Host, 1); after.Subnet(true) != s.Subnet(true) {
		l.Fatalf("b had %s, and has %s", s.Subnet(true), after.Subnet(true))
	}
	l.Ready(a.Host, 1)
	lines := strings.Count(a.Kill(), "\n")
	fmt.Printf("etcd stood still for 40 s: %d ms of CPU, %d lines of log since the start\n", 10*spent, lines)
	if spent > 100 || lines > 60 {
		l.Fatalf("that is too much")
	}
}

// cpuOf is what the host's agent has used, in hundredths of a second.
func cpuOf(h *lab.Host) int {
	s, err := h.Status()
	if err != nil {
		return 0
	}
	_, fields, _ := strings.Cut(h.MustRun("cat", fmt.Sprintf("/proc/%d/stat", s.PID)), ") ")
	all := strings.Fields(fields)
	user, _ := strconv.Atoi(all[11])   // utime, of a file that the kernel writes
	system, _ := strconv.Atoi(all[12]) // stime
	return user + system
}

const peers = 1000

const wide = `{"id": "lab", "networks": [{"name": "pods", "ipv4": {"pool": "10.0.0.0/8", "subnetLen": 24}, "ipv6": {"pool": "fd40::/48", "subnetLen": 64}}]}`

// atOnce: a thousand hosts ask for subnets at the same moment, and 200 of them again; next to
// that, a thousand that take turns by a lock, as most programs would have them.
func atOnce(t host.T) {
	joined := simulatedJoin(t, "at once", false)
	turns := simulatedJoin(t, "by a lock", true)
	fmt.Printf("at once takes %.2f of the time by a lock (0.25 is to be reached, on a machine with nothing else to do)\n", joined.Seconds()/turns.Seconds())
}

// simulatedJoin has all hosts join a new cluster.
func simulatedJoin(t host.T, how string, byLock bool) time.Duration {
	l := lab.New(t)
	e := l.Etcd(1)
	put(e, "config", wide)
	store, ctx := e.Store(), context.Background()
	reconcile := func(m *cluster.Member) error {
		return m.Reconcile(ctx, store, cluster.Node{Underlay: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, MTU: 1500})
	}
	hosts := lab.Simulated(peers, "n")
	join := reconcile
	if byLock {
		join = func(m *cluster.Member) error {
			session, err := concurrency.NewSession(store.Client)
			if err != nil {
				return err
			}
			lock := concurrency.NewMutex(session, "/lock")
			err = lock.Lock(ctx)
			if err == nil {
				err = errors.Join(reconcile(m), lock.Unlock(ctx))
			}
			return errors.Join(err, session.Close())
		}
	}
	took, err := lab.Join(hosts, join)
	if err != nil {
		l.Fatalf("join %s: %v", how, err)
	}
	owners := map[netip.Prefix]bool{}
	for _, m := range hosts {
		for _, s := range m.State.Subnets("pods") {
			owners[s] = true
		}
	}
	each := float64(store.Commits.Load()) / float64(len(hosts))
	fmt.Printf("%d hosts join %s: %v, %.2f transactions each, %d subnets\n", len(hosts), how, took.Round(time.Millisecond), each, len(owners))
	if len(owners) != 2*len(hosts) || !byLock && each > 1.5 {
		l.Fatalf("want two subnets each, and 1.5 transactions at most")
	}
	if byLock {
		return took
	}
	before := store.Commits.Load()
	again, err := lab.Join(hosts[:200], reconcile)
	if err != nil || store.Commits.Load() != before {
		l.Fatalf("200 of them again: %v, %d transactions more, want none", err, store.Commits.Load()-before)
	}
	fmt.Printf("200 of them again: %v, nothing written\n", again.Round(time.Millisecond))
	return took
}

// thousand: an agent that has a thousand peers, started anew.
func thousand(t host.T) {
	l := lab.New(t)
	e := l.Etcd(1)
	put(e, "config", lab.Config)
	a := l.Agent(l.Host("a"), e.Settings("a"))
	l.Ready(a.Host, 0)
	store := e.Store()
	began := time.Now()
	for i := range peers {
		record := fmt.Sprintf(`{"id": "sim%d", "name": "sim%[1]d", "underlay": ["203.0.%d.%d/24"], "mtu": 1500, "mac": "02:00:00:00:%02x:%02x",
			"subnets": [{"network": "pods", "subnet": "10.41.%d.%d/30", "nonce": "x"}]}`, i, 200+i/250, 1+i%250, i/256, i%256, i/64, i%64*4)
		if err := store.Put(context.Background(), fmt.Sprint("nodes/sim", i), record); err != nil {
			l.Fatalf("write a record: %v", err)
		}
	}
	l.Ready(a.Host, peers)
	fmt.Printf("%d peers joined one by one in %v, all of them routed\n", peers, time.Since(began).Round(time.Millisecond))
	routes := func() int { return strings.Count(a.MustRun("ip", "route", "show", "proto", "116"), "\n") }
	l.Eventually("all routes", func() error {
		if got := routes(); got != peers+1 {
			return fmt.Errorf("got %d", got)
		}
		return nil
	})
	fmt.Printf("with %d peers: %s", peers, rss(a.Host))
	a.Kill()
	began = time.Now()
	a.Start()
	l.Ready(a.Host, peers)
	fmt.Printf("started anew over %d peers: ready after %v, as a poll of its status saw it\n", peers, time.Since(began).Round(time.Millisecond))
	if log := a.Kill(); strings.Contains(log, "bring the kernel") || strings.Contains(log, "repair") {
		l.Fatalf("a start over what is there changed something:\n%s", log)
	}
	fmt.Println("and changed nothing of the kernel's")
}

func rss(h *lab.Host) string {
	s, err := h.Status()
	if err != nil {
		return err.Error()
	}
	return h.MustRun("grep", "VmRSS", fmt.Sprintf("/proc/%d/status", s.PID))
}
