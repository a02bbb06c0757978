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
	backends    []string // of the reference plugins
	attachments []int    // that stand already
	peers       int      // … at the most, for the reference plugins
	leases      []int
	mappings    int
	crowds      []int
	peerCrowd   int // the largest, for the reference plugins
	stream      int // bytes
	hosts       []int
	agents      int           // of as many hosts that are real, at the most
	idle        time.Duration // that an agent is looked at
	packets     int           // of UDP
	counted     int           // rows of what is counted, at the most
	events      bool          // whether it is told how long a network over hosts takes to be well again
}

var sizes = map[string]size{
	"full": {
		rounds: 31, backends: backends, attachments: []int{0, 100, 500, 1000}, peers: 100, leases: []int{0, 1000, 10_000, 60_000},
		mappings: 5000, crowds: []int{1, 2, 8, 32, 100}, peerCrowd: 100, stream: 512 << 20, hosts: []int{3, 100, 1000}, agents: 20, idle: 30 * time.Second,
		packets: 300_000, counted: 100, events: true,
	},
	"quick": {
		rounds: 5, backends: backends[:1], attachments: []int{0, 100}, peers: 20, leases: []int{0, 10_000},
		mappings: 1000, crowds: []int{1, 16}, peerCrowd: 16, stream: 64 << 20, hosts: []int{30}, agents: 3, idle: 2 * time.Second,
		packets: 30_000, counted: 4, // no events: they take as long as they take
	},
}

// chapter is a heading of the page, with its tables.
type chapter struct {
	title    string
	sections func(t host.T, s size) []measure.Section
	note     func() string
	remarks  []func(t host.T, s size) (string, error) // what is no table of times
}

func chapters() []chapter {
	return []chapter{
		{title: "What a process costs", sections: func(t host.T, _ size) []measure.Section { return []measure.Section{execFloor(t)} }},
		{title: "One attachment beside the floor", sections: targets},
		{title: "One attachment beside the reference plugins", sections: attachments},
		{title: "Many at once", sections: crowds},
		{title: "How it grows", sections: growth},
		{title: "What packets meet", sections: dataPath},
		{title: "Networks over several hosts", sections: severalHosts, note: flannelNote, remarks: []func(host.T, size) (string, error){agentCounts, events}},
	}
}

func bench(t host.T) {
	name := flag.String("size", "full", "how much is measured: full or quick")
	rounds := flag.Int("rounds", 0, "how often each variant is timed, if not as the size says")
	only := flag.String("only", "", "run only the tables whose title, or chapter's title, has this in it, and write nothing")
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
		c.run(t, s, page, *only)
	}
	if *only != "" {
		return // nor is there a page without the others
	}
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

// run goes through the chapter, writes it to the page, and prints it.
func (c chapter) run(t host.T, s size, page *page, only string) {
	page.chapter(c.title)
	all := strings.Contains(c.title, only)
	if all {
		only = ""
		if c.note != nil {
			fmt.Print(c.note() + "\n\n")
			page.remark(c.note() + "\n")
		}
	}
	for i := range c.sections(t, s) {
		table := c.measure(t, s, i, only)
		fmt.Print(table.Text())
		page.add(table)
	}
	if !all {
		return
	}
	for _, remark := range c.remarks {
		text, err := remark(t, s)
		if err != nil {
			t.Fatalf("%v", err)
		}
		fmt.Println(text)
		page.remark(text)
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
