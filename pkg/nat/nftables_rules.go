package nat

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// nftGroup are rules of one chain that come and go together. label is their
// comment, by which they are found again.
type nftGroup struct {
	label string
	what  string // for people
	rules [][]expr.Any
}

// nftChain is a chain and the rules that it always has.
type nftChain struct {
	nftables.Chain
	group nftGroup
}

const (
	postrouting   = "postrouting"
	hostPorts     = "host_ports"
	loopbackGuard = "loopback_guard"
	mappedLabel   = "mapped ports"
)

func postroutingChain() nftChain {
	return nftChain{Chain: nftables.Chain{
		Name: postrouting, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}}
}

// portChains are what leads mapped ports to containers. The guard comes before
// connection tracking, where loopback addresses are still what was on the wire:
// no packet with one may come in from outside (RFC 1122, 3.2.1.3 (g)).
func portChains() []nftChain {
	local := join(fibLocal(), jump(hostPorts))
	loopback6 := join(family6().isFamily(), family6().daddr(1), equal(1, netip.IPv6Loopback().AsSlice()), verdict(expr.VerdictReturn))
	var lookups, guards [][]expr.Any
	for _, f := range families() {
		lookups = append(lookups, f.lookupAddressPort(), f.lookupHostPort())
	}
	for _, address := range [][]expr.Any{family4().saddr(), family4().daddr(1)} {
		guards = append(guards, join(
			family4().isFamily(), address, within(family4().loopback, expr.CmpOpEq),
			meta(expr.MetaKeyIIFNAME, 1), inSet(loopbackBridges), verdict(expr.VerdictDrop)))
	}
	nat := func(name string, hook *nftables.ChainHook) nftables.Chain {
		return nftables.Chain{Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest}
	}
	guard := nftables.Chain{
		Name: loopbackGuard, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
	return []nftChain{
		{nftables.Chain{Name: hostPorts}, nftGroup{what: "mapped ports", rules: lookups}},
		{nat("prerouting", nftables.ChainHookPrerouting), nftGroup{what: "mapped ports", rules: [][]expr.Any{local}}},
		{nat("output", nftables.ChainHookOutput), nftGroup{what: "mapped ports", rules: [][]expr.Any{loopback6, local}}},
		{guard, nftGroup{what: "loopback addresses from outside", rules: guards}},
	}
}

// groups are the rules of chain postrouting.
func (r Rules) groups() []nftGroup {
	var groups []nftGroup
	for _, n := range r.Networks {
		groups = append(groups, nftGroup{cni.NetworkLabel(n.Network), "masquerade of network " + n.Network, n.nftRules()})
	}
	for _, subnet := range r.Hairpins {
		groups = append(groups, nftGroup{"hairpin " + subnet.String(), "mapped ports within " + subnet.String(), [][]expr.Any{hairpinRule(subnet)}})
	}
	if len(r.Forwards) > 0 {
		groups = append(groups, mappedGroup())
	}
	return groups
}

// nftRules are the network's masquerade, a rule for each subnet:
//
//	ip saddr SUBNET ip daddr != SUBNET … ip daddr != 224.0.0.0/4 masquerade
//
// Destinations are compared one after the other: that many there are not, and a
// rule without anonymous sets can be read back and compared as a whole.
func (n NetworkRule) nftRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, f := range families() {
		for _, subnet := range f.only(n.Prefixes) {
			rule := join(f.isFamily(), f.saddr(), within(subnet, expr.CmpOpEq))
			for _, kept := range n.keeps(f) {
				rule = join(rule, f.daddr(1), within(kept, expr.CmpOpNeq))
			}
			rules = append(rules, join(rule, n.newSource(f)))
		}
	}
	return rules
}

// newSource is the end of a masquerade rule.
func (m Masquerade) newSource(f family) []expr.Any {
	fixed := m.snat(f)
	if !fixed.IsValid() {
		return []expr.Any{&expr.Masq{FullyRandom: m.RandomFully}}
	}
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: fixed.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: f.nfproto(), RegAddrMin: 1, RegAddrMax: 1, FullyRandom: m.RandomFully},
	}
}

// hairpinRule is "from the subnet, to a mapped port in it, by way of the host".
func hairpinRule(subnet netip.Prefix) []expr.Any {
	f := familyOf(subnet.Addr())
	return join(f.isFamily(), f.saddr(), within(subnet, expr.CmpOpEq), f.daddr(1), within(subnet, expr.CmpOpEq),
		f.mappedTo(hairpinTargets), []expr.Any{&expr.Masq{}})
}

// mappedGroup is what every host with mapped ports has in chain postrouting:
// masquerade of what comes from 127.0.0.1, and of all that is to be.
func mappedGroup() nftGroup {
	f := family4()
	rules := [][]expr.Any{join(f.isFamily(), f.saddr(), within(f.loopback, expr.CmpOpEq), f.mappedTo(hairpinTargets), []expr.Any{&expr.Masq{}})}
	for _, f := range families() {
		rules = append(rules, join(f.isFamily(), f.mappedTo(masqueradeTargets), []expr.Any{&expr.Masq{}}))
	}
	return nftGroup{mappedLabel, mappedLabel, rules}
}

