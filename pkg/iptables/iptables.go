// Package iptables reads a table of iptables in one step and changes it in one step, by the
// programs of either variant: legacy, or nf_tables, which keeps its tables in nftables.
// Which tables and chains exist is asked of the kernel, without running a program.
//
// go-iptables runs a process for each rule. A process takes a millisecond, and a caller
// that is killed between two of them leaves half of its rules. So Save and Restore are our
// own, and go-iptables only serves Usable, where neither matters.
//
// A caller asks Family.Variants which programs have the table, reads it by Save, and
// changes it by Change: completely or not at all. Simple rules of a chain that Native finds
// in nftables need no program. To debug: iptables-save, iptables-nft-save and
// iptables-legacy-save show what each variant has; strace -f -e execve shows what is run.
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
	// Program is the command without a suffix: the host decides which variant it is.
	Program string
	IPv4    bool
	nft     nftables.TableFamily
	legacy  string // the file that lists the legacy variant's tables
}

// IPv4 is iptables.
func IPv4() Family {
	return Family{Program: "iptables", IPv4: true, nft: nftables.TableFamilyIPv4, legacy: "/proc/thread-self/net/ip_tables_names"}
}

// IPv6 is ip6tables.
func IPv6() Family {
	return Family{Program: "ip6tables", nft: nftables.TableFamilyIPv6, legacy: "/proc/thread-self/net/ip6_tables_names"}
}

// Families returns both.
func Families() []Family { return []Family{IPv4(), IPv6()} }

// FamilyOf returns the family that a program is for: "ip6tables-legacy" is for IPv6.
func FamilyOf(program string) Family {
	if strings.HasPrefix(program, IPv6().Program) {
		return IPv6()
	}
	return IPv4()
}

// Variants returns, for each variant in which the kernel has the table, the program that
// changes it: none on a host where no iptables command ran since boot. The kernel is asked
// by netlink and /proc, and no process is run. A table of nftables counts if it has a chain
// with a name that iptables uses, such as FORWARD.
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

// HasChain says whether the variant that the program changes may have the chain in the
// table; the program need not be installed. For the nf_tables variant the answer is exact;
// of the legacy variant only the tables can be asked for.
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

// Installed says whether PATH has the program.
func Installed(program string) bool {
	_, err := exec.LookPath(program + "-restore")
	return err == nil
}

// Drops says whether a chain of the table has the policy DROP. Without running a program
// that can only be told of the nf_tables variant; for any other it is true.
func (f Family) Drops(c *nft.Conn, program, table, chain string) (bool, error) {
	if program != f.variant("nft") {
		return true, nil
	}
	return c.Drops(nft.Table{Family: f.nft, Name: table}, chain)
}

// variant returns the program of one variant; if the host has none of that name, the one
// without a suffix.
func (f Family) variant(name string) string {
	if _, err := exec.LookPath(f.Program + "-" + name); err == nil {
		return f.Program + "-" + name
	}
	return f.Program
}

// Preferred returns the program of the variant that "iptables" is on this host. Users of
// "iptables" would not see a table of the other variant, and it would mislead images that
// find out by the existing rules which of the two the host uses (kube-proxy's).
func (f Family) Preferred() string {
	if legacy := f.variant("legacy"); legacy != f.Program && Same(f.Program, legacy) {
		return legacy
	}
	return f.variant("nft")
}

// Table is one table of one variant, as iptables-save prints it.
type Table struct {
	Policies map[string]string   // by chain; "-" for chains that are not built-in
	Rules    []string            // "-A CHAIN …"
	In       map[string][]string // the rules of a chain
	To       map[string][]string // the rules with a target, such as a chain
}

// ParseTable parses what iptables-save prints of one table.
func ParseTable(text string) Table {
	t := Table{Policies: map[string]string{}, In: map[string][]string{}, To: map[string][]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if fields := strings.Fields(line); strings.HasPrefix(line, ":") && len(fields) > 1 {
			t.Policies[fields[0][1:]] = fields[1]
		}
		if strings.HasPrefix(line, "-A ") {
			t.Rules = append(t.Rules, line)
		}
	}
	for _, rule := range t.Rules {
		chain, _, _ := strings.Cut(strings.TrimPrefix(rule, "-A "), " ")
		t.In[chain] = append(t.In[chain], rule)
		if i := strings.LastIndex(rule, " -j "); i >= 0 {
			target, _, _ := strings.Cut(rule[i+len(" -j "):], " ")
			t.To[target] = append(t.To[target], rule)
		}
	}
	return t
}

// Save reads a table. One that the kernel does not have yet is empty.
func Save(program, table string) (Table, error) {
	out, err := run(program+"-save", "", "-t", table)
	if err != nil {
		return Table{}, fmt.Errorf("read table %s: %w", table, err)
	}
	return ParseTable(out), nil
}

// Restore applies lines of iptables-restore to the table: all of them or none. Without
// lines it runs nothing.
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

// tries bounds how often Change reads the table and applies lines to it.
const tries = 3

// Change reads a table by Save, calls lines with it, and applies the lines that it returns by
// Restore. If Restore fails, it reads again and calls lines again, since another program
// may have deleted a rule or chain in between, or all of them while the program ran ("nft
// flush ruleset"). It does not if Restore failed after waiting for the lock of iptables as
// long as it may: the caller holds our own lock, and other ADDs wait for that.
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

// isOutOfResources says whether the program did not get the lock in time, or the kernel
// refused its request (RESOURCE_PROBLEM, xtables.h of iptables).
func isOutOfResources(err error) bool {
	const resourceProblem = 4
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == resourceProblem
}

// ErrNoProgram says that a program is not installed. Its text avoids "not found": go-cni
// ignores an error of DEL with these words, as if the attachment were gone already.
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

// Usable returns an error if a program is missing or cannot list the table. It runs
// programs, so it is for STATUS only.
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

// Same says whether two commands are the same file: "iptables" is a link to one of the
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
