package host

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
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
	return sortElements(lines), nil
}

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

// sysctls is those of the network that have a say in what plugins do: for each
// device only what differs from the default.
func (n *Namespace) sysctls() ([]string, error) {
	var lines []string
	err := n.Do(func() error {
		for _, name := range []string{"ipv4/ip_forward", "ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"} {
			if value, err := readSysctl(filepath.Join(sysctlRoot, name)); err == nil {
				lines = append(lines, sysctlLine("net/"+name, value))
			}
		}
		for _, dir := range []string{"bridge", "ipv4/conf", "ipv6/conf"} {
			found, err := sysctlDir(dir)
			if err != nil {
				return err
			}
			lines = append(lines, found...)
		}
		return nil
	})
	return lines, err
}

const sysctlRoot = "/proc/sys/net"

func sysctlDir(dir string) ([]string, error) {
	var lines []string
	err := filepath.WalkDir(filepath.Join(sysctlRoot, dir), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no such module, or a device that just went
		}
		if err != nil || entry.IsDir() {
			return err
		}
		value, err := readSysctl(path)
		if err != nil {
			return nil // stable_secret cannot be read before it is set
		}
		scope, key := filepath.Split(path)
		standard, err := readSysctl(filepath.Join(scope, "../default", key))
		if err != nil || value != standard || filepath.Base(scope) == "default" {
			lines = append(lines, sysctlLine(strings.TrimPrefix(path, "/proc/sys/"), value))
		}
		return nil
	})
	return lines, err
}

func readSysctl(path string) (string, error) {
	value, err := os.ReadFile(path)
	return strings.TrimSpace(string(value)), err
}

func sysctlLine(path, value string) string { return path + " = " + value }
