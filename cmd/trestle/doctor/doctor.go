// Package doctor finds faults in the networks of a host. Each finding says what is wrong,
// what follows from it and which command fixes it; --fix does so where that cannot harm
// anybody.
//
// Start at Look, which reads what the inventory lacks, and Examine, which runs the checks on
// that. A check has a line in checks; related ones share a file.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Severity is how bad a finding is.
type Severity string

// The severities. A fault does not work, or will not at the next ADD; a warning works but
// fails in some case that the text names.
const (
	Fault   Severity = "fault"
	Warning Severity = "warning"
)

// Finding is one fault or warning.
type Finding struct {
	// Check is the name of the check that found it: "forwarding".
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Subject is what it is about: a network, a link, a file.
	Subject string `json:"subject"`
	// Text says what is wrong, and what follows.
	Text string `json:"text"`
	// Command fixes it, or helps a person to find the cause.
	Command string `json:"command,omitempty"`
	// Fixable says that --fix can fix it.
	Fixable bool `json:"fixable"`
	// Fixed says that --fix has fixed it.
	Fixed bool `json:"fixed,omitempty"`

	fix func(context.Context, Tools) error
}

// Tools are the commands that fixes call.
type Tools struct{ GC, Restore func() error }

// check looks for one kind of fault, in the Host alone.
type check struct {
	name string
	find func(*Host) []Finding
}

// checks lists the checks in the order of their subjects: lists, links, rules, other hosts,
// and what is left behind.
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
		{"outdated", outdated},
		{"leaving", leaving},
		{"peer-route", peerRoutes},
		{"peer-mtu", peerMTUs},
		{"tunnel", tunnel},
		{"dead", dead},
		{"leaked-link", leakedLinks},
		{"leases", brokenLeases},
		{"elements", strayElements},
	}
}

// Names are the names of all checks.
func Names() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Examine runs all checks. Faults come first.
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

// plural is a number with its noun: "1 port", "3 ports".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// oneOr is the word for one thing, or for several.
func oneOr(n int, one, several string) string {
	if n == 1 {
		return one
	}
	return several
}

// Fix fixes what is fixable, and goes on after a failure. GC and Restore run once, even if
// several findings need them.
func Fix(ctx context.Context, found []Finding, tools Tools) error {
	tools = Tools{GC: sync.OnceValue(tools.GC), Restore: sync.OnceValue(tools.Restore)}
	var failed []error
	for _, f := range found {
		if !f.Fixable {
			continue
		}
		if err := f.fix(ctx, tools); err != nil {
			failed = append(failed, fmt.Errorf("%s: %s: %w", f.Check, f.Subject, err))
		}
	}
	return errors.Join(failed...)
}

func gcFix(_ context.Context, tools Tools) error { return tools.GC() }

func restoreFix(_ context.Context, tools Tools) error { return tools.Restore() }
