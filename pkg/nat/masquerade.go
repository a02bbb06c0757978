package nat

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// check returns an error with code 7 if a fixed address is not a source address of its
// family.
func (m Masquerade) check() error {
	for _, f := range families() {
		source := m.snat(f)
		if source.IsValid() && (source.Is4() != f.is4 || source.Zone() != "" || source.IsUnspecified() || source.IsMulticast()) {
			return cni.ConfigErrorf("masquerade.snatIP%s: %s is not a source address of that family; use one of the host's, like 192.0.2.1 or 2001:db8::1", f.digit(), source)
		}
	}
	return nil
}

// masqueradeTable is the masquerade of these networks in table inet trestle. Rules of other
// networks are left unchanged.
//
//	chain postrouting     { network by network: masquerade, or jump masquerade_… }
//	chain masquerade_…    { of a network with many destinations: each returns; masquerade }
func masqueradeTable(networks ...masqueradeRule) nft.Table {
	t := inetTable()
	t.Key = masqueradeLayout
	for _, n := range networks {
		t.Key += fmt.Sprintf("; %s%+v", cni.NetworkLabel(n.Network), n.asked)
	}
	whole := t
	t.Complete = func() (_ nft.Table, err error) {
		whole.Former, whole.Chains, err = masqueradeChains(networks)
		return whole, err
	}
	return t
}

// masqueradeChains returns the chains, with the subnets of all recorded attachments, and the
// names of former ones.
func masqueradeChains(networks []masqueradeRule) (former []string, chains []nft.Chain, err error) {
	chain := nft.Chain{Name: postrouting, AnyOrder: true, Hook: natHook(nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)}
	for _, n := range networks {
		if n.complete != nil {
			if n, err = n.complete(); err != nil {
				return nil, nil, err
			}
		}
		chain.Owners = append(chain.Owners, cni.NetworkLabel(n.Network))
		for _, f := range families() {
			if own := n.nftChain(f); n.hasMany(f) {
				chains = append(chains, own)
			} else {
				former = append(former, own.Name)
			}
			chain.Rules = append(chain.Rules, n.nftRules(f)...)
		}
	}
	return former, append(chains, chain), nil
}

// maxCompared is how many destinations one rule compares with at most. Each takes three
// expressions, some 120 bytes for IPv6, and a rule's expressions have to be smaller than
// 4096 bytes (nf_tables_newrule, net/netfilter/nf_tables_api.c: EFBIG).
const maxCompared = 25

// hasMany says whether the network needs a chain of its own, since its destinations do not
// fit into one rule.
func (n masqueradeRule) hasMany(f family) bool {
	return len(f.only(n.Prefixes)) > 0 && len(n.keeps(f)) > maxCompared
}

// nftRules returns the network's rules in chain postrouting, one for each subnet:
//
//	ip saddr SUBNET ip daddr != SUBNET … ip daddr != 224.0.0.0/4 masquerade
//	ip saddr SUBNET jump masquerade_…
//
// Destinations are compared one after the other rather than by an anonymous set, so that the
// rule alone tells what it does when it is read back.
func (n masqueradeRule) nftRules(f family) []nft.Rule {
	var then []expr.Any
	if n.hasMany(f) {
		then = jump(n.nftChain(f).Name)
	} else {
		for _, kept := range n.keeps(f) {
			then = append(then, nft.Join(f.daddr(1), within(kept, expr.CmpOpNeq))...)
		}
		then = append(then, n.newSource(f)...)
	}
	var rules []nft.Rule
	for _, subnet := range f.only(n.Prefixes) {
		rules = append(rules, rule(cni.NetworkLabel(n.Network), f.isFamily(), f.saddr(), within(subnet, expr.CmpOpEq), then))
	}
	return rules
}

// nftChain returns the network's own chain. It returns rather than accepts, so that rules of
// another network with the same subnet see the packet, too.
func (n masqueradeRule) nftChain(f family) nft.Chain {
	label := cni.NetworkLabel(n.Network)
	chain := nft.Chain{Name: chainName("masquerade_", n.Network) + "_" + f.digit()}
	for _, kept := range n.keeps(f) {
		chain.Rules = append(chain.Rules, rule(label, f.isFamily(), f.daddr(1), within(kept, expr.CmpOpEq), verdict(expr.VerdictReturn)))
	}
	chain.Rules = append(chain.Rules, rule(label, n.newSource(f)))
	return chain
}
