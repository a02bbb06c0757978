package host

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// nft is the ruleset without counters, the elements of sets and maps sorted: the
// kernel's order is that of a hash. What a plugin has deleted is waited for: the kernel
// lists it until its time is over, a tick or two later (ListRuleset).
func (n *Namespace) nft() (lines []string, err error) {
	Await(n.t, "what was deleted has expired in "+n.Name, func() bool {
		lines, err = n.show("nft", "--stateless", "list", "ruleset")
		return err != nil || !slices.ContainsFunc(lines, expiring.MatchString)
	})
	if err != nil {
		return nil, err
	}
	return dropIdle(sortElements(lines)), nil
}

// dropIdle leaves out what Trestle's tables have that serves nobody, since it stays for
// good, as bridges do: sets without an element, chains that ask these alone, and a
// table in which nothing has an element, or a comment with an owner's label.
func dropIdle(lines []string) []string {
	var kept []string
	for _, table := range blocks(lines, "table ") {
		switch {
		case ours.MatchString(table[0]):
			table = busy(table)
		case filters.MatchString(table[0]):
			table = busyFilter(table)
		}
		kept = append(kept, table...)
	}
	return kept
}

// busyFilter is table filter of iptables without chains that let nobody through: the
// firewall plugin makes them, as the reference's does, and they stay for good, as the
// table and its own chains do.
func busyFilter(table []string) []string {
	chains := blocks(table[1:len(table)-1], "\tchain ")
	rules := func(name string) []string {
		for _, chain := range chains {
			if chain[0] == "\tchain "+name+" {" {
				return chain[1 : len(chain)-1]
			}
		}
		return nil
	}
	asks := func(rule string) bool { return strings.HasSuffix(rule, "counter jump CNI-ADMIN") }
	idle := len(rules("CNI-FORWARD")) == 1 && asks(rules("CNI-FORWARD")[0]) && len(rules("CNI-ADMIN")) == 0
	var kept []string
	for _, chain := range chains {
		if idle && (strings.HasPrefix(chain[0], "\tchain CNI-FORWARD ") || strings.HasPrefix(chain[0], "\tchain CNI-ADMIN ")) {
			continue
		}
		chain = slices.DeleteFunc(slices.Clone(chain), func(line string) bool { return idle && strings.HasSuffix(line, "counter jump CNI-FORWARD") })
		if len(chain) == 3 && unused.MatchString(chain[1]) {
			continue
		}
		kept = append(kept, chain...)
	}
	if kept == nil {
		return nil
	}
	return append(append(table[:1:1], kept...), table[len(table)-1])
}

func busy(table []string) []string {
	if !slices.ContainsFunc(table, served.MatchString) {
		return nil
	}
	inner := blocks(table[1:len(table)-1], "\tset ", "\tmap ", "\tchain ")
	idle := map[string]bool{}
	for _, block := range inner {
		if kind, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(block[0]), " {"), " "); kind != "chain" {
			idle[name] = !slices.ContainsFunc(block, served.MatchString)
		}
	}
	kept := table[:1:1]
	for _, block := range inner {
		kind, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(block[0]), " {"), " ")
		asks := asked.FindAllStringSubmatch(strings.Join(block, "\n"), -1)
		asksIdle := len(asks) > 0 && !slices.ContainsFunc(asks, func(set []string) bool { return !idle[set[1]] })
		if kind != "chain" && idle[name] || kind == "chain" && asksIdle && !slices.ContainsFunc(block, served.MatchString) {
			continue
		}
		kept = append(kept, block...)
	}
	return append(kept, table[len(table)-1])
}

// blocks are the lines from each that begins with one of prefixes to the next.
func blocks(lines []string, prefixes ...string) [][]string {
	var all [][]string
	for _, line := range lines {
		begins := slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(line, prefix) })
		if begins || all == nil {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], line)
	}
	return all
}

var (
	ours    = regexp.MustCompile(`^table (inet|bridge) trestle `)
	filters = regexp.MustCompile(`^table ip6? filter `)
	unused  = regexp.MustCompile(`^\t\ttype filter hook forward priority filter; policy accept;$`)
	served  = regexp.MustCompile(`^\s*element |comment "[^"]*/[^"]`)
	asked   = regexp.MustCompile(`@(\w+)`)

	// expiring is an element of a plugin's that it has deleted: none other of ours has a time.
	expiring = regexp.MustCompile(` timeout 1s comment "`)
)

const elementsBegin = "elements = { "

// sortElements puts each element of a set or map on a line of its own, sorted.
func sortElements(lines []string) []string {
	var sorted []string
	for i := 0; i < len(lines); i++ {
		indent, first, found := strings.Cut(lines[i], elementsBegin)
		if !found {
			sorted = append(sorted, lines[i])
			continue
		}
		text := first
		for !strings.HasSuffix(text, " }") && i+1 < len(lines) {
			i++
			text += " " + strings.TrimSpace(lines[i])
		}
		elements := splitElements(strings.TrimSuffix(text, " }"))
		slices.Sort(elements)
		for _, element := range elements {
			sorted = append(sorted, indent+"element "+element)
		}
	}
	return sorted
}

// splitElements splits at the commas outside of quotes.
func splitElements(text string) []string {
	quoted := false
	elements := strings.FieldsFunc(text, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return c == ',' && !quoted
	})
	for i := range elements {
		elements[i] = strings.TrimSpace(elements[i])
	}
	return elements
}

// iptables is the rules and own chains of iptables-legacy (those of iptables-nft
// are in the ruleset of nft). It is not asked before some program made its
// tables. They and their built-in chains are no state: they stay for good.
func (n *Namespace) iptables() ([]string, error) {
	var all []string
	for _, family := range []struct{ save, names string }{
		{"iptables", "/proc/net/ip_tables_names"}, {"ip6tables", "/proc/net/ip6_tables_names"},
	} {
		legacy := family.save + "-legacy-save"
		used, err := n.Run(Command{Args: []string{"cat", family.names}}) // fails without the module
		if err != nil {
			return nil, err
		}
		if used.Stdout == "" || !installed(legacy) {
			continue
		}
		lines, err := n.show(legacy)
		if err != nil {
			return nil, err
		}
		table := ""
		for _, line := range lines {
			switch {
			case line[0] == '*':
				table = line[1:]
			case line[0] == '-', line[0] == ':' && strings.Contains(line, " - ["):
				rule, _, _ := strings.Cut(line, " [")
				all = append(all, legacy+" -t "+table+" "+rule)
			}
		}
	}
	return all, nil
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}
