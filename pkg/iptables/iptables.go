// Package iptables reads and changes tables of iptables as a whole, by the programs
// of either variant (legacy, and nf_tables, which keeps its tables in nftables). What
// the kernel has of them is asked without a process.
//
// Save and Restore are ours rather than go-iptables', which runs a process for each
// rule: they take a millisecond each, and whoever is killed between two leaves half
// of his rules. go-iptables does what is not felt (Usable).
//
// A caller asks Family.Variants which programs have the table (no process is run),
// reads it by Save, and changes it by Change, all of it or nothing. Where Native finds a chain in nftables, simple rules of it need no process at all. To debug: iptables-save, iptables-nft-save and iptables-legacy-save show what
// each variant has; strace -f -e execve shows what is run.
package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	"github.com/google/nftables"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// Family is iptables or ip6tables.
type Family struct {
	// Program is the command of the variant that the host prefers.
	Program string
	IPv4    bool
	nft     nftables.TableFamily
	legacy  string // lists the legacy variant's tables
}

// IPv4 is iptables.
func IPv4() Family {
	return Family{Program: "iptables", IPv4: true, nft: nftables.TableFamilyIPv4, legacy: "/proc/thread-self/net/ip_tables_names"}
}

// IPv6 is ip6tables.
func IPv6() Family {
	return Family{Program: "ip6tables", nft: nftables.TableFamilyIPv6, legacy: "/proc/thread-self/net/ip6_tables_names"}
}

// Families are both.
func Families() []Family { return []Family{IPv4(), IPv6()} }

// FamilyOf is that of a program: "ip6tables-legacy" is of IPv6.
func FamilyOf(program string) Family {
	if strings.HasPrefix(program, IPv6().Program) {
		return IPv6()
	}
	return IPv4()
}

// Variants are the variants in which the kernel has the table, by the program that
// changes each: none on a host that has had no iptables command since it was booted.
// The kernel is asked, by netlink and /proc, and no process is run. A table of
// nftables counts if it has a chain that only iptables names so.
func (f Family) Variants(c *nft.Conn, table string) ([]string, error) {
	var programs []string
	inNFT, err := f.inNFT(c, table)
	if err != nil {
		return nil, err
	}
	if inNFT {
		programs = append(programs, f.variant("nft"))
	}
	inLegacy, err := f.inLegacy(table)
	if legacy := f.variant("legacy"); inLegacy && !slices.Contains(programs, legacy) {
		programs = append(programs, legacy)
	}
	return programs, err
}

func (f Family) inLegacy(table string) (bool, error) {
	names, err := os.ReadFile(f.legacy)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for tables of %s-legacy: %w", f.Program, err)
	}
	return slices.Contains(strings.Fields(string(names)), table), nil
}

