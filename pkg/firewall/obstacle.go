package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// What one chain accepts, another may still drop. So rules that let a container
// through are of use only in a chain that would drop its packets, and there is
// but one that others share: FORWARD of iptables, which Docker gives the policy
// DROP. Where it is harmless, no program of iptables is run.

// ipFamily is what differs between IPv4 and IPv6.
type ipFamily struct {
	ipv4     bool
	nft      nft.TableFamily
	program  string
	tablesIn string // the names of the legacy variant's tables
}

func families() []ipFamily {
	return []ipFamily{
		{true, nft.TableFamilyIPv4, "iptables", "/proc/net/ip_tables_names"},
		{false, nft.TableFamilyIPv6, "ip6tables", "/proc/net/ip6_tables_names"},
	}
}

// familiesOf are those of the addresses.
func familiesOf(addresses []netip.Addr) []ipFamily {
	var found []ipFamily
	for _, f := range families() {
		if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == f.ipv4 }) {
			found = append(found, f)
		}
	}
	return found
}

// variant is the program for one variant of iptables, or the only one that the
// host has.
func (f ipFamily) variant(name string) string {
	if _, err := exec.LookPath(f.program + "-" + name); err == nil {
		return f.program + "-" + name
	}
	return f.program
}

// findForwards are the tables in whose FORWARD chain the addresses must be let
// through: those that would drop them, or have rules of the admin's; all that
// there are, and at least one, if always.
func (n *nftables) findForwards(addresses []netip.Addr, admin string, always bool) ([]forward, error) {
	var all []forward
	for _, f := range familiesOf(addresses) {
		inNFT, err := n.obstructs(f, admin)
		if err != nil {
			return nil, err
		}
		inLegacy, hasLegacy, err := f.legacyObstructs(admin)
		if err != nil {
			return nil, err
		}
		if inLegacy || always && hasLegacy {
			all = append(all, forward{f.variant("legacy"), f.ipv4})
		}
		if inNFT {
			all = append(all, forward{f.variant("nft"), f.ipv4})
		} else if always && !hasLegacy {
			all = append(all, forward{f.program, f.ipv4})
		}
	}
	return all, nil
}

// foreignForwards are the tables that may have a chain of the reference plugin's.
func (n *nftables) foreignForwards(addresses []netip.Addr) ([]forward, error) {
	var all []forward
	for _, f := range familiesOf(addresses) {
		inNFT, inLegacy, err := n.whereOurs(f)
		if err != nil {
			return nil, err
		}
		if inNFT {
			all = append(all, forward{f.variant("nft"), f.ipv4})
		}
		if inLegacy {
			all = append(all, forward{f.variant("legacy"), f.ipv4})
		}
	}
	return all, nil
}

// whereOurs says whether there is a chain of ours in iptables' nft variant, and
// whether there may be one in the legacy variant.
func (n *nftables) whereOurs(f ipFamily) (inNFT, inLegacy bool, err error) {
	if _, inNFT, err = n.chainPolicy(f.nft, ourChain); err != nil {
		return false, false, err
	}
	inLegacy, err = f.hasLegacyTable()
	return inNFT, inLegacy, err
}

// hasOurChain says whether there may be a chain of ours for the program.
func (n *nftables) hasOurChain(program string) (bool, error) {
	for _, f := range families() {
		if strings.HasPrefix(program, f.program) {
			inNFT, inLegacy, err := n.whereOurs(f)
			return inNFT || inLegacy, err
		}
	}
	return false, nil
}

// obstructs asks the kernel for the FORWARD chain of iptables' nft variant.
func (n *nftables) obstructs(f ipFamily, admin string) (bool, error) {
	policy, there, err := n.chainPolicy(f.nft, forwardChain)
	if err != nil || !there || policy == nft.ChainPolicyDrop {
		return there, err
	}
	admins, err := n.rulesOf(f, admin)
	if err != nil || len(admins) > 0 {
		return true, err
	}
	rules, err := n.rulesOf(f, forwardChain)
	return slices.ContainsFunc(rules, drops), err
}

// rulesOf are those of a chain of table filter; none where there is no such chain.
func (n *nftables) rulesOf(f ipFamily, chain string) ([]*nft.Rule, error) {
	rules, err := n.conn.GetRules(&nft.Table{Name: filterTable, Family: f.nft}, &nft.Chain{Name: chain})
	if err != nil {
		return nil, fmt.Errorf("list chain %s of nftables table %s: %w", chain, filterTable, err)
	}
	return rules, nil
}

// drops says whether a rule itself drops or rejects packets.
func drops(rule *nft.Rule) bool {
	return slices.ContainsFunc(rule.Exprs, func(e expr.Any) bool {
		switch e := e.(type) {
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		case *expr.Target:
			return e.Name == "REJECT"
		case *expr.Reject:
			return true
		}
		return false
	})
}

// chainPolicy asks for one chain of table filter.
func (n *nftables) chainPolicy(family nft.TableFamily, chain string) (policy nft.ChainPolicy, there bool, err error) {
	answers, there, err := n.ask(unix.NFT_MSG_GETCHAIN, family, func(attributes *netlink.AttributeEncoder) {
		attributes.String(unix.NFTA_CHAIN_TABLE, filterTable)
		attributes.String(unix.NFTA_CHAIN_NAME, chain)
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return 0, false, nil // a kernel without nf_tables has no such chain
	}
	if err != nil {
		return 0, false, fmt.Errorf("look for chain %s of nftables table %s: %w", chain, filterTable, err)
	}
	policy = nft.ChainPolicyAccept
	for _, answer := range answers {
		if len(answer.Data) < 4 {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(answer.Data[4:])
		if err != nil {
			return 0, false, fmt.Errorf("decode chain %s: %w", chain, err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_CHAIN_POLICY {
				policy = nft.ChainPolicy(attributes.Uint32())
			}
		}
	}
	return policy, there, nil
}

// hasLegacyTable says whether iptables-legacy has a table filter.
func (f ipFamily) hasLegacyTable() (bool, error) {
	names, err := os.ReadFile(f.tablesIn)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("read which tables iptables-legacy has: %w", err)
	}
	return slices.Contains(strings.Fields(string(names)), filterTable), nil
}

// legacyObstructs runs a program, since only programs can read those tables.
func (f ipFamily) legacyObstructs(admin string) (obstructs, there bool, err error) {
	there, err = f.hasLegacyTable()
	if err != nil || !there {
		return false, false, err
	}
	t, err := save(f.variant("legacy"))
	return t.obstructs(admin), true, err
}
