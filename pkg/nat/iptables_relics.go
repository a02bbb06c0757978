package nat

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// If a ruleset is saved by "nft list ruleset" and loaded again, iptables' extensions are lost,
// among them the comments that say whose a rule is. iptables calls the table incompatible,
// prints none of its rules, and flushes each chain that it is to make. So our chains are
// deleted by netlink and rebuilt from the records.

// isUnreadable says whether the kernel has one of the shared chains, but the program prints
// none.
func (t ipTables) isUnreadable(program string, f family, have ipTable) (bool, error) {
	if have.hasChain(dnatChain) || have.hasChain(natPostrouting) || !iptables.Same(program, f.iptables().Program+"-nft") {
		return false, nil
	}
	for _, chain := range []string{dnatChain, natPostrouting} {
		if there, err := t.h.conn.HasChain(f.natTable(), chain); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

func (f family) natTable() nft.Table {
	if f.is4 {
		return nft.Table{Family: nftables.TableFamilyIPv4, Name: natTable}
	}
	return nft.Table{Family: nftables.TableFamilyIPv6, Name: natTable}
}

// rebuild deletes all chains with our names or the reference's, and returns what the table is
// to have instead: want, and everything that is recorded except the unwanted chains.
func (t ipTables) rebuild(f family, want ipRules, unwanted []string) (ipRules, error) {
	t.h.warn("nft has loaded or changed table %s of %s, which it can no longer read: chains of mapped ports and masquerade in it are rebuilt", natTable, f.iptables().Program)
	if err := t.clear(f); err != nil {
		return want, err
	}
	all, err := record.List[translation](t.h.store, place, "")
	if err != nil {
		return want, err
	}
	rebuilt, own := rulesOf(all, IPTables).ipRules(f), chainsOf(want.groups)
	rebuilt.groups = slices.DeleteFunc(rebuilt.groups, func(g ipGroup) bool {
		return slices.Contains(own, g.chain) || slices.Contains(unwanted, g.chain)
	})
	rebuilt.groups = append(rebuilt.groups, want.groups...)
	return rebuilt, nil
}

// clear deletes by netlink all chains with our names or the reference's, and the jumps to them.
func (t ipTables) clear(f family) error {
	table := &nftables.Table{Name: natTable, Family: f.natTable().Family}
	if err := t.h.conn.Edit(func(conn *nftables.Conn) error { return stageClear(conn, table) }); err != nil {
		return fmt.Errorf("delete chains of table %s that %s cannot read: %w", natTable, f.iptables().Program, err)
	}
	return nil
}

func stageClear(conn *nftables.Conn, table *nftables.Table) error {
	chains, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return fmt.Errorf("list chains of nftables: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != natTable })
	var ours []*nftables.Chain
	for _, chain := range chains {
		if isShared(chain.Name) {
			conn.FlushChain(chain)
			ours = append(ours, chain)
			continue
		}
		rules, err := conn.GetRules(table, chain)
		if err != nil {
			return fmt.Errorf("list chain %s of nftables table %s: %w", chain.Name, natTable, err)
		}
		for _, rule := range rules {
			if !leadsToShared(rule) {
				continue
			}
			if err := conn.DelRule(rule); err != nil {
				return fmt.Errorf("delete rule %d of table %s: %w", rule.Handle, natTable, err)
			}
		}
	}
	for _, chain := range ours {
		conn.DelChain(chain)
	}
	return nil
}

// isShared says whether the chain's name is one of ours or of the reference plugin portmap.
func isShared(chain string) bool {
	return slices.ContainsFunc([]string{"CNI-HOSTPORT-", ownerPrefix, "TRESTLE-"}, func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

func leadsToShared(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		verdict, ok := e.(*expr.Verdict)
		return ok && isShared(verdict.Chain)
	})
}

// clearUnreadable rebuilds a table that the program cannot read, for callers that only list it.
func (t ipTables) clearUnreadable(program string, f family, have ipTable) error {
	unreadable, err := t.isUnreadable(program, f, have)
	if err != nil || !unreadable {
		return err
	}
	rebuilt, err := t.rebuild(f, ipRules{}, nil)
	if err != nil {
		return err
	}
	return changeNAT(program, func(have ipTable) ([]string, error) { return have.change(rebuilt, nil), nil })
}
