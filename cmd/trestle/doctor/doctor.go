// Package doctor knows what goes wrong with the networks of a host: it finds it, says
// what follows from it, names the command that mends it, and mends what can be mended
// without harm to anybody.
//
// Look reads what the inventory does not have; Examine is pure. There is one file for
// each finding, named after it, and a line for it in checks.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	Fault   Severity = "fault"   // something does not work, or will not at the next ADD
	Warning Severity = "warning" // it works, and will not in some case that the text names
)

// Finding is one thing that is wrong.
type Finding struct {
	// Check is the name of what found it: "forwarding".
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Subject is what it is about: a network, a link, a file.
	Subject string `json:"subject"`
	// Text says what is so, and what follows.
	Text string `json:"text"`
	// Command mends it, by hand.
	Command string `json:"command,omitempty"`
	// Fixable says that --fix mends it.
	Fixable bool `json:"fixable"`
	// Fixed says that it has.
	Fixed bool `json:"fixed,omitempty"`

	fix func(context.Context, Tools) error
}

// Tools are what mends: the commands of the same names.
type Tools struct {
	GC      func(context.Context) error
	Restore func() error
}

// check is a kind of finding. A check is pure: it reads the Host and nothing else.
type check struct {
	name string
	find func(*Host) []Finding
}

// checks are in the order in which a packet, and a reader, meets their subjects.
func checks() []check {
	return []check{
		{"network-list", networkLists},
		{"plugins", plugins},
		{"permissions", permissions},
		{"status", statuses},
		{"pool", pools},
		{"overlap", overlaps},
		{"shared", sharedNetworks},
		{"mtu", mtus},
		{"forwarding", forwarding},
		{"forward-drops", forwardDrops},
		{"br-netfilter", bridgeNetfilter},
		{"rp-filter", reversePath},
		{"router-advertisements", advertisements},
		{"rules-missing", missingRules},
		{"shadowed-port", shadowedPorts},
		{"ipvs", ipvs},
		{"reference-rules", referenceRules},
		{"agent", agent},
		{"store", store},
		{"fenced", fenced},
		{"suspect", suspect},
		{"peer-route", peerRoutes},
		{"peer-mtu", peerMTUs},
		{"tunnel", tunnel},
		{"dead", dead},
		{"leaked-link", leakedLinks},
		{"leases", brokenLeases},
		{"elements", strayElements},
	}
}

// Names are those of all checks.
func Names() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Examine looks for everything. The faults come first.
func Examine(h *Host) []Finding {
	all := []Finding{}
	for _, c := range checks() {
		for _, finding := range c.find(h) {
			finding.Check, finding.Fixable = c.name, finding.fix != nil
			all = append(all, finding)
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Compare(a.rank(), b.rank())
	})
	return all
}

func (f Finding) rank() int {
	if f.Severity == Fault {
		return 0
	}
	return 1
}

// plural is "1 port", "3 ports".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// oneOr is the word for one thing, or that for several.
func oneOr(n int, one, several string) string {
	if n == 1 {
		return one
	}
	return several
}

// Fix mends what can be mended without harm. The same fix is done once, whoever asks.
func (f Finding) Fix(ctx context.Context, tools Tools) error { return f.fix(ctx, tools) }

// gcFix and restoreFix are what `trestle gc` and `trestle restore` do.
func gcFix(ctx context.Context, tools Tools) error { return tools.GC(ctx) }

func restoreFix(_ context.Context, tools Tools) error { return tools.Restore() }
