package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

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

// ipRules of the part, as iptables-save prints them.
func (p part) ipRules() []string {
	if p.kind == mappedPart {
		return []string{"-A " + ourChain + " -o " + p.value + " -m conntrack --ctstate DNAT -j ACCEPT"}
	}
	cidr := p.value
	if address, err := netip.ParseAddr(p.value); err == nil {
		cidr = netip.PrefixFrom(address, address.BitLen()).String()
	}
	return []string{
		"-A " + ourChain + " -d " + cidr + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-A " + ourChain + " -s " + cidr + " -j ACCEPT",
	}
}

// ipTable is table filter of one family in one variant of iptables, by the
// program for it. Each change is one iptables-save, to see what is there, and one
// iptables-restore, which changes a table as a whole or not at all.
type ipTable struct {
	program string
	admin   string
	nft     *nftables
}

func (t ipTable) add(parts []part, _ cni.Owner) error {
	have, err := save(t.program)
	if err != nil {
		return err
	}
	return restore(t.program, have.additions(parts, t.admin))
}

// remove takes the chain away with the last container that it lets through, also
// where that was the reference plugin's; empty does not know of those. Where
// there is no such chain it runs no program.
func (t ipTable) remove(parts []part, _ bool) error {
	there, err := t.nft.hasOurChain(t.program)
	if err != nil || !there {
		return err
	}
	have, err := save(t.program)
	if err != nil {
		return err
	}
	return restore(t.program, have.deletions(parts))
}

func (t ipTable) missing(parts []part) ([]string, error) {
	have, err := save(t.program)
	if err != nil {
		return nil, err
	}
	want := []string{ourJump(), adminJump(t.admin)}
	for _, p := range parts {
		want = append(want, p.ipRules()...)
	}
	var diffs []string
	for _, rule := range want {
		if !slices.Contains(have.rules, rule) {
			diffs = append(diffs, fmt.Sprintf("rule %q of %s: want it, have none", rule, t.program))
		}
	}
	return diffs, nil
}

// saved is table filter as iptables-save prints it.
type saved struct {
	chains map[string]string // policies, "-" of chains that are not the kernel's
	rules  []string          // "-A CHAIN …"
}

func save(program string) (saved, error) {
	out, err := run(program+"-save", "", "-t", filterTable)
	if err != nil {
		return saved{}, fmt.Errorf("read table %s: %w", filterTable, err)
	}
	t := saved{chains: map[string]string{}}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if fields := strings.Fields(line); strings.HasPrefix(line, ":") && len(fields) > 1 {
			t.chains[fields[0][1:]] = fields[1]
		}
		if strings.HasPrefix(line, "-A ") {
			t.rules = append(t.rules, line)
		}
	}
	return t, nil
}

// restore applies lines to the table in one transaction, if there are any.
func restore(program string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	script := "*" + filterTable + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	if _, err := run(program+"-restore", script, "--wait=10", "--noflush"); err != nil {
		return fmt.Errorf("change table %s: %w", filterTable, err)
	}
	return nil
}

func run(name, stdin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound): // whose text go-cni takes for that of something gone already
		return "", fmt.Errorf("%s: no such program in PATH; install iptables", name)
	case errors.As(err, &exit):
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// usablePrograms says whether the host has iptables for both families.
func usablePrograms() error {
	var errs []error
	for _, f := range families() {
		for _, program := range []string{f.program + "-save", f.program + "-restore"} {
			if _, err := exec.LookPath(program); err != nil {
				errs = append(errs, fmt.Errorf("look for %s: %w", program, err))
			}
		}
	}
	return errors.Join(errs...)
}

// obstructs says whether FORWARD drops packets, or the admin chain has rules.
func (t saved) obstructs(admin string) bool {
	if t.chains[forwardChain] == "DROP" || len(t.in(admin)) > 0 {
		return true
	}
	return slices.ContainsFunc(t.in(forwardChain), func(rule string) bool {
		return strings.Contains(rule, " -j DROP") || strings.Contains(rule, " -j REJECT")
	})
}

func (t saved) in(chain string) []string {
	return slices.DeleteFunc(slices.Clone(t.rules), func(rule string) bool { return !strings.HasPrefix(rule, "-A "+chain+" ") })
}

func (t saved) to(chain string) []string {
	return slices.DeleteFunc(slices.Clone(t.rules), func(rule string) bool { return !strings.HasSuffix(rule, " -j "+chain) })
}

// additions are the lines of iptables-restore that make what is not there. Our
// chain comes first in FORWARD, and the admin's first in ours.
func (t saved) additions(parts []part, admin string) []string {
	var lines []string
	for _, chain := range []string{ourChain, admin} {
		if t.chains[chain] == "" {
			lines = append(lines, ":"+chain+" - [0:0]")
		}
	}
	for _, jump := range []string{ourJump(), adminJump(admin)} {
		if !slices.Contains(t.rules, jump) {
			fields := strings.SplitN(jump, " ", 3)
			lines = append(lines, "-I "+fields[1]+" 1 "+fields[2])
		}
	}
	for _, p := range parts {
		for _, rule := range p.ipRules() {
			if !slices.Contains(t.rules, rule) {
				lines = append(lines, rule)
			}
		}
	}
	return lines
}

// deletions are the lines that delete what is there of parts, and all that is
// ours where nobody is let through any more. An admin chain with rules stays.
func (t saved) deletions(parts []part) []string {
	var lines, gone []string
	for _, p := range parts {
		gone = append(gone, p.ipRules()...)
	}
	left, admins := 0, []string{}
	for _, rule := range t.in(ourChain) {
		_, jumpsTo, isAdmin := strings.Cut(rule, adminComment+" -j ")
		switch {
		case slices.Contains(gone, rule):
			lines = append(lines, "-D"+strings.TrimPrefix(rule, "-A"))
		case isAdmin:
			admins = append(admins, jumpsTo)
		default:
			left++
		}
	}
	if left > 0 || t.chains[ourChain] == "" {
		return lines
	}
	lines = nil
	for _, jump := range t.to(ourChain) {
		lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
	}
	lines = append(lines, "-F "+ourChain, "-X "+ourChain)
	for _, admin := range admins {
		if len(t.in(admin)) == 0 && len(t.to(admin)) == 1 {
			lines = append(lines, "-X "+admin)
		}
	}
	return lines
}
