package nat

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// Names of maps and sets; those of a family end in its number.
const (
	hostPorts       = "host_ports"       // ports mapped on all addresses of the host
	addressPorts    = "address_ports"    // ports mapped on one of them
	hairpinPorts    = "hairpin_ports"    // ports that neighbours, who come by a bridge, need the host's address for
	loopbackPorts   = "loopback_ports"   // ports that 127.0.0.1 needs it for
	masqueradePorts = "masquerade_ports" // ports that everybody gets it for
)

// Names of chains, and the comments of rules that belong to nobody.
const (
	prerouting     = "prerouting"
	output         = "output"
	postrouting    = "postrouting"
	loopbackFilter = "loopback"
	mappedComment  = "mapped ports"
	filterComment  = "loopback addresses from outside"
)

// masqueradeMark is the bit of a packet's mark that asks for masquerade; it is the
// reference plugin's (plugins/meta/portmap), so that rules of either that are there
// at the same time mean the same.
const masqueradeMark = 1 << defaultMarkBit

// layout names the chains and sets below. Whoever changes any of them changes it, so
// that tables of earlier builds are brought up to date (TestLayout holds it to that).
const layout = "nat 2"

// natTable is what NAT wants in table "inet trestle": what every host has, and the
// masquerade of the network. Other networks' rules stay beside it.
//
//	chain prerouting  { loopback addresses return; fib daddr type local jump host_ports }
//	chain output      { ::1 returns;               fib daddr type local jump host_ports }
//	chain host_ports  { mark what needs the host's address; dnat by address_ports, by host_ports }
//	chain postrouting { marked and translated: masquerade; network by network: masquerade }
//	chain loopback    { at input: 127.0.0.0/8 from outside, unless translated: drop }
func natTable(networks ...NetworkRule) nft.Table {
	t := nft.Table{
		Family: nftables.TableFamilyINet, Name: "trestle", Sets: natSets(), Key: layout,
		Former: []string{"loopback_guard", "loopback_bridges", "hairpin_targets4", "hairpin_targets6", "masquerade_targets4", "masquerade_targets6"},
		Chains: []nft.Chain{
			{Name: hostPorts, Rules: lookupRules()},
			{Name: prerouting, Hook: natHook(nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), Rules: append(
				loopbackRules(expr.VerdictReturn), rule(mappedComment, fibLocal(), jump(hostPorts)))},
			{Name: output, Hook: natHook(nftables.ChainHookOutput, nftables.ChainPriorityNATDest), Rules: []nft.Rule{
				rule(mappedComment, family6().isFamily(), family6().daddr(1), equal(1, netip.IPv6Loopback().AsSlice()), verdict(expr.VerdictReturn)),
				rule(mappedComment, fibLocal(), jump(hostPorts)),
			}},
			{Name: postrouting, AnyOrder: true, Hook: natHook(nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource), Rules: []nft.Rule{
				rule(mappedComment, isMarked(), isTranslated(expr.CmpOpNeq), []expr.Any{&expr.Masq{}}),
			}},
			{Name: loopbackFilter, Hook: &nft.Hook{
				Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
			}, Rules: loopbackRules(expr.VerdictDrop, isTranslated(expr.CmpOpEq)...)},
		},
	}
	for _, n := range networks {
		t.Key += fmt.Sprintf("; %s%+v", cni.NetworkLabel(n.Network), n.Masquerade)
		chain := &t.Chains[3]
		chain.Rules = append(chain.Rules, n.nftRules()...)
		chain.Owners = append(chain.Owners, cni.NetworkLabel(n.Network))
	}
	return t
}

func natHook(hook *nftables.ChainHook, priority *nftables.ChainPriority) *nft.Hook {
	return &nft.Hook{Type: nftables.ChainTypeNAT, Hook: hook, Priority: priority}
}

func rule(comment string, parts ...[]expr.Any) nft.Rule {
	return nft.Rule{Comment: comment, Exprs: nft.Join(parts...)}
}

func natSets() []nft.Set {
	sets := []nft.Set{
		{Name: loopbackPorts, Key: []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}},
	}
	for _, f := range families() {
		proto, port, address := nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIP6Addr
		if f.is4 {
			address = nftables.TypeIPAddr
		}
		target := []nftables.SetDatatype{address, port}
		sets = append(sets,
			nft.Set{Name: f.name(hostPorts), Key: []nftables.SetDatatype{proto, port}, Data: target},
			nft.Set{Name: f.name(addressPorts), Key: []nftables.SetDatatype{proto, address, port}, Data: target},
			nft.Set{Name: f.name(hairpinPorts), Key: []nftables.SetDatatype{nftables.TypeIFName, proto, port}},
			nft.Set{Name: f.name(masqueradePorts), Key: []nftables.SetDatatype{proto, port}},
		)
	}
	return sets
}

func (f family) name(set string) string { return set + f.digit() }

// loopbackRules are about what comes from outside with an address that only lo may
// have (RFC 1122, 3.2.1.3 (g)): it is never mapped, and never reaches the host's own
// services, whichever interface routes such addresses. Neither rule is on the way of
// packets that are forwarded.
func loopbackRules(kind expr.VerdictKind, unless ...expr.Any) []nft.Rule {
	f := family4()
	var rules []nft.Rule
	for _, address := range [][]expr.Any{f.saddr(), f.daddr(1)} {
		rules = append(rules, rule(filterComment,
			f.isFamily(), address, within(f.loopback, expr.CmpOpEq),
			meta(expr.MetaKeyIIFNAME, 1), notEqual(1, ifname("lo")), unless, verdict(kind)))
	}
	return rules
}

