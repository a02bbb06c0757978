// Command soak runs what takes too long for the tests of networks over several hosts: two
// minutes in which nothing happens, an etcd that stands still for 40 seconds, a thousand hosts that join at once, and a
// thousand peers. It prints what it measures, and exits with 1 at the first thing that is
// not as it should be.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

func main() { os.Exit(host.Program(soak)) }

func soak(t host.T) {
	steady(t)
	standStill(t)
	atOnce(t)
	thousand(t)
}

func put(e *lab.Etcd, key, value string) {
	if err := e.Ctl("put", "/trestle/v1/default/"+key, value); err != nil {
		e.Fatalf("%v", err)
	}
}

// steady: where nothing happens hosts with times as they are where nothing is said ask etcd
// once in 30 s, say three times that they live, and are told nothing.
func steady(t host.T) {
	l := lab.New(t)
	e := l.Etcd(1)
	put(e, "config", lab.Config)
	var agents []*lab.Agent
	for _, name := range []string{"a", "b"} {
		agents = append(agents, l.Agent(l.Host(name), lab.Settings{"name": name, "etcd": map[string]any{"endpoints": e.URLs()}}))
	}
	cpu := 0
	for _, a := range agents {
		l.Ready(a.Host, 1)
		cpu -= cpuOf(a.Host)
	}
	const spans = 4 // of 30 s
	counted := []string{lab.Transactions, lab.KeepAlives, lab.Told}
	// each span may have one more at its ends, and a heartbeat is a fifth early at the most
	most := []int{len(agents) * (spans*5/4 + 1), len(agents) * (3*spans + 1), 0}
	before := make([]int, len(counted))
	for i, c := range counted {
		before[i] = e.Metric(c)
	}
	time.Sleep(spans * 30 * time.Second)
	for i, c := range counted {
		got := e.Metric(c) - before[i]
		fmt.Printf("%d hosts, %d s in which nothing happens: %d of %s…}\n", len(agents), spans*30, got, c)
		if got > most[i] || before[i] == 0 {
			l.Fatalf("want %d at most, and some before (there were %d)", most[i], before[i])
		}
	}
	for _, a := range agents {
		cpu += cpuOf(a.Host)
	}
	fmt.Printf("their agents took %.2f %% of a CPU each (0.2 is to be reached)\n", float64(cpu)/float64(len(agents)*spans*30))
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

// atOnce: a thousand hosts ask for subnets at the same moment, and 200 of them again; next to
// that, a thousand that take turns by a lock, as most programs would have them.
func atOnce(t host.T) {
	l := lab.New(t)
	e := l.Etcd(1)
	took := map[bool]time.Duration{}
	for _, byLock := range []bool{false, true} {
		store := e.StoreOf(fmt.Sprint("lock-", byLock))
		if err := store.Put(context.Background(), "config", lab.Wide); err != nil {
			l.Fatalf("%v", err)
		}
		joined, err := store.Join(peers, byLock)
		if err != nil {
			l.Fatalf("join, by a lock: %v: %v", byLock, err)
		}
		took[byLock] = joined.Took
		each := float64(joined.Commits) / peers
		fmt.Printf("%d hosts join, by a lock: %v: %v, %.2f transactions each, %d subnets\n", peers, byLock, joined.Took.Round(time.Millisecond), each, joined.Subnets)
		if joined.Subnets != 2*peers || !byLock && each > 1.5 {
			l.Fatalf("want two subnets each, and 1.5 transactions at most")
		}
		again, commits, err := store.Again(joined.Hosts[:200])
		if err != nil || commits != 0 {
			l.Fatalf("200 of them again: %v, %d transactions, want none", err, commits)
		}
		fmt.Printf("200 of them again: %v, nothing written\n", again.Round(time.Millisecond))
	}
	fmt.Printf("at once takes %.2f of the time by a lock (0.25 is to be reached, on a machine with nothing else to do)\n", took[false].Seconds()/took[true].Seconds())
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
	lines := strings.Count(a.Kill(), "\n")
	fmt.Printf("and wrote %d lines of log of that\n", lines)
	if lines > peers+5 { // and a few of its start
		l.Fatalf("want a line for each peer at the most")
	}
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
