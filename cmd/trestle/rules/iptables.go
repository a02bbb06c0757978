package rules

import (
	"errors"
	"fmt"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// iptablesBases are the base chains of the tables that can drop or translate a container's
// packets, with their hooks and priorities (linux/netfilter_ipv4.h).
var iptablesBases = []struct {
	table, chain, hook string
	priority           int
}{
	{"filter", "FORWARD", "forward", 0},
	{"filter", "INPUT", "input", 0},
	{"filter", "OUTPUT", "output", 0},
	{"nat", "PREROUTING", "prerouting", -100},
	{"nat", "POSTROUTING", "postrouting", 100},
	{"nat", "OUTPUT", "output", -100},
}

// readIPTables lists the base chains that exist. If iptables has not been used since boot there
// are none, and no program is executed.
func readIPTables(conn *nft.Conn) ([]Base, error) {
	var bases []Base
	var failed []error
	for _, f := range iptables.Families() {
		family := IPv6
		if f.IPv4 {
			family = IPv4
		}
		byProgram := map[string]*lister{}
		for _, table := range []string{"filter", "nat"} {
			programs, err := f.Variants(conn, table)
			failed = append(failed, err)
			for _, program := range programs {
				if byProgram[program] == nil {
					byProgram[program], err = newLister(program)
				}
				if err != nil {
					failed = append(failed, err)
					continue
				}
				of, err := byProgram[program].bases(table, family)
				failed = append(failed, err)
				bases = append(bases, of...)
			}
		}
	}
	return bases, errors.Join(failed...)
}

// lister lists chains with one program, each of them once.
type lister struct {
	program string
	of      *goiptables.IPTables
	chains  map[string]listed
}

type listed struct {
	rules  []Rule
	policy string
	err    error
}

func newLister(program string) (*lister, error) {
	if !iptables.Installed(program) {
		return nil, fmt.Errorf("%s: %w", program, iptables.ErrNoProgram)
	}
	of, err := goiptables.New(goiptables.Path(program), goiptables.Timeout(5))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	return &lister{program: program, of: of, chains: map[string]listed{}}, nil
}

func (l *lister) bases(table string, family Family) ([]Base, error) {
	var bases []Base
	for _, b := range iptablesBases {
		if b.table != table {
			continue
		}
		base := Base{
			Table: map[Family]string{IPv4: "ip ", IPv6: "ip6 "}[family] + table, Program: l.program, Chain: b.chain, Hook: b.hook,
			NAT: table == "nat", Priority: b.priority, Family: family,
			rules: func(chain string) ([]Rule, error) {
				got := l.list(table, chain)
				return got.rules, got.err
			},
		}
		if table == "filter" { // NAT's chains have no policy that drops
			got := l.list(table, b.chain)
			if got.err != nil {
				return bases, got.err
			}
			base.Drops = got.policy == "DROP"
		}
		bases = append(bases, base)
	}
	return bases, nil
}

// list reads a chain's rules with their counters, and its policy.
func (l *lister) list(table, chain string) listed {
	key := table + " " + chain
	if got, ok := l.chains[key]; ok {
		return got
	}
	var got listed
	lines, err := l.of.ListWithCounters(table, chain)
	var failed *goiptables.Error
	switch {
	case errors.As(err, &failed) && failed.IsNotExist(): // deleted meanwhile
	case err != nil:
		got.err = fmt.Errorf("%s: list chain %s of table %s: %w", l.program, chain, table, err)
	}
	for _, line := range lines {
		if policy, ok := strings.CutPrefix(line, "-P "+chain+" "); ok {
			got.policy, _, _ = strings.Cut(policy, " ")
			continue
		}
		if strings.HasPrefix(line, "-A ") {
			got.rules = append(got.rules, parseIPTables(line))
		}
	}
	l.chains[key] = got
	return got
}
