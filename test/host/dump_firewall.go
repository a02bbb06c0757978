package host

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// nft is the ruleset without counters, the elements of sets and maps sorted: the
// kernel's order is that of a hash.
func (n *Namespace) nft() ([]string, error) {
	lines, err := n.show("nft", "--stateless", "list", "ruleset")
	if err != nil {
		return nil, err
	}
	return dropIdle(sortElements(lines)), nil
}

// dropIdle leaves out tables of Trestle's that serve nobody: they stay for good, as
// bridges do. What serves somebody has an element, or a comment with an owner's label.
func dropIdle(lines []string) []string {
	var kept []string
	for begin, end := 0, 0; begin < len(lines); begin = end {
		end = begin + 1
		for end < len(lines) && !strings.HasPrefix(lines[end], "table ") {
			end++
		}
		table := lines[begin:end]
		if ours.MatchString(lines[begin]) && !slices.ContainsFunc(table, served.MatchString) {
			continue
		}
		kept = append(kept, table...)
	}
	return kept
}

var (
	ours   = regexp.MustCompile(`^table (inet|bridge) trestle `)
	served = regexp.MustCompile(`^\s*element |comment "[^"]*/`)
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
