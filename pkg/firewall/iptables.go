package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// What one chain accepts, another may still drop. So rules that let a container
// through are of use only in a chain that would drop its packets, and there is but
// one that others share: FORWARD of iptables, which Docker and ufw give the policy
// DROP, at any time. Where the kernel has no such table, nobody uses iptables, and no
// program of it is run.
const (
	filterTable  = "filter"
	forwardChain = "FORWARD"
	ourChain     = "CNI-FORWARD" // the reference plugin's, so that either finds what the other made
)

// The rules are those of the reference plugin to the letter, for the same
// reason, and one that lets mapped ports through.
const (
	ourComment   = `-m comment --comment "CNI firewall plugin rules"`
	adminComment = `-m comment --comment "CNI firewall plugin admin overrides"`
)

func ourJump() string { return "-A " + forwardChain + " " + ourComment + " -j " + ourChain }

func adminJump(chain string) string { return "-A " + ourChain + " " + adminComment + " -j " + chain }

// ipRules of the entry, as iptables-save prints them.
func (e entry) ipRules() []string {
	if e.kind == mappedEntry {
		return []string{"-A " + ourChain + " -o " + e.value + " -m conntrack --ctstate DNAT -j ACCEPT"}
	}
	return []string{
		"-A " + ourChain + " -d " + e.cidr() + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-A " + ourChain + " -s " + e.cidr() + " -j ACCEPT",
	}
}

// programs are those by which the addresses are to be let through.
func (h *Host) programs(addresses []netip.Addr, when When) ([]string, error) {
	var all []string
	for _, f := range iptables.Families() {
		if when == Never || !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == f.IPv4 }) {
			continue
		}
		variants, err := h.variantsOf(f)
		if err != nil {
			return nil, err
		}
		if len(variants) == 0 && when == Always {
			variants = []string{f.Program}
		}
		for _, program := range variants {
			needed, err := h.isNeeded(f, program, when)
			if err != nil {
				return nil, err
			}
			if needed {
				all = append(all, program)
			}
		}
	}
	return all, nil
}

func (h *Host) variantsOf(f iptables.Family) (programs []string, err error) {
	programs, asked := h.variants[f.Program]
	if asked {
		return programs, nil
	}
	if programs, err = f.Variants(h.conn, filterTable); err == nil {
		h.variants[f.Program] = programs
	}
	return programs, err
}

// isNeeded: where only containers have the program (kube-proxy's, as a rule), a table
// that lets everything through is no reason to fail.
func (h *Host) isNeeded(f iptables.Family, program string, when When) (bool, error) {
	if when == Always || iptables.Installed(program) {
		return true, nil
	}
	return f.Drops(h.conn, program, filterTable, forwardChain)
}

// ipBackend is table filter of one family in one variant of iptables, by the program
// for it. Each change is one iptables-save, to see what is there, and one
// iptables-restore.
type ipBackend struct {
	program string
	admin   string
	conn    *nft.Conn
}

func (b ipBackend) add(entries []entry, everybody func() ([]entry, error)) error {
	have, err := iptables.Save(b.program, filterTable)
	if err != nil {
		return err
	}
	if have.Policies[ourChain] == "" {
		all, err := everybody()
		if err != nil {
			return err
		}
		entries = append(slices.Clone(entries), inPlace(all, b.program)...)
	}
	return iptables.Restore(b.program, filterTable, additions(have, entries, b.admin))
}

// remove runs no program where there is no chain of ours.
func (b ipBackend) remove(entries []entry) error {
	there, err := iptables.HasChain(b.conn, b.program, filterTable, ourChain)
	if err != nil || !there {
		return err
	}
	have, err := iptables.Save(b.program, filterTable)
	if err != nil {
		return err
	}
	return iptables.Restore(b.program, filterTable, deletions(have, entries))
}

func (b ipBackend) missing(entries []entry) ([]string, error) {
	have, err := iptables.Save(b.program, filterTable)
	if err != nil {
		return nil, err
	}
	want := []string{ourJump(), adminJump(b.admin)}
	for _, e := range entries {
		want = append(want, e.ipRules()...)
	}
	var diffs []string
	for _, rule := range want {
		if !slices.Contains(have.Rules, rule) {
			diffs = append(diffs, fmt.Sprintf("rule %q of %s: want it, have none", rule, b.program))
		}
	}
	return diffs, nil
}

// additions are the lines of iptables-restore that make what is not there. Our
// chain comes first in FORWARD, and the admin's first in ours.
func additions(have iptables.Table, entries []entry, admin string) []string {
	var lines []string
	for _, chain := range []string{ourChain, admin} {
		if have.Policies[chain] == "" {
			lines = append(lines, ":"+chain+" - [0:0]")
		}
	}
	for _, jump := range []string{ourJump(), adminJump(admin)} {
		if !slices.Contains(have.Rules, jump) {
			fields := strings.SplitN(jump, " ", 3)
			lines = append(lines, "-I "+fields[1]+" 1 "+fields[2])
		}
	}
	for _, e := range entries {
		for _, rule := range e.ipRules() {
			if !slices.Contains(have.Rules, rule) && !slices.Contains(lines, rule) {
				lines = append(lines, rule)
			}
		}
	}
	return lines
}

// deletions are the lines that delete what is there of entries. The chains stay, as
// the reference plugin's do: the admin's is asked, and is there for scripts.
func deletions(have iptables.Table, entries []entry) []string {
	var lines []string
	for _, e := range entries {
		for _, rule := range e.ipRules() {
			for range count(have.Rules, rule) {
				lines = append(lines, "-D"+strings.TrimPrefix(rule, "-A"))
			}
		}
	}
	return lines
}

func count(rules []string, rule string) int {
	return len(slices.DeleteFunc(slices.Clone(rules), func(r string) bool { return r != rule }))
}

// idleChain are the lines that take our chain away if it lets nobody through; the
// admin's stays.
func idleChain(have iptables.Table) []string {
	if slices.ContainsFunc(have.In(ourChain), func(rule string) bool { return !strings.Contains(rule, adminComment) }) || have.Policies[ourChain] == "" {
		return nil
	}
	var lines []string
	for _, jump := range have.To(ourChain) {
		lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
	}
	return append(lines, "-F "+ourChain, "-X "+ourChain)
}

// removeIdle takes our chain away wherever it lets nobody through.
func removeIdle(conn *nft.Conn) error {
	for _, f := range iptables.Families() {
		programs, err := f.Variants(conn, filterTable)
		if err != nil {
			return err
		}
		for _, program := range programs {
			there, err := iptables.HasChain(conn, program, filterTable, ourChain)
			if err != nil || !there || !iptables.Installed(program) {
				continue // an idle chain is no reason to fail
			}
			have, err := iptables.Save(program, filterTable)
			if err != nil {
				return err
			}
			if err := iptables.Restore(program, filterTable, idleChain(have)); err != nil {
				return err
			}
		}
	}
	return nil
}