// lookupRules are chain host_ports. Who comes by the container's own bridge, or from
// 127.0.0.1, could not be answered at its own address: its packet is marked for
// postrouting before it is sent on. Only the first packet of a connection is here.
func lookupRules() []nft.Rule {
	var rules []nft.Rule
	for _, f := range families() {
		proto := func(word uint32) []expr.Any { return meta(expr.MetaKeyL4PROTO, word) }
		rules = append(rules, rule(mappedComment, f.isFamily(), meta(expr.MetaKeyIIFNAME, 1), proto(word(4)), dport(word(5)), inSet(f.name(hairpinPorts)), setMark()))
		if f.is4 {
			rules = append(rules, rule(mappedComment, f.isFamily(), f.saddr(), within(f.loopback, expr.CmpOpEq), proto(1), dport(word(1)), inSet(loopbackPorts), setMark()))
		}
		rules = append(rules,
			rule(mappedComment, f.isFamily(), proto(1), dport(word(1)), inSet(f.name(masqueradePorts)), setMark()),
			rule(mappedComment, f.lookupAddressPort()),
			rule(mappedComment, f.lookupHostPort()))
	}
	return rules
}

// setMark is "meta mark set meta mark or 0x2000".
func setMark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeMark)), Xor: binaryutil.NativeEndian.PutUint32(masqueradeMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

// isMarked is "meta mark and 0x2000 == 0x2000".
func isMarked() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		bits(masqueradeMark),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(masqueradeMark)},
	}
}

// isTranslated is "ct status dnat", or its opposite with CmpOpEq.
func isTranslated(op expr.CmpOp) []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		bits(dnat),
		&expr.Cmp{Op: op, Register: 1, Data: make([]byte, 4)},
	}
}

func bits(mask uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)}
}

func ifname(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

// nftRules are the network's masquerade, a rule for each subnet:
//
//	ip saddr SUBNET ip daddr != SUBNET … ip daddr != 224.0.0.0/4 masquerade
//
// Destinations are compared one after the other: that many there are not, and a rule
// without anonymous sets can be read back and compared as a whole.
func (n NetworkRule) nftRules() []nft.Rule {
	var rules []nft.Rule
	for _, f := range families() {
		for _, subnet := range f.only(n.Prefixes) {
			exprs := nft.Join(f.isFamily(), f.saddr(), within(subnet, expr.CmpOpEq))
			for _, kept := range n.keeps(f) {
				exprs = nft.Join(exprs, f.daddr(1), within(kept, expr.CmpOpNeq))
			}
			rules = append(rules, rule(cni.NetworkLabel(n.Network), exprs, n.newSource(f)))
		}
	}
	return rules
}

// elements are what the port mappings have in maps and sets, each once.
func (p OwnedPorts) elements() []nft.Element {
	var elements []nft.Element
	add := func(e nft.Element) {
		e.Family, e.Table, e.Owner = nftables.TableFamilyINet, "trestle", p.Owner.String()
		for _, had := range elements {
			if had.Set == e.Set && string(had.Key) == string(e.Key) {
				return
			}
		}
		elements = append(elements, e)
	}
	for _, m := range p.Mappings {
		f := familyOf(m.Container.Addr())
		proto, host, to := []byte{m.Protocol.number()}, m.Host, m.Container
		e := nft.Element{Set: f.name(hostPorts), Key: concat(proto, port(host)), Value: concat(to.Addr().AsSlice(), port(to)), What: "mapping " + m.String()}
		if !m.anyHost() {
			e.Set, e.Key = f.name(addressPorts), concat(proto, host.Addr().AsSlice(), port(host))
		}
		add(e)
		marked := nft.Element{Key: concat(proto, port(host)), What: "masquerade for mapping " + m.String()}
		if p.SNAT && p.Bridge != "" {
			hairpin := marked
			hairpin.Set, hairpin.Key = f.name(hairpinPorts), concat(ifname(p.Bridge), proto, port(host))
			add(hairpin)
		}
		if p.SNAT && p.Bridge != "" && m.answersLoopback() {
			marked.Set = loopbackPorts
			add(marked)
		}
		if p.SNAT && p.MasqueradeAll {
			marked.Set = f.name(masqueradePorts)
			add(marked)
		}
	}
	return elements
}

func port(a netip.AddrPort) []byte { return binaryutil.BigEndian.PutUint16(a.Port()) }

// concat joins parts of a key as nftables does: each fills whole words.
func concat(parts ...[]byte) []byte {
	var key []byte
	for _, part := range parts {
		key = append(key, part...)
		key = append(key, make([]byte, -len(part)&3)...)
	}
	return key
}

// mappingOf reads a mapping back from its element; ok is false for elements that only
// go with one.
func mappingOf(e nft.Element) (m Mapping, ok bool) {
	for _, f := range families() {
		size := int(f.words()) * 4
		host := netip.IPv6Unspecified()
		if f.is4 {
			host = netip.IPv4Unspecified()
		}
		key := e.Key
		switch e.Set {
		case f.name(addressPorts):
			if len(key) != 8+size {
				return m, false
			}
			host, _ = netip.AddrFromSlice(key[4 : 4+size]) // of the right length
			key = append(key[:4:4], key[4+size:]...)
		case f.name(hostPorts):
		default:
			continue
		}
		if len(key) != 8 || len(e.Value) != size+4 {
			return m, false
		}
		to, _ := netip.AddrFromSlice(e.Value[:size]) // likewise
		return Mapping{
			Protocol:  protocolOf(key[0]),
			Host:      netip.AddrPortFrom(host, binaryutil.BigEndian.Uint16(key[4:6])),
			Container: netip.AddrPortFrom(to, binaryutil.BigEndian.Uint16(e.Value[size:size+2])),
		}, true
	}
	return m, false
}
