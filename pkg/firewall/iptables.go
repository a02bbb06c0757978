package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// What one base chain accepts, another may still drop. So rules that accept a container's
// packets must be in the chain that would drop them, and only one is shared with others:
// FORWARD of iptables, to which Docker and ufw give the policy DROP, at any time. Our rules
// are there before that; if the table does not exist yet, we make it if the host has the
// program, as the reference plugin does.
//
// A table of the nf_tables variant is changed over netlink. The program is run only for what
// is made once, table, chains and jumps, and if a chain has rules that we do not understand.
const (
	filterTable  = "filter"
	forwardChain = "FORWARD"
	ourChain     = "CNI-FORWARD" // the reference plugin's name, so that either finds what the other made
)

// The rules are literally those of the reference plugin, so that either can delete the
// other's, and one more that accepts what comes by port mappings.
const (
	ourComment   = `-m comment --comment "CNI firewall plugin rules"`
	adminComment = `-m comment --comment "CNI firewall plugin admin overrides"`
)

func ourJump() string { return "-A " + forwardChain + " " + ourComment + " -j " + ourChain }

func adminJump(chain string) string { return "-A " + ourChain + " " + adminComment + " -j " + chain }

// accepts are the entry's rules.
func (e entry) accepts() []iptables.Accept {
	switch e.kind {
	case adminEntry:
		return nil // the jump to the admin's chain is never removed, nor is that to ours
	case mappedEntry:
		return []iptables.Accept{{Out: e.value, States: iptables.Translated}}
	}
	a, err := netip.ParseAddr(e.value)
	if err != nil {
		return nil // an edited record
	}
	return []iptables.Accept{{Destination: a, States: iptables.RelatedEstablished}, {Source: a}}
}

func acceptsOf(entries []entry) []iptables.Accept {
	var all []iptables.Accept
	for _, e := range entries {
		all = append(all, e.accepts()...)
	}
	return all
}

// ipRules are the entry's rules as iptables-save prints them.
func (e entry) ipRules() []string {
	var lines []string
	for _, a := range e.accepts() {
		lines = append(lines, a.Line(ourChain))
	}
	return lines
}

// prepareTables makes missing tables of iptables and fills them, if the rules need any. Other
// rules must not fail because of iptables.
func (h *Host) prepareTables(r Rules) error {
	if r.IPTables == never {
		return nil
	}
	return errors.Join(h.makeTables(r), h.fill())
}

// makeTables makes, for rules with ifThere, the tables of the addresses' families that do not
// exist yet. It is no error if that fails: a table that does not exist drops nothing.
func (h *Host) makeTables(r Rules) error {
	for _, f := range iptables.Families() {
		if r.IPTables != ifThere || !slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool { return a.Is4() == f.IPv4 }) {
			continue
		}
		variants, err := h.variantsOf(f)
		if err != nil {
			return err
		}
		if len(variants) > 0 || h.tried[f.Program] {
			continue
		}
		h.tried[f.Program] = true
		if !iptables.Installed(f.Preferred()) {
			continue
		}
		if err := rawfile.Write(h.unfilled(f), nil, 0o600); err != nil {
			return cni.IOErrorf("note that a table of iptables is to be filled: %w", err)
		}
		made, err := h.makeTable(f.Preferred(), r.AdminChain)
		if err == nil && !made {
			err = h.noteFilled(f)
		}
		if err != nil {
			return err
		}
		delete(h.variants, f.Program)
	}
	return nil
}

// makeTable makes the table with our chains and jumps; made is false if the program fails. A
// table without base chains, which iptables.Family.Variants does not count, may already have
// the admin's chain: that must not be flushed, as a line with ":" would do.
func (h *Host) makeTable(program, admin string) (made bool, err error) {
	have := iptables.Table{Policies: map[string]string{}}
	for _, chain := range []string{ourChain, admin} {
		there, err := iptables.HasChain(h.conn, program, filterTable, chain)
		if err != nil {
			return false, err
		}
		if there {
			have.Policies[chain] = "-"
		}
	}
	lines := additions(have, nil, admin)
	for i, line := range lines {
		if chain, ok := strings.CutPrefix(line, ":"); ok { // "-N" fails if somebody makes the chain meanwhile
			lines[i] = "-N " + strings.Fields(chain)[0]
		}
	}
	return iptables.Restore(program, filterTable, lines) == nil, nil
}

