package rules

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// Read lists the host's base chains, those of iptables and of nftables. With an error it returns
// what could be read.
func Read(conn *nft.Conn) (Host, error) {
	bases, err := readIPTables(conn)
	more, nftErr := readNFTables(conn, bases)
	return Host{append(bases, more...)}, errors.Join(err, nftErr)
}

// readNFTables lists nftables' base chains without those of iptables-nft, which are in read.
func readNFTables(conn *nft.Conn, read []Base) ([]Base, error) {
	if err := conn.Usable(); errors.Is(err, nft.ErrUnsupported) {
		return nil, nil
	}
	library, err := conn.Library()
	if err != nil {
		return nil, err
	}
	chains, err := library.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains of nftables: %w", err)
	}
	var bases []Base
	for _, chain := range chains {
		hook := hookOf(chain)
		if hook == "" {
			continue
		}
		base := Base{
			Table: familyText(chain.Table.Family) + " " + chain.Table.Name, Program: "nft", Chain: chain.Name, Hook: hook,
			Bridge: chain.Table.Family == nftables.TableFamilyBridge, NAT: chain.Type == nftables.ChainTypeNAT,
			Family: familyOf(chain.Table.Family), Ours: chain.Table.Name == "trestle",
			Drops: chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop,
		}
		if chain.Priority != nil {
			base.Priority = int(*chain.Priority)
		}
		known := func(b Base) bool {
			return b.Table == base.Table && b.Chain == base.Chain && b.Program != "iptables-legacy" && b.Program != "ip6tables-legacy"
		}
		if slices.ContainsFunc(read, known) {
			continue
		}
		reader := &tableReader{library: library, table: chain.Table, chains: map[string][]Rule{}, sets: map[string]*set{}}
		base.rules = reader.list
		bases = append(bases, base)
	}
	return bases, nil
}

func familyText(f nftables.TableFamily) string {
	names := map[nftables.TableFamily]string{
		nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
		nftables.TableFamilyBridge: "bridge", nftables.TableFamilyNetdev: "netdev", nftables.TableFamilyARP: "arp",
	}
	return names[f]
}

func familyOf(f nftables.TableFamily) Family {
	switch f {
	case nftables.TableFamilyIPv4:
		return IPv4
	case nftables.TableFamilyIPv6:
		return IPv6
	default:
		return Both
	}
}

// hookOf is the hook of a base chain for IP packets or bridged frames, and "" for any other
// chain. The numbers are the same for both (linux/netfilter.h, linux/netfilter_bridge.h).
func hookOf(chain *nftables.Chain) string {
	names := map[nftables.ChainHook]string{
		*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookInput: "input", *nftables.ChainHookForward: "forward",
		*nftables.ChainHookOutput: "output", *nftables.ChainHookPostrouting: "postrouting",
	}
	other := chain.Table.Family == nftables.TableFamilyNetdev || chain.Table.Family == nftables.TableFamilyARP
	if chain.Hooknum == nil || other {
		return ""
	}
	return names[*chain.Hooknum]
}

// tableReader reads chains and sets of one table, each once.
type tableReader struct {
	library *nftables.Conn
	table   *nftables.Table
	chains  map[string][]Rule
	sets    map[string]*set
}

func (t *tableReader) list(chain string) ([]Rule, error) {
	if rules, ok := t.chains[chain]; ok {
		return rules, nil
	}
	found, err := t.library.GetRules(t.table, &nftables.Chain{Name: chain, Table: t.table})
	if err != nil {
		return nil, fmt.Errorf("list chain %s of nftables table %s: %w", chain, t.table.Name, err)
	}
	var rules []Rule
	for _, r := range found {
		rules = append(rules, t.parse(r))
	}
	t.chains[chain] = rules
	return rules, nil
}

// set is a set or map with its elements.
type set struct {
	*nftables.Set
	elements []nftables.SetElement
}

// setOf is the set with that name, or nil if it is missing or cannot be read.
func (t *tableReader) setOf(name string) *set {
	if s, ok := t.sets[name]; ok {
		return s
	}
	var read *set
	if found, err := t.library.GetSetByName(t.table, name); err == nil {
		if elements, err := t.library.GetSetElements(found); err == nil {
			read = &set{found, elements}
		}
	}
	t.sets[name] = read
	return read
}