// mappedTo is "ct status dnat ip daddr . meta l4proto . th dport @set".
func (f family) mappedTo(set string) []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	return join([]expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}, f.daddr(1), meta(expr.MetaKeyL4PROTO, word(f.words())), dport(word(f.words()+1)), inSet(f.name(set)))
}

// lookupAddressPort is "dnat ip to meta l4proto . ip daddr . th dport map @address_ports4".
func (f family) lookupAddressPort() []expr.Any {
	return join(f.isFamily(), meta(expr.MetaKeyL4PROTO, 1), f.daddr(word(1)), dport(word(1+f.words())), f.translate(addressPorts))
}

// lookupHostPort is "dnat ip to meta l4proto . th dport map @host_ports4".
func (f family) lookupHostPort() []expr.Any {
	return join(f.isFamily(), meta(expr.MetaKeyL4PROTO, 1), dport(word(1)), f.translate(hostPorts))
}

func (f family) translate(portMap string) []expr.Any {
	port := word(f.words())
	return []expr.Any{
		&expr.Lookup{SourceRegister: 1, SetName: f.name(portMap), DestRegister: 1, IsDestRegSet: true},
		// as the kernel tells it: the end of a range of one is its beginning
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: f.nfproto(), RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: port, RegProtoMax: port, Specified: true},
	}
}

// word is the register that is the nth word of the scratch space. Each word has
// a number of its own from 8 on (NFT_REG32_00, linux/netfilter/nf_tables.h), and
// the kernel tells every fourth by that of the 16 bytes that it begins
// (nft_dump_register, net/netfilter/nf_tables_api.c).
func word(n uint32) uint32 {
	if n%4 == 0 {
		return 1 + n/4
	}
	return 8 + n
}

// words is how many words an address takes.
func (f family) words() uint32 {
	if f.is4 {
		return 1
	}
	return 4
}

func (f family) nfproto() uint32 {
	if f.is4 {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

func (f family) isFamily() []expr.Any {
	return join(meta(expr.MetaKeyNFPROTO, 1), equal(1, []byte{byte(f.nfproto())}))
}

// Offsets of addresses in the headers: RFC 791, 3.1, and RFC 8200, 3.
func (f family) saddr() []expr.Any {
	if f.is4 {
		return payload(expr.PayloadBaseNetworkHeader, 12, 4, 1)
	}
	return payload(expr.PayloadBaseNetworkHeader, 8, 16, 1)
}

func (f family) daddr(register uint32) []expr.Any {
	if f.is4 {
		return payload(expr.PayloadBaseNetworkHeader, 16, 4, register)
	}
	return payload(expr.PayloadBaseNetworkHeader, 24, 16, register)
}

// dport is where TCP, UDP and SCTP all have the destination port.
func dport(register uint32) []expr.Any {
	return payload(expr.PayloadBaseTransportHeader, 2, 2, register)
}

func payload(base expr.PayloadBase, offset, length, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}}
}

func meta(key expr.MetaKey, register uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register}}
}

func equal(register uint32, data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}}
}

// within is "== prefix" or "!= prefix" of what is in register 1.
func within(prefix netip.Prefix, op expr.CmpOp) []expr.Any {
	address := prefix.Addr().AsSlice()
	compare := &expr.Cmp{Op: op, Register: 1, Data: address}
	if prefix.IsSingleIP() {
		return []expr.Any{compare}
	}
	return []expr.Any{&expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: uint32(len(address)),
		Mask: mask(prefix.Bits(), len(address)), Xor: make([]byte, len(address)),
	}, compare}
}

func mask(bits, length int) []byte {
	m := make([]byte, length)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// fibLocal is "fib daddr type local": only what is for this host is mapped.
func fibLocal() []expr.Any {
	return join([]expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}},
		equal(1, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)))
}

func inSet(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set}}
}

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

func commentOf(r *nftables.Rule) string {
	comment, _ := userdata.GetString(r.UserData, userdata.TypeComment) // none is ""
	return comment
}

// labelled are the rules of a chain with that comment.
func labelled(chain []*nftables.Rule, label string) []*nftables.Rule {
	var found []*nftables.Rule
	for _, rule := range chain {
		if commentOf(rule) == label {
			found = append(found, rule)
		}
	}
	return found
}

// sameAs says whether the chain has exactly these rules under their label.
func (g nftGroup) sameAs(chain []*nftables.Rule) bool {
	have := labelled(chain, g.label)
	if len(have) != len(g.rules) {
		return false
	}
	for i := range have {
		if !bytes.Equal(marshal(have[i].Exprs), marshal(g.rules[i])) {
			return false
		}
	}
	return true
}

// marshal makes expressions comparable.
func marshal(exprs []expr.Any) []byte {
	var all []byte
	for _, e := range exprs {
		if lookup, ok := e.(*expr.Lookup); ok {
			same := *lookup
			same.SetID = 0 // of the transaction
			e = &same
		}
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			data = []byte(strings.ToUpper(err.Error())) // equal to nothing that can be marshalled
		}
		all = append(all, data...)
	}
	return all
}