// unfilled is a file that exists from before we make a table of iptables until all containers
// have their rules in it, so that after a kill in between the next command goes on.
func (h *Host) unfilled(f iptables.Family) string {
	return h.records.Dir(place + ".unfilled-" + f.Program)
}

func (h *Host) noteFilled(f iptables.Family) error {
	if err := unix.Unlink(h.unfilled(f)); err != nil && !errors.Is(err, unix.ENOENT) {
		return cni.IOErrorf("note that a table of iptables is filled: %w", err)
	}
	return nil
}

// fill makes the rules of all containers in the tables that have the file unfilled: a flush
// may have removed a table that had them. If a table's program is not installed, the file
// stays.
func (h *Host) fill() error {
	for _, f := range iptables.Families() {
		if unix.Access(h.unfilled(f), unix.F_OK) != nil {
			continue
		}
		programs, err := h.variantsOf(f)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(programs, func(p string) bool { return !iptables.Installed(p) }) {
			continue // a later command fills the table; one that needs the program now fails later
		}
		all, err := h.allEntries()
		if err == nil {
			err = h.addAll(programs, all)
		}
		if err == nil {
			err = h.noteFilled(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addAll makes the entries of the programs, each once.
func (h *Host) addAll(programs []string, all []entry) error {
	for _, program := range programs {
		var entries []entry
		for _, e := range inPlace(all, program) {
			if !slices.ContainsFunc(entries, func(o entry) bool { return o.share() == e.share() }) {
				entries = append(entries, e)
			}
		}
		if len(entries) > 0 {
			if err := (ipBackend{program, defaultAdminChain, h.conn}).add(entries, h.allEntries); err != nil {
				return err
			}
		}
	}
	return nil
}

// programs are the programs of iptables in whose tables the addresses need rules.
func (h *Host) programs(addresses []netip.Addr, when whenAsked) ([]string, error) {
	var all []string
	for _, f := range iptables.Families() {
		if when == never || !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == f.IPv4 }) {
			continue
		}
		variants, err := h.variantsOf(f)
		if err != nil {
			return nil, err
		}
		if len(variants) == 0 && when == always {
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

// isNeeded says whether rules are needed in the program's table. They are not if the program
// is not installed and the table drops nothing: then a container has made it (kube-proxy, as
// a rule), and an ADD must not fail for lack of the program.
func (h *Host) isNeeded(f iptables.Family, program string, when whenAsked) (bool, error) {
	if when == always || iptables.Installed(program) {
		return true, nil
	}
	return f.Drops(h.conn, program, filterTable, forwardChain)
}

// ipBackend is table filter of one family in one variant of iptables, named by its program.
// If the program is run, a change takes one iptables-save and one iptables-restore.
type ipBackend struct {
	program string
	admin   string
	conn    *nft.Conn
}

// ours is our chain over netlink, and whether it exists and FORWARD jumps to it.
func (b ipBackend) ours() (iptables.Chain, bool, error) {
	chain, there, err := iptables.Native(b.conn, b.program, filterTable, ourChain)
	if err != nil || !there {
		return chain, false, err
	}
	forward, there, err := iptables.Native(b.conn, b.program, filterTable, forwardChain)
	if err != nil || !there {
		return chain, false, err
	}
	rules, err := forward.Rules()
	return chain, err == nil && rules.JumpTo(ourChain), err
}

// addNew adds rules for entries that nobody has had before, over netlink. If anything else
// is missing, as the chain or a jump, it does nothing, and the caller uses add.
func (b ipBackend) addNew(entries []entry) (added bool, err error) {
	chain, there, err := b.ours()
	if err != nil || !there {
		return false, err
	}
	if slices.ContainsFunc(entries, func(e entry) bool { return e.kind == adminEntry }) {
		rules, err := chain.Rules() // few, since this is the first container
		if err != nil || !rules.JumpTo(b.admin) {
			return false, err
		}
	}
	return chain.Append(acceptsOf(entries)) == nil, nil
}

// add compares over netlink first: the program cannot read a table that nft has loaded, and
// need not be run if nothing is missing.
func (b ipBackend) add(entries []entry, allEntries func() ([]entry, error)) error {
	if all, err := b.hasNative(entries); err != nil || all {
		return err
	}
	return iptables.Change(b.program, filterTable, func(have iptables.Table) ([]string, error) {
		wanted := entries
		if have.Policies[ourChain] == "" || !slices.Contains(have.Rules, ourJump()) {
			all, err := allEntries()
			if err != nil {
				return nil, err
			}
			wanted = append(slices.Clone(entries), inPlace(all, b.program)...)
		}
		return additions(have, wanted, b.admin), nil
	})
}

// remove runs no program if our chain does not exist.
func (b ipBackend) remove(entries []entry) error {
	removed, err := b.removeNative(entries)
	if err != nil || removed {
		return err
	}
	there, err := iptables.HasChain(b.conn, b.program, filterTable, ourChain)
	if err != nil || !there {
		return err
	}
	return iptables.Change(b.program, filterTable, func(have iptables.Table) ([]string, error) { return deletions(have, entries), nil })
}

func (b ipBackend) removeNative(entries []entry) (removed bool, err error) {
	chain, there, err := iptables.Native(b.conn, b.program, filterTable, ourChain)
	if err != nil || !there {
		return false, err
	}
	all := acceptsOf(entries)
	rules, err := chain.RulesAbout(all)
	if err != nil {
		return false, err
	}
	return rules.Understood(all) && rules.Delete(all) == nil, nil
}

func (b ipBackend) diff(entries []entry) ([]string, error) {
	if all, err := b.hasNative(entries); err != nil || all {
		return nil, err
	}
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

// hasNative says whether jumps and rules are all there, as far as netlink shows.
func (b ipBackend) hasNative(entries []entry) (bool, error) {
	chain, there, err := b.ours()
	if err != nil || !there {
		return false, err
	}
	rules, err := chain.Rules()
	missing := slices.ContainsFunc(acceptsOf(entries), func(a iptables.Accept) bool { return !rules.Has(a) })
	return err == nil && rules.JumpTo(b.admin) && !missing, err
}

// additions are the lines of iptables-restore that add what is missing. The jump to our chain
// comes first in FORWARD, and that to the admin's chain first in ours.
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

// deletions are the lines that delete the rules of the entries. The chains and jumps stay, as
// with the reference plugin, since the admin's chain must keep its effect.
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

// idleChain are the lines that delete our chain if it has no rule but the jump to the
// admin's; that one stays.
func idleChain(have iptables.Table) []string {
	if slices.ContainsFunc(have.In[ourChain], func(rule string) bool { return !strings.Contains(rule, adminComment) }) || have.Policies[ourChain] == "" {
		return nil
	}
	var lines []string
	for _, jump := range have.To[ourChain] {
		lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
	}
	return append(lines, "-F "+ourChain, "-X "+ourChain)
}

// removeIdle deletes our chain from every table in which it has no rules.
func removeIdle(conn *nft.Conn) error {
	for _, f := range iptables.Families() {
		programs, err := f.Variants(conn, filterTable)
		if err != nil {
			return err
		}
		for _, program := range programs {
			there, err := iptables.HasChain(conn, program, filterTable, ourChain)
			if err != nil || !there || !iptables.Installed(program) {
				continue // GC must not fail because of an idle chain
			}
			if err := iptables.Change(program, filterTable, func(have iptables.Table) ([]string, error) { return idleChain(have), nil }); err != nil {
				return err
			}
		}
	}
	return nil
}
