// Command bench compares Trestle with the reference plugins on this machine: ADD
// and DEL as a runtime sees them, each variant on a throw-away host of its own, and
// what containers have of it. With -docs it writes the page and the pictures.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
)

func main() { os.Exit(host.Program(bench)) }

// size says how much is measured.
type size struct {
	rounds      int
	attachments []int // that stand already
	peers       int   // … at the most, for the reference plugins
	leases      []int
	mappings    int
	crowds      []int
	peerCrowd   int // the largest, for the reference plugins
	stream      int // bytes
	hosts       []int
	idle        time.Duration // that an agent is looked at
	packets     int           // of UDP
	counted     int           // rows of what is counted, at the most
}

var sizes = map[string]size{
	"full": {
		rounds: 31, attachments: []int{0, 100, 500, 1000}, peers: 100, leases: []int{0, 1000, 10_000, 60_000},
		mappings: 5000, crowds: []int{1, 2, 8, 32, 100}, peerCrowd: 100, stream: 512 << 20, hosts: []int{3, 100, 1000}, idle: 30 * time.Second,
		packets: 300_000, counted: 100,
	},
	"quick": {
		rounds: 7, attachments: []int{0, 100}, peers: 20, leases: []int{0, 10_000},
		mappings: 1000, crowds: []int{1, 32}, peerCrowd: 32, stream: 64 << 20, hosts: []int{3, 100}, idle: 5 * time.Second,
		packets: 30_000, counted: 12,
	},
}

// chapter is a heading of the page, with its tables.
type chapter struct {
	title    string
	sections func(t host.T, s size) []measure.Section
}

func chapters() []chapter {
	return []chapter{
		{"What a process costs", func(t host.T, _ size) []measure.Section { return []measure.Section{execFloor(t)} }},
		{"One attachment beside the floor", targets},
		{"One attachment beside the reference plugins", func(t host.T, _ size) []measure.Section { return attachments(t) }},
		{"Many at once", crowds},
		{"How it grows", growth},
		{"What packets meet", dataPath},
		{"Networks over several hosts", severalHosts},
	}
}

func bench(t host.T) {
	name := flag.String("size", "full", "how much is measured: full or quick")
	rounds := flag.Int("rounds", 0, "how often each variant is timed, if not as the size says")
	only := flag.String("only", "", "run only the tables whose title has this in it")
	docs := flag.String("docs", "", "the directory where benchmarks.md and its pictures are written")
	flag.Parse()
	s, ok := sizes[*name]
	if !ok {
		t.Fatalf("-size: %q is neither full nor quick", *name)
	}
	if *rounds > 0 {
		s.rounds = *rounds
	}
	page := newPage(*name)
	fmt.Print(page.head())
	for _, c := range chapters() {
		page.chapter(c.title)
		for i := range c.sections(t, s) {
			table := c.measure(t, s, i, *only)
			fmt.Print(table.Text())
			page.add(table)
		}
	}
	agents, err := agentCounts(t, s)
	if err != nil {
		t.Fatalf("%v", err)
	}
	fmt.Print(agents)
	page.remark(agents)
	counted, err := counts(t, s.counted)
	if err != nil {
		t.Fatalf("%v", err)
	}
	fmt.Print(counted)
	page.counts(counted)
	if *docs == "" {
		return
	}
	if err := page.write(*docs); err != nil {
		t.Fatalf("%v", err)
	}
}

// measure gives the chapter's i-th table. Its hosts go before the next one's come: a host
// with a thousand namespaces slows all others down.
func (c chapter) measure(t host.T, s size, i int, only string) measure.Table {
	own := &scope{T: t}
	defer own.close()
	section := c.sections(own, s)[i]
	if !strings.Contains(section.Title, only) {
		return measure.Table{}
	}
	table, err := section.Measure(s.rounds)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return table
}

// scope is a host.T whose end comes before the program's.
type scope struct {
	host.T
	cleanups []func()
}

// Cleanup is for the end of the scope.
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) close() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}