func (f Family) inNFT(c *nft.Conn, table string) (bool, error) {
	t := nft.Table{Family: f.nft, Name: table}
	there, err := c.Exists(t)
	if err != nil || !there {
		return false, err
	}
	for _, chain := range []string{"FORWARD", "INPUT", "OUTPUT", "PREROUTING", "POSTROUTING"} {
		if there, err := c.HasChain(t, chain); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

// HasChain says whether there may be a chain of this name in the table, in the variant
// that the program changes, whether or not the host has the program. The nf_tables
// variant's is known; the legacy variant says no more than that it has the table.
func HasChain(c *nft.Conn, program, table, chain string) (bool, error) {
	f := FamilyOf(program)
	if !strings.HasSuffix(program, "-legacy") {
		there, err := c.HasChain(nft.Table{Family: f.nft, Name: table}, chain)
		if err != nil || there {
			return there, err
		}
	}
	if strings.HasSuffix(program, "-nft") {
		return false, nil
	}
	return f.inLegacy(table)
}

// Installed says whether there is such a program.
func Installed(program string) bool {
	_, err := exec.LookPath(program + "-restore")
	return err == nil
}

// Drops says whether a chain of the table has the policy DROP, as far as can be told
// without a program: what only the legacy variant's tells may be so.
func (f Family) Drops(c *nft.Conn, program, table, chain string) (bool, error) {
	if program != f.variant("nft") {
		return true, nil
	}
	return c.Drops(nft.Table{Family: f.nft, Name: table}, chain)
}

// variant is the program for one variant, or the only one that the host has.
func (f Family) variant(name string) string {
	if _, err := exec.LookPath(f.Program + "-" + name); err == nil {
		return f.Program + "-" + name
	}
	return f.Program
}

// Preferred is the program of the variant that "iptables" is on this host. A table made in
// the other would be of no use to who uses "iptables", and would mislead images that look
// by the rules which of the two the host uses (kube-proxy's).
func (f Family) Preferred() string {
	if legacy := f.variant("legacy"); legacy != f.Program && Same(f.Program, legacy) {
		return legacy
	}
	return f.variant("nft")
}

// Table is what a program has in a table, as iptables-save prints it.
type Table struct {
	Policies map[string]string // by chain; "-" of chains that are not the kernel's
	Rules    []string          // "-A CHAIN …"
}

// In are the rules of a chain.
func (t Table) In(chain string) []string {
	return t.only(func(rule string) bool { return strings.HasPrefix(rule, "-A "+chain+" ") })
}

// To are the rules that end in a jump to a chain.
func (t Table) To(chain string) []string {
	return t.only(func(rule string) bool { return strings.HasSuffix(rule, " -j "+chain) })
}

func (t Table) only(keep func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(t.Rules), func(rule string) bool { return !keep(rule) })
}

// ParseTable reads one table of what iptables-save prints.
func ParseTable(text string) Table {
	t := Table{Policies: map[string]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if fields := strings.Fields(line); strings.HasPrefix(line, ":") && len(fields) > 1 {
			t.Policies[fields[0][1:]] = fields[1]
		}
		if strings.HasPrefix(line, "-A ") {
			t.Rules = append(t.Rules, line)
		}
	}
	return t
}

// Save reads a table. A table that the kernel does not have yet is empty.
func Save(program, table string) (Table, error) {
	out, err := run(program+"-save", "", "-t", table)
	if err != nil {
		return Table{}, fmt.Errorf("read table %s: %w", table, err)
	}
	return ParseTable(out), nil
}

// Restore applies lines of iptables-restore to the table, if there are any: all of
// them or none.
func Restore(program, table string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	script := "*" + table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	if _, err := run(program+"-restore", script, fmt.Sprintf("--wait=%d", lockWait/time.Second), "--noflush"); err != nil {
		return fmt.Errorf("change table %s: %w", table, err)
	}
	return nil
}

// lockWait is how long a program waits for the lock of iptables.
const lockWait = 10 * time.Second

// tries are those of Change.
const tries = 3

// Change reads a table and applies to it what lines makes of that, for Restore. Where
// somebody else has changed the table in between, so that a rule or chain is gone, or
// while the program was at work ("nft flush ruleset"), it looks again, and lines is asked
// again. It does not where the lock of iptables could not be had: to wait again would keep
// all of ours from their own lock.
func Change(program, table string, lines func(have Table) ([]string, error)) error {
	var failed error
	for range tries {
		have, err := Save(program, table)
		if err != nil {
			return err
		}
		wanted, err := lines(have)
		if err != nil {
			return err
		}
		began := time.Now()
		failed = Restore(program, table, wanted)
		if failed == nil || (isOutOfResources(failed) && time.Since(began) >= lockWait) {
			return failed
		}
	}
	return failed
}

// isOutOfResources is true where the lock could not be had in time, or the kernel refused
// what the program asked of it (RESOURCE_PROBLEM, xtables.h of iptables).
func isOutOfResources(err error) bool {
	const resourceProblem = 4
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == resourceProblem
}

// ErrNoProgram says that a program is not installed. Its text avoids "not found",
// which go-cni takes, at DEL, for word of something that is gone already.
var ErrNoProgram = errors.New("no such program in PATH; install iptables")

func run(name, stdin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s: %w", name, ErrNoProgram)
	case errors.As(err, &exit):
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// Usable says whether the programs are there and the kernel lets them list the table:
// for STATUS, since it runs two of them.
func (f Family) Usable(table string) error {
	for _, program := range []string{f.Program, f.Program + "-save", f.Program + "-restore"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s: %w", program, ErrNoProgram)
		}
	}
	programs, err := goiptables.New(goiptables.Path(f.Program), goiptables.Timeout(10))
	if err == nil {
		_, err = programs.ListChains(table)
	}
	if err != nil {
		return fmt.Errorf("list table %s by %s: %w", table, f.Program, err)
	}
	return nil
}

// Same says whether two commands are one program: "iptables" is a link to one of the
// variants.
func Same(a, b string) bool {
	stat := func(program string) (os.FileInfo, error) {
		path, err := exec.LookPath(program)
		if err != nil {
			return nil, err
		}
		return os.Stat(path)
	}
	first, err := stat(a)
	if err != nil {
		return a == b
	}
	second, err := stat(b)
	return err == nil && os.SameFile(first, second)
}
