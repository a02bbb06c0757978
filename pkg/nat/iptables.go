package nat

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// ipTables is the backend for iptables and ip6tables. Rules are made in the variant (nft or
// legacy) that the host prefers, and removed from both. A change of a table takes one
// iptables-save, to read it, and one iptables-restore, which is atomic. If the kernel has
// none of our chains, nothing is run to remove them.
type ipTables struct{ h *Host }

func (f family) iptables() iptables.Family {
	if f.is4 {
		return iptables.IPv4()
	}
	return iptables.IPv6()
}

// usable runs the programs: there is no other way to ask the kernel.
func (ipTables) usable() error { return family4().iptables().Usable(natTable) }

// apply of recorded rules goes on after a failure, which may be one attachment's alone.
func (t ipTables) apply(c change) error {
	var errs []error
	for _, f := range families() {
		want, unwanted := c.want.ipRules(f), c.unwanted.chains()
		want.recorded = c.recorded
		programs, err := t.programs(f.iptables(), !want.empty(), unwanted)
		if err != nil {
			return err
		}
		for _, program := range programs {
			if program != f.iptables().Program { // the other variant: only remove
				want = ipRules{}
			}
			err := t.changeTable(program, f, want, unwanted)
			if err != nil && !c.recorded {
				return err
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// chains returns the names of the chains that networks and attachments may have of their own,
// the same in both families.
func (r ruleset) chains() []string {
	var chains []string
	for _, n := range r.Networks {
		chains = append(chains, chainName(networkPrefix, n.Network))
	}
	for _, p := range r.Ports {
		chains = append(chains, ownerChain(p.Owner))
	}
	return chains
}

func chainsOf(groups []ipGroup) []string {
	var chains []string
	for _, g := range groups {
		chains = append(chains, g.chain)
	}
	return chains
}

// programs returns the programs of the variants that may have one of the chains. If rules
// are wanted, the host's preferred program comes first, whether or not it has them.
func (t ipTables) programs(f iptables.Family, wanted bool, chains []string) ([]string, error) {
	var programs []string
	if wanted {
		programs = append(programs, f.Program)
	}
	if len(chains) == 0 {
		return programs, nil
	}
	variants, err := f.Variants(t.h.conn, natTable)
	if err != nil {
		return nil, err
	}
	for _, program := range variants {
		if wanted && iptables.Same(program, f.Program) {
			continue
		}
		there, err := t.hasAny(program, chains)
		if err != nil {
			return nil, err
		}
		if there {
			programs = append(programs, program)
		}
	}
	return programs, nil
}

func (t ipTables) hasAny(program string, chains []string) (bool, error) {
	for _, chain := range chains {
		if there, err := iptables.HasChain(t.h.conn, program, natTable, chain); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

// changeTable adds the wanted groups and removes the unwanted chains in one transaction, if
// anything has to be changed.
func (t ipTables) changeTable(program string, f family, want ipRules, unwanted []string) error {
	var waiting error
	err := changeNAT(program, func(have ipTable) ([]string, error) {
		unreadable, err := t.isUnreadable(program, f, have)
		if err != nil {
			return nil, err
		}
		if unreadable {
			if want, err = t.rebuild(f, want, unwanted); err != nil {
				return nil, err
			}
		}
		now := want
		if !unreadable { // else it is not known which chains there are
			now, waiting = have.possible(program, want)
		}
		if waiting != nil && !want.recorded {
			return nil, nil
		}
		stale, err := t.stale(program, have, f, now)
		return have.change(now, append(stale, unwanted...)), err
	})
	return errors.Join(err, waiting)
}

// possible returns the rules without the groups that jump to another program's chain which does
// not exist, and an error with code 7 for each: that program may have to run first, and everything
// else is made in one transaction with them.
func (t ipTable) possible(program string, want ipRules) (ipRules, error) {
	var errs []error
	want.groups = slices.DeleteFunc(slices.Clone(want.groups), func(g ipGroup) bool {
		if g.ports == nil || g.ports.SetMarkChain == "" || t.hasChain(g.ports.SetMarkChain) {
			return false
		}
		jumps := func(rule []string) bool { return rule[len(rule)-1] == g.ports.SetMarkChain }
		if !slices.ContainsFunc(g.rules, jumps) {
			return false
		}
		errs = append(errs, cni.ConfigErrorf("externalSetMarkChain: %q is no chain in table %s of %s, and %s needs it; run the program that makes it first, or leave the key out",
			g.ports.SetMarkChain, natTable, program, g.what))
		return true
	})
	return want, errors.Join(errs...)
}

// stale returns the chains with port mappings that conflict with those wanted and whose
// owner is not alive. If the owner is alive it is an error with code 102, except for
// recorded owners, whose reservations have decided already.
func (t ipTables) stale(program string, have ipTable, f family, want ipRules) ([]string, error) {
	var stale []string
	for _, g := range want.groups {
		if g.ports == nil {
			continue
		}
		for _, m := range have.overlapping(*g.ports, f) {
			if m.owner == g.label || m.reference && m.owner == g.ports.Owner.ContainerID {
				continue
			}
			void, err := t.isStale(program, m)
			if want.recorded && cni.CodeOf(err) == cni.CodeConflict {
				continue // its chain may map other ports: the next restore adopts it without this one
			}
			if err != nil {
				return nil, err
			}
			if void {
				stale = append(stale, m.chain)
			}
		}
	}
	return stale, nil
}

// isStale says whether the mapping has no live owner. A live owner without a record is an
// error.
func (t ipTables) isStale(program string, m foundMapping) (bool, error) {
	if m.reference { // of the nft variant refuseReference has seen to them, before the lock
		unused, err := isUnused(m.Container.Addr())
		if err == nil && !unused {
			err = referenceConflict(m, program+" -t nat -F "+m.chain)
		}
		return unused, err
	}
	recorded, err := t.h.recorded(m.owner)
	if err != nil || recorded {
		return false, err
	}
	alive, err := t.h.isInUse(m.owner)
	if err != nil || !alive {
		return err == nil, err
	}
	owner, _ := cni.ParseOwner(m.owner) // jumps returns no others
	return false, cni.ConflictErrorf("host port %s/%d on %s is taken by container %s of network %s, by chain %s of iptables and without a record; stop that container or choose another host port (trestle restore writes the missing record)",
		m.Protocol, m.Host.Port(), hostName(m.Host.Addr()), owner.ContainerID, owner.Network, m.chain)
}

func (t ipTables) diff(want ruleset) ([]string, error) {
	var diffs []string
	err := t.compare(want, func(program string, g ipGroup) {
		diffs = append(diffs, fmt.Sprintf("%s in table %s of %s: want chain %s as it was made, have it missing or changed", g.what, natTable, program, g.chain))
	}, func(program, chain string) {
		diffs = append(diffs, fmt.Sprintf("chain %s in table %s of %s: want jumps to it and its rules, have some missing", chain, natTable, program))
	})
	return diffs, err
}

// lost returns the labels of attachments and networks whose rules are missing or changed, and
// mappedComment for shared chains.
func (t ipTables) lost(want ruleset) ([]string, error) {
	var labels []string
	err := t.compare(want, func(_ string, g ipGroup) { labels = append(labels, g.label) }, func(string, string) { labels = append(labels, mappedComment) })
	return labels, err
}

// compare calls group and shared for each group and shared chain that is missing or changed.
func (ipTables) compare(want ruleset, group func(program string, g ipGroup), shared func(program, chain string)) error {
	for _, f := range families() {
		rules := want.ipRules(f)
		if rules.empty() {
			continue
		}
		program := f.iptables().Program
		have, err := saveNAT(program)
		if err != nil {
			return err
		}
		for _, g := range rules.groups {
			if !have.has(g) {
				group(program, g)
			}
		}
		for _, chain := range have.lacking(rules) {
			shared(program, chain)
		}
	}
	return nil
}

// ipTable is table nat as iptables-save prints it.
type ipTable struct{ iptables.Table }

func saveNAT(program string) (ipTable, error) {
	have, err := iptables.Save(program, natTable)
	return ipTable{have}, err
}

// changeNAT is iptables.Change for table nat.
func changeNAT(program string, lines func(have ipTable) ([]string, error)) error {
	return iptables.Change(program, natTable, func(have iptables.Table) ([]string, error) { return lines(ipTable{have}) })
}

// deleteChains deletes those of the chains that the program lists.
func deleteChains(program string, chains []string) error {
	return changeNAT(program, func(have ipTable) ([]string, error) { return have.deleteChains(chains), nil })
}

func (t ipTable) hasChain(chain string) bool { return t.Policies[chain] != "" }

// has says whether the group exists unchanged: by the number of its rules, and by the digest
// in the comments of its jumps.
func (t ipTable) has(g ipGroup) bool {
	jumps := t.To[g.chain]
	made := func(jump string) bool { return strings.Contains(jump, quote(g.comment())) }
	return len(jumps) == len(g.jumps) && !slices.ContainsFunc(jumps, func(j string) bool { return !made(j) }) &&
		len(t.In[g.chain]) == len(g.rules)
}

func (t ipTable) hasJump(j ipJump) bool {
	return slices.ContainsFunc(t.To[j.chain], func(rule string) bool { return strings.HasPrefix(rule, "-A "+j.parent+" ") })
}

func (t ipTable) hasMark(mark string) bool {
	return slices.ContainsFunc(t.In[masqChain], func(rule string) bool { return strings.Contains(rule, " --mark "+mark+" ") })
}

// lacking returns the shared chains that miss a jump or a rule that is wanted.
func (t ipTable) lacking(rules ipRules) []string {
	var chains []string
	for _, jump := range rules.jumps {
		if !t.hasJump(jump) && !slices.Contains(chains, jump.chain) {
			chains = append(chains, jump.chain)
		}
	}
	if slices.ContainsFunc(rules.marks, func(mark string) bool { return !t.hasMark(mark) }) && !slices.Contains(chains, masqChain) {
		chains = append(chains, masqChain)
	}
	return chains
}

// change returns the lines for iptables-restore that make the wanted groups and delete the
// unwanted chains. If groups are wanted, chains of earlier releases are deleted as well:
// Host.upgrade has written records for their owners before.
func (t ipTable) change(want ipRules, unwanted []string) []string {
	kept := chainsOf(want.groups)
	if len(kept) > 0 {
		unwanted = append(t.former(), unwanted...)
	}
	unwanted = slices.DeleteFunc(slices.Clone(unwanted), func(chain string) bool { return slices.Contains(kept, chain) })
	lines := append(t.addShared(want), t.deleteChains(unwanted)...)
	for _, g := range want.groups {
		if !t.has(g) {
			lines = append(lines, t.addGroup(g)...)
		}
	}
	return lines
}

// addShared adds what is missing of the chains that all attachments share, also with the
// reference plugins. A line ":CHAIN -" makes a chain, or flushes it.
func (t ipTable) addShared(want ipRules) []string {
	var lines []string
	for _, jump := range want.jumps {
		if declare := ":" + jump.chain + " - [0:0]"; !t.hasChain(jump.chain) && !slices.Contains(lines, declare) {
			lines = append(lines, declare)
		}
	}
	for _, jump := range want.jumps {
		option := "-A"
		if jump.first {
			option = "-I"
		}
		if !t.hasJump(jump) {
			lines = append(lines, line(option, jump.parent, append(slices.Clone(jump.match), "-j", jump.chain)))
		}
	}
	for _, mark := range want.marks {
		if !t.hasMark(mark) {
			lines = append(lines, line("-A", masqChain, []string{"-m", "mark", "--mark", mark, "-j", "MASQUERADE"}))
		}
	}
	return lines
}

func (t ipTable) addGroup(g ipGroup) []string {
	lines := []string{":" + g.chain + " - [0:0]"}
	for _, jump := range t.To[g.chain] {
		lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
	}
	for _, rule := range g.rules {
		lines = append(lines, line("-A", g.chain, rule))
	}
	for _, jump := range g.jumps {
		lines = append(lines, line("-A", g.parent, slices.Concat(jump, []string{"-m", "comment", "--comment", g.comment(), "-j", g.chain})))
	}
	return lines
}

// deleteChains returns the lines that delete those of the chains that exist, and the jumps
// to them. Jumps in a chain that is flushed itself are left out: the nft variant refuses to
// delete a rule in the transaction that flushes its chain.
func (t ipTable) deleteChains(chains []string) []string {
	chains = slices.DeleteFunc(slices.Clone(chains), func(chain string) bool { return !t.hasChain(chain) })
	slices.Sort(chains)
	chains = slices.Compact(chains)
	var lines []string
	for _, chain := range chains {
		for _, jump := range t.To[chain] {
			if !slices.Contains(chains, wordsOf(jump)[1]) {
				lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
			}
		}
	}
	for _, option := range []string{"-F ", "-X "} {
		for _, chain := range chains {
			lines = append(lines, option+chain)
		}
	}
	return lines
}

// line is one command for iptables-restore.
func line(option, chain string, args []string) string {
	words := []string{option, chain}
	for _, arg := range args {
		if strings.ContainsAny(arg, " \t\"'\\") {
			arg = quote(arg)
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// quote quotes text as iptables-save does and iptables-restore expects (xtables_save_string,
// libxtables/xtables.c).
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `'`, `\'`).Replace(s) + `"`
}

// unreachableError says that rules in iptables could not be removed: a program is missing, or
// failed.
type unreachableError struct{ error }

func (e unreachableError) Unwrap() error { return e.error }

// remove deletes an attachment's port mappings. If the program is missing, those of the nft
// variant are deleted by netlink. The error is an unreachableError.
func (t ipTables) remove(p ownedPorts) error {
	err := t.apply(change{unwanted: ruleset{Ports: []ownedPorts{p}}})
	if errors.Is(err, iptables.ErrNoProgram) {
		err = t.removeWithout(p.Owner, err)
	}
	if err != nil {
		return unreachableError{err}
	}
	return nil
}

// removeWithout is remove by netlink. It returns cause if chains are left.
func (t ipTables) removeWithout(o cni.Owner, cause error) error {
	err := t.h.conn.Usable()
	if err == nil {
		err = reference{owner: o}.deleteFromNFTables(t.h.conn)
	}
	if err != nil && !errors.Is(err, nft.ErrUnsupported) {
		return err
	}
	for _, f := range families() {
		left, err := t.programs(f.iptables(), false, []string{ownerChain(o)})
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return cause
		}
	}
	return nil
}
