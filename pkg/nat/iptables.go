package nat

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// ipTables has rules by iptables and ip6tables, whichever variant of them the
// host uses. Each change is one iptables-save, to see what is there, and one
// iptables-restore, which changes a table as a whole or not at all: a process
// for each rule, as go-iptables has it, takes a millisecond each and can be
// killed half-way.
type ipTables struct{}

// usable asks the programs, for there is no other way to have the kernel's answer.
func (ipTables) usable() error {
	_, err := save(family4(), "nat")
	return err
}

func (ipTables) apply(c change) error { return changeTables(c.want, c.unwanted) }

// forget removes the network's masquerade, and what holds rules with the last one.
func (ipTables) forget(network string) error {
	for _, f := range families() {
		for _, table := range ipTableNames() {
			have, err := save(f, table)
			if err != nil {
				return err
			}
			if len(have.chains) == 0 {
				continue
			}
			chain := chainName(networkPrefix, network)
			lines := have.deleteGroup(chain)
			if !have.holdsOther(map[string]bool{chain: true}, table) {
				lines = have.deleteAll()
			}
			if len(lines) == 0 {
				continue
			}
			if err := restoreBy(f.iptables(), table, lines); err != nil {
				return err
			}
		}
	}
	return nil
}

func changeTables(want, unwanted Rules) error {
	for _, f := range families() {
		for _, table := range ipTableNames() {
			if err := changeTable(f, table, want.ipGroups(f, table), unwanted.ipGroups(f, table)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (ipTables) differences(want Rules) ([]string, error) {
	var diffs []string
	for _, f := range families() {
		for _, table := range ipTableNames() {
			groups := want.ipGroups(f, table)
			if len(groups) == 0 {
				continue
			}
			have, err := save(f, table)
			if err != nil {
				return nil, err
			}
			for _, g := range groups {
				if !have.has(g) {
					diffs = append(diffs, fmt.Sprintf("%s in table %s of %s: want chain %s as it was made, have it missing or changed", g.what, table, f.iptables(), g.chain))
				}
			}
			if !have.hasBase(f, table) {
				diffs = append(diffs, fmt.Sprintf("jumps to our chains in table %s of %s: want them, have them missing", table, f.iptables()))
			}
		}
	}
	return diffs, nil
}

func (f family) iptables() string {
	if f.is4 {
		return "iptables"
	}
	return "ip6tables"
}

// changeTable adds and removes groups in one transaction, where anything is to be done.
func changeTable(f family, table string, want, unwanted []ipGroup) error {
	if len(want)+len(unwanted) == 0 {
		return nil
	}
	have, err := save(f, table)
	if err != nil {
		return err
	}
	lines := have.change(f, table, want, unwanted)
	if len(lines) == 0 {
		return nil
	}
	return restoreBy(f.iptables(), table, lines)
}

// ipTable is what a table has of ours, as iptables-save prints it.
type ipTable struct {
	chains []string
	rules  []string // "-A CHAIN …"
}

func save(f family, table string) (ipTable, error) { return saveBy(f.iptables(), table, chainPrefix) }

// saveBy reads the chains whose names begin with prefix, and the rules that
// are in them or jump to them.
func saveBy(program, table, prefix string) (ipTable, error) {
	out, err := command(program+"-save", "", "-t", table)
	if err != nil {
		return ipTable{}, fmt.Errorf("read table %s: %w", table, err)
	}
	var t ipTable
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		name, _, _ := strings.Cut(strings.TrimPrefix(line, ":"), " ")
		switch {
		case strings.HasPrefix(line, ":"+prefix):
			t.chains = append(t.chains, name)
		case strings.HasPrefix(line, "-A ") && strings.Contains(line, prefix):
			t.rules = append(t.rules, line)
		}
	}
	return t, nil
}

// restoreBy applies lines of iptables-restore to a table, in one transaction.
func restoreBy(program, table string, lines []string) error {
	script := "*" + table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	if _, err := command(program+"-restore", script, "--wait=20", "--noflush"); err != nil {
		return fmt.Errorf("change table %s: %w", table, err)
	}
	return nil
}

// command runs one of iptables' programs.
func command(name, stdin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// in are the rules of a chain.
func (t ipTable) in(chain string) []string {
	var rules []string
	for _, rule := range t.rules {
		if strings.HasPrefix(rule, "-A "+chain+" ") {
			rules = append(rules, rule)
		}
	}
	return rules
}

// to are the rules that jump to a chain.
func (t ipTable) to(chain string) []string {
	var rules []string
	for _, rule := range t.rules {
		if strings.HasSuffix(rule, " -j "+chain) {
			rules = append(rules, rule)
		}
	}
	return rules
}

// has says whether the group is there as it was made.
func (t ipTable) has(g ipGroup) bool {
	jumps := t.to(g.chain)
	made := func(jump string) bool { return strings.Contains(jump, g.comment()) }
	return len(jumps) == len(g.jumps) && !slices.ContainsFunc(jumps, func(j string) bool { return !made(j) }) &&
		len(t.in(g.chain)) == len(g.rules)
}

func (t ipTable) hasBase(f family, table string) bool {
	for _, jump := range baseJumps(f, table) {
		if !slices.ContainsFunc(t.to(jump.chain), func(rule string) bool { return strings.HasPrefix(rule, "-A "+jump.parent+" ") }) {
			return false
		}
	}
	return true
}

// change are the lines of iptables-restore that make and delete groups. A line
// ":CHAIN -" makes a chain, or empties it.
func (t ipTable) change(f family, table string, want, unwanted []ipGroup) []string {
	var lines []string
	if len(want) > 0 && !t.hasBase(f, table) {
		lines = append(lines, t.addBase(f, table)...)
	}
	for _, g := range unwanted {
		if g.stays || slices.ContainsFunc(want, func(w ipGroup) bool { return w.chain == g.chain }) {
			continue
		}
		lines = append(lines, t.deleteGroup(g.chain)...)
	}
	for _, g := range want {
		if !t.has(g) {
			lines = append(lines, t.addGroup(g)...)
		}
	}
	return lines
}

func (t ipTable) addBase(f family, table string) []string {
	var lines []string
	for _, chain := range baseChains(table) {
		if !slices.Contains(t.chains, chain) {
			lines = append(lines, ":"+chain+" - [0:0]")
		}
	}
	for _, jump := range baseJumps(f, table) {
		there := func(rule string) bool { return strings.HasPrefix(rule, "-A "+jump.parent+" ") }
		if !slices.ContainsFunc(t.to(jump.chain), there) {
			lines = append(lines, line("-A", jump.parent, append(jump.match, "-j", jump.chain)))
		}
	}
	return lines
}

func (t ipTable) addGroup(g ipGroup) []string {
	lines := []string{":" + g.chain + " - [0:0]"}
	for _, jump := range t.to(g.chain) {
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

func (t ipTable) deleteGroup(chain string) []string {
	if !slices.Contains(t.chains, chain) {
		return nil
	}
	var lines []string
	for _, jump := range t.to(chain) {
		lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
	}
	return append(lines, "-F "+chain, "-X "+chain)
}

// holdsOther says whether there are groups beside those that go and those that
// only serve others.
func (t ipTable) holdsOther(gone map[string]bool, table string) bool {
	return slices.ContainsFunc(t.chains, func(chain string) bool {
		return !gone[chain] && !slices.Contains(baseChains(table), chain) && !strings.HasPrefix(chain, markPrefix)
	})
}

func (t ipTable) deleteAll() []string {
	var lines []string
	for _, rule := range t.rules {
		if !strings.HasPrefix(rule, "-A "+chainPrefix) {
			lines = append(lines, "-D"+strings.TrimPrefix(rule, "-A"))
		}
	}
	for _, chain := range t.chains {
		lines = append(lines, "-F "+chain)
	}
	for _, chain := range t.chains {
		lines = append(lines, "-X "+chain)
	}
	return lines
}

// line is a command of iptables-restore.
func line(verb, chain string, args []string) string {
	words := []string{verb, chain}
	for _, arg := range args {
		if strings.ContainsAny(arg, " \t") {
			arg = `"` + arg + `"` // no quote is in it: fits sees to that
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}
