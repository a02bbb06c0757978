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

// What one chain accepts, another may still drop. So rules that let a container
// through are of use only in a chain that would drop its packets, and there is but
// one that others share: FORWARD of iptables, which Docker and ufw give the policy
// DROP, at any time. The rules are there before; where nobody has made the table yet, we
// do, if the host has the program, as the reference plugin does.
//
// A table of the nf_tables variant is changed without the program, which is run for what
// comes once: table, chains and jumps; and where a chain has what is not understood.
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

// accepts are the entry's rules.
func (e entry) accepts() []iptables.Accept {
	switch e.kind {
	case adminEntry:
		return nil // its jump stays, as our chain's does
	case mappedEntry:
		return []iptables.Accept{{Out: e.value, States: iptables.Translated}}
	}
	a, err := netip.ParseAddr(e.value)
	if err != nil {
		return nil // of no container
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

// ipRules of the entry, as iptables-save prints them.
func (e entry) ipRules() []string {
	var lines []string
	for _, a := range e.accepts() {
		lines = append(lines, a.Line(ourChain))
	}
	return lines
}

// prepareTables makes iptables' tables and fills them, for rules that are of them. What
// is wrong with them is no business of others.
func (h *Host) prepareTables(r Rules) error {
	if r.IPTables == never {
		return nil
	}
	return errors.Join(h.makeTables(r), h.fill())
}

// makeTables makes the tables that nobody has made yet, of the addresses' families. One
// that cannot be made drops nothing either.
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

// makeTable makes the table, if it can. A table of nftables without chains of the kernel's
// is none to iptables.Family.Variants, and may have the admin's chain: whatever is in that
// stays, where ":" alone would flush it.
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
		if chain, ok := strings.CutPrefix(line, ":"); ok { // "-N" fails if somebody makes it now
			lines[i] = "-N " + strings.Fields(chain)[0]
		}
	}
	return iptables.Restore(program, filterTable, lines) == nil, nil
}

// unfilled is there from before a table of iptables is made until everybody is let through
// it: whoever comes after a kill in between goes on.
func (h *Host) unfilled(f iptables.Family) string {
	return h.records.Dir(place + ".unfilled-" + f.Program)
}

func (h *Host) noteFilled(f iptables.Family) error {
	if err := unix.Unlink(h.unfilled(f)); err != nil && !errors.Is(err, unix.ENOENT) {
		return cni.IOErrorf("note that a table of iptables is filled: %w", err)
	}
	return nil
}

// fill lets everybody through tables that were just made, or that a kill has left so: a
// flush may have taken those that were there. The note of a table whose program is not
// installed, or no longer, stays.
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
			continue // whoever comes after it is installed fills the table; who needs that now fails by himself
		}
		all, err := h.everybody()
		if err == nil {
			err = h.letAllThrough(programs, all)
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

func (h *Host) letAllThrough(programs []string, all []entry) error {
	for _, program := range programs {
		var entries []entry
		for _, e := range inPlace(all, program) {
			if !slices.ContainsFunc(entries, func(o entry) bool { return o.share() == e.share() }) {
				entries = append(entries, e)
			}
		}
		if len(entries) > 0 {
			if err := (ipBackend{program, defaultAdminChain, h.conn}).add(entries, h.everybody); err != nil {
				return err
			}
		}
	}
	return nil
}

// programs are those by which the addresses are to be let through.
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

// isNeeded: where only containers have the program (kube-proxy's, as a rule), a table
// that lets everything through is no reason to fail.
func (h *Host) isNeeded(f iptables.Family, program string, when whenAsked) (bool, error) {
	if when == always || iptables.Installed(program) {
		return true, nil
	}
	return f.Drops(h.conn, program, filterTable, forwardChain)
}

// ipBackend is table filter of one family in one variant of iptables, by the name of its
// program. Where that is run, each change is one iptables-save, to see what is there, and
// one iptables-restore.
type ipBackend struct {
	program string
	admin   string
	conn    *nft.Conn
}

// ours is our chain in nftables, and whether it is there and asked.
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

// addNew adds entries that nobody has had yet. Where that takes more than rules in our
// chain, it does nothing, and add does all of it.
func (b ipBackend) addNew(entries []entry) (added bool, err error) {
	chain, there, err := b.ours()
	if err != nil || !there {
		return false, err
	}
	if slices.ContainsFunc(entries, func(e entry) bool { return e.kind == adminEntry }) {
		rules, err := chain.Rules() // few: the first container's
		if err != nil || !rules.JumpTo(b.admin) {
			return false, err
		}
	}
	return chain.Append(acceptsOf(entries)) == nil, nil
}

// add leaves a table unchanged that has all of it, in whatever bytes: the program cannot
// read one that nft has loaded.
func (b ipBackend) add(entries []entry, everybody func() ([]entry, error)) error {
	if all, err := b.hasNative(entries); err != nil || all {
		return err
	}
	return iptables.Change(b.program, filterTable, func(have iptables.Table) ([]string, error) {
		wanted := entries
		if have.Policies[ourChain] == "" || !slices.Contains(have.Rules, ourJump()) {
			all, err := everybody()
			if err != nil {
				return nil, err
			}
			wanted = append(slices.Clone(entries), inPlace(all, b.program)...)
		}
		return additions(have, wanted, b.admin), nil
	})
}

// remove runs no program where there is no chain of ours.
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

func (b ipBackend) missing(entries []entry) ([]string, error) {
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

// hasNative says whether all is there, as far as can be told without the program.
func (b ipBackend) hasNative(entries []entry) (bool, error) {
	chain, there, err := b.ours()
	if err != nil || !there {
		return false, err
	}
	rules, err := chain.Rules()
	missing := slices.ContainsFunc(acceptsOf(entries), func(a iptables.Accept) bool { return !rules.Has(a) })
	return err == nil && rules.JumpTo(b.admin) && !missing, err
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
			if err := iptables.Change(program, filterTable, func(have iptables.Table) ([]string, error) { return idleChain(have), nil }); err != nil {
				return err
			}
		}
	}
	return nil
}
