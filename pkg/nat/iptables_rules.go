package nat

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Chains of ours. The last three are the beginnings of names; a name has at most
// 28 bytes (XT_EXTENSION_MAXNAMELEN, linux/netfilter/x_tables.h).
const (
	chainPrefix    = "TRESTLE-"
	portsChain     = chainPrefix + "PORTS"
	natPostrouting = chainPrefix + "POSTROUTING"
	ownerPrefix    = chainPrefix + "P-"
	networkPrefix  = chainPrefix + "N-"
	markPrefix     = chainPrefix + "MARK-"
)

func ipTableNames() []string { return []string{"nat"} }

// ipGroup is a chain, and the jumps to it from a chain that all share.
type ipGroup struct {
	parent, chain string
	jumps         [][]string // their matches
	rules         [][]string
	label         string
	what          string // for people
	stays         bool   // until all is gone, since others may need it
}

// comment is what the jumps carry: whose they are, and a digest by which an
// outdated group is told.
func (g ipGroup) comment() string {
	sum := sha256.Sum256([]byte(fmt.Sprint(g.jumps, g.rules)))
	return g.label + " " + hex.EncodeToString(sum[:4])
}

// ipJump leads from a chain of the kernel's to one of ours.
type ipJump struct {
	parent string
	match  []string
	chain  string
}

func baseChains(table string) []string {
	return []string{portsChain, natPostrouting}
}

// baseJumps: only what is for this host is mapped, ::1 never, and loopback addresses not
// from outside (see outsideRules).
func baseJumps(f family, table string) []ipJump {
	local := []string{"-m", "addrtype", "--dst-type", "LOCAL"}
	outside := []string{"!", "-s", f.loopback.String(), "!", "-d", f.loopback.String()}
	output := local
	if !f.is4 {
		output = slices.Concat([]string{"!", "-d", f.loopback.String()}, local)
	}
	return []ipJump{{"PREROUTING", slices.Concat(outside, local), portsChain}, {"OUTPUT", output, portsChain}, {"POSTROUTING", nil, natPostrouting}}
}

func chainName(prefix, of string) string {
	sum := sha256.Sum256([]byte(of))
	return prefix + hex.EncodeToString(sum[:8])
}

// ipGroups are the rules in one table of one family.
func (r Rules) ipGroups(f family, table string) []ipGroup {
	var groups []ipGroup
	for _, n := range r.Networks {
		if g := n.ipGroup(f); len(g.jumps) > 0 {
			groups = append(groups, g)
		}
	}
	for _, forward := range r.Ports {
		for _, g := range forward.ipGroups(f) {
			groups = appendGroup(groups, g)
		}
	}
	return groups
}

func appendGroup(groups []ipGroup, g ipGroup) []ipGroup {
	if slices.ContainsFunc(groups, func(had ipGroup) bool { return had.chain == g.chain }) {
		return groups
	}
	return append(groups, g)
}

func (n NetworkRule) ipGroup(f family) ipGroup {
	g := ipGroup{
		parent: natPostrouting, chain: chainName(networkPrefix, n.Network), label: cni.NetworkLabel(n.Network),
		what: "masquerade of network " + n.Network,
	}
	for _, subnet := range f.only(n.Prefixes) {
		g.jumps = append(g.jumps, []string{"-s", subnet.String()})
	}
	for _, kept := range n.keeps(f) {
		g.rules = append(g.rules, []string{"-d", kept.String(), "-j", "RETURN"})
	}
	source := []string{"-j", "MASQUERADE"}
	if fixed := n.snat(f); fixed.IsValid() {
		source = []string{"-j", "SNAT", "--to-source", fixed.String()}
	}
	if n.RandomFully {
		source = append(source, "--random-fully")
	}
	g.rules = append(g.rules, source)
	return g
}

// ipGroups are the owner's mappings, and the masquerade of what they mark.
func (f OwnedPorts) ipGroups(family family) []ipGroup {
	g := ipGroup{parent: portsChain, chain: chainName(ownerPrefix, f.Owner.Hash(32)), label: f.Owner.String(), what: "mapped ports of " + f.Owner.String()}
	for _, m := range f.exactFirst(family) {
		g.rules = append(g.rules, f.ipRules(family, m)...)
	}
	g.jumps = f.ipJumps(family)
	if len(g.rules) == 0 {
		return nil
	}
	if !f.SNAT || f.SetMarkChain != "" {
		return []ipGroup{g}
	}
	return []ipGroup{f.markGroup(), g}
}

// exactFirst are the family's mappings, those on all addresses last: the first
// rule that fits counts.
func (f OwnedPorts) exactFirst(family family) []Mapping {
	var exact, general []Mapping
	for _, m := range f.Mappings {
		switch {
		case m.Host.Addr().Is4() != family.is4:
		case m.anyHost():
			general = append(general, m)
		default:
			exact = append(exact, m)
		}
	}
	return append(exact, general...)
}

// perJump is how many ports one rule matches (XT_MULTI_PORTS, linux/netfilter/xt_multiport.h).
const perJump = 15

// ipJumps lead packets to the owner's ports to its chain, if the configured
// conditions are met.
func (f OwnedPorts) ipJumps(family family) [][]string {
	conditions := f.Conditions6
	if family.is4 {
		conditions = f.Conditions4
	}
	var jumps [][]string
	for _, protocol := range []Protocol{TCP, UDP, SCTP} {
		var ports []string
		for _, m := range f.exactFirst(family) {
			if port := strconv.Itoa(int(m.Host.Port())); m.Protocol == protocol && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
		for some := range slices.Chunk(ports, perJump) {
			jumps = append(jumps, slices.Concat([]string{"-p", string(protocol), "-m", "multiport", "--dports", strings.Join(some, ",")}, conditions))
		}
	}
	return jumps
}

// ipRules mark what is to be masqueraded, and then send it on.
func (f OwnedPorts) ipRules(family family, m Mapping) [][]string {
	match := []string{"-p", string(m.Protocol), "-m", string(m.Protocol), "--dport", strconv.Itoa(int(m.Host.Port()))}
	if !m.anyHost() {
		match = append(match, "-d", m.Host.Addr().String())
	}
	mark := []string{"-j", "MARK", "--set-xmark", f.markMask()}
	if f.SetMarkChain != "" {
		mark = []string{"-j", f.SetMarkChain}
	}
	var rules [][]string
	for _, source := range f.masqueraded(family) {
		rules = append(rules, slices.Concat([]string{"-s", source.String()}, match, mark))
	}
	return append(rules, slices.Concat(match, []string{"-j", "DNAT", "--to-destination", m.Container.String()}))
}

// masqueraded are the sources that get the host's address.
func (f OwnedPorts) masqueraded(family family) []netip.Prefix {
	switch {
	case !f.SNAT:
		return nil
	case f.MasqueradeAll && family.is4:
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	case f.MasqueradeAll:
		return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	return family.only(f.hairpins())
}

func (f OwnedPorts) markMask() string { return fmt.Sprintf("%#x/%#[1]x", 1<<f.MarkBit) }

func (f OwnedPorts) markGroup() ipGroup {
	return ipGroup{
		parent: natPostrouting, chain: markPrefix + strconv.Itoa(f.MarkBit), label: mappedComment, what: "masquerade for mapped ports", stays: true,
		jumps: [][]string{{"-m", "mark", "--mark", f.markMask()}}, rules: [][]string{{"-j", "MASQUERADE"}},
	}
}
