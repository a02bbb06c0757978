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

// natTable is the table of iptables that has all of our chains.
const natTable = "nat"

// Names and prefixes of chains; a name has at most 28 bytes (XT_EXTENSION_MAXNAMELEN,
// linux/netfilter/x_tables.h). Those for port mappings are the reference plugin's, and so are
// the rules that both need: scripts and runtimes read them by name (nerdctl, to learn which
// ports are taken), and DEL of either plugin finds what the other made. The masquerade of a
// network has names of our own, since the reference has a chain for each container instead.
const (
	dnatChain      = "CNI-HOSTPORT-DNAT"
	masqChain      = "CNI-HOSTPORT-MASQ"
	setMarkChain   = "CNI-HOSTPORT-SETMARK" // only the reference makes it
	ownerPrefix    = "CNI-DN-"
	natPostrouting = "TRESTLE-POSTROUTING"
	networkPrefix  = "TRESTLE-N-"
)

// ipRules is the wanted state of table nat of one family.
type ipRules struct {
	jumps  []ipJump
	marks  []string // "bits/mask" of packets that chain CNI-HOSTPORT-MASQ masquerades
	groups []ipGroup
	// recorded: see change.
	recorded bool
}

func (r ipRules) empty() bool { return len(r.groups) == 0 }

// ipGroup is the chain of an attachment or a network, and the jumps to it from a shared chain.
type ipGroup struct {
	parent, chain string
	jumps         [][]string // the matches of each jump
	rules         [][]string
	label         string
	what          string // for people
	ports         *ownedPorts
}

// comment is the comment of the jumps: the owner's label, and a digest that shows whether the
// group is outdated.
func (g ipGroup) comment() string {
	sum := sha256.Sum256([]byte(fmt.Sprint(g.jumps, g.rules)))
	return g.label + " " + hex.EncodeToString(sum[:4])
}

// ipJump is a jump from a built-in chain to a shared one.
type ipJump struct {
	parent string
	match  []string
	chain  string
	first  bool // insert it before other programs' rules
}

// portJumps sends packets to local addresses to the port mappings.
func portJumps() []ipJump {
	local := []string{"-m", "addrtype", "--dst-type", "LOCAL"}
	return []ipJump{{parent: "PREROUTING", match: local, chain: dnatChain}, {parent: "OUTPUT", match: local, chain: dnatChain}}
}

// markJump comes before the masquerade of networks, which may exempt the packet.
func markJump() ipJump {
	return ipJump{
		parent: "POSTROUTING",
		match:  []string{"-m", "comment", "--comment", "CNI portfwd requiring masquerade"},
		chain:  masqChain,
		first:  true,
	}
}

func networkJump() ipJump { return ipJump{parent: "POSTROUTING", chain: natPostrouting} }

func chainName(prefix, of string) string {
	sum := sha256.Sum256([]byte(of))
	return prefix + hex.EncodeToString(sum[:8])
}

// firstInterface is the name that runtimes give to a container's first interface.
const firstInterface = "eth0"

// ownerChain returns the name of the attachment's chain. For the first interface it is the
// reference plugin's, which has one chain for all interfaces of a container on a network;
// for others it is our own.
func ownerChain(o cni.Owner) string {
	of := o.Network + o.ContainerID
	if o.IfName != firstInterface {
		of += "/" + o.IfName // names of networks and containers have no slash
	}
	return ownerPrefix + sha512Hex(of, 21)
}

// ipRules returns the rules of one family.
func (r ruleset) ipRules(f family) ipRules {
	var all ipRules
	for _, n := range r.Networks {
		if g := n.ipGroup(f); len(g.jumps) > 0 {
			all.groups = append(all.groups, g)
		}
	}
	if len(all.groups) > 0 {
		all.jumps = append(all.jumps, networkJump())
	}
	for _, p := range r.Ports {
		g := p.ipGroup(f)
		if len(g.rules) == 0 {
			continue
		}
		if !slices.ContainsFunc(all.jumps, func(j ipJump) bool { return j.chain == dnatChain }) {
			all.jumps = append(all.jumps, portJumps()...)
		}
		all.groups = append(all.groups, g)
		if mark := p.markMask(); p.SNAT && p.SetMarkChain == "" && !slices.Contains(all.marks, mark) {
			all.marks = append(all.marks, mark)
		}
	}
	if len(all.marks) > 0 {
		all.jumps = append(all.jumps, markJump())
	}
	return all
}

func (n masqueradeRule) ipGroup(f family) ipGroup {
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

// ipGroup returns the owner's port mappings.
func (f ownedPorts) ipGroup(family family) ipGroup {
	g := ipGroup{
		parent: dnatChain,
		chain:  ownerChain(f.Owner),
		label:  f.Owner.String(),
		what:   "mapped ports of " + f.Owner.String(),
		ports:  &f,
	}
	for _, m := range f.exactFirst(family) {
		g.rules = append(g.rules, f.ipRules(family, m)...)
	}
	if len(g.rules) > 0 {
		g.rules = append(family.loopbackRules(), g.rules...)
	}
	g.jumps = f.ipJumps(family)
	return g
}

// loopbackRules exempt packets from outside with a loopback address, which only lo may have
// (RFC 1122, 3.2.1.3 (g)). They can get here, since the reference plugin sets
// route_localnet on bridges. Packets of this host to 127.0.0.1 already have another source
// (loopbackTable); ::1 is never mapped.
func (f family) loopbackRules() [][]string {
	rules := [][]string{{"-s", f.loopback.String(), "-j", "RETURN"}}
	if !f.is4 {
		return append(rules, []string{"-d", f.loopback.String(), "-j", "RETURN"})
	}
	return append(rules, []string{"-d", f.loopback.String(), "-m", "addrtype", "!", "--src-type", "LOCAL", "-j", "RETURN"})
}

// exactFirst returns the family's mappings, those on all addresses last: the first rule that
// matches applies.
func (f ownedPorts) exactFirst(family family) []Mapping {
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

// ipJumps returns the matches of the jumps to the owner's chain: its ports and the configured
// conditions. Up to perJump ports each have a jump of their own, since nerdctl up to 1.7
// reads only the first port of a rule.
func (f ownedPorts) ipJumps(family family) [][]string {
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
		size := 1
		if len(ports) > perJump {
			size = perJump
		}
		for some := range slices.Chunk(ports, size) {
			jumps = append(jumps, slices.Concat([]string{"-p", string(protocol), "-m", "multiport", "--dports", strings.Join(some, ",")}, conditions))
		}
	}
	return jumps
}

// ipRules returns the rules of one mapping: mark what is to be masqueraded, then DNAT.
func (f ownedPorts) ipRules(family family, m Mapping) [][]string {
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

// masqueraded returns the sources whose connections to mapped ports are masqueraded.
func (f ownedPorts) masqueraded(family family) []netip.Prefix {
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

func (f ownedPorts) markMask() string { return fmt.Sprintf("%#x/%#[1]x", 1<<f.MarkBit) }
