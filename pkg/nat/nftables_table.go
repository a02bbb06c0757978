package nat

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// Names of maps and sets; most are followed by the family's digit.
const (
	hostPorts         = "host_ports"         // ports mapped on all addresses of the host
	addressPorts      = "address_ports"      // ports mapped on one of them
	hairpinPorts      = "hairpin_ports"      // ports at which connections that come in by this bridge are masqueraded
	loopbackPorts     = "loopback_ports"     // ports mapped on all addresses: the address that replaces 127.0.0.1 as source
	loopbackAddresses = "loopback_addresses" // the same for ports mapped on one loopback address
	masqueradePorts   = "masquerade_ports"   // ports at which all connections are masqueraded
	// The same for ports mapped on one address.
	hairpinAddresses    = "hairpin_addresses"
	masqueradeAddresses = "masquerade_addresses"
)

// Names of chains, and comments of rules that serve all attachments.
const (
	prerouting        = "prerouting"
	output            = "output"
	postrouting       = "postrouting"
	mappedPostrouting = "mapped_postrouting"
	loopbackOutput    = "loopback_output"
	loopbackInput     = "loopback_input"
	mappedComment     = "mapped ports"
	outsideComment    = "loopback addresses from outside"
)

// masqueradeMark is the bit of the packet mark that says "masquerade". It is the reference
// plugin's default (plugins/meta/portmap): rules of both may exist at the same time.
const masqueradeMark = 1 << defaultMarkBit

// The layouts of the chains, sets and rules below. Whoever changes any of them raises the
// number, so that tables of earlier builds are brought up to date (TestLayout).
const (
	masqueradeLayout = "masquerade 3"
	portsLayout      = "ports 2"
	loopbackLayout   = "loopback 3"
)

func inetTable() nft.Table { return nft.Table{Family: nftables.TableFamilyINet, Name: "trestle"} }

// natTables returns all parts of the table. Masquerade comes first: rules of earlier releases
// in its chain refer to sets that portsTable deletes.
func natTables(networks ...masqueradeRule) []nft.Table {
	return []nft.Table{masqueradeTable(networks...), onDemand(portsLayout, portsTable), onDemand(loopbackLayout, loopbackTable)}
}

// onDemand is a table of this layout, which table makes when it is needed.
func onDemand(layout string, table func() nft.Table) nft.Table {
	t := inetTable()
	t.Key, t.Complete = layout, func() (nft.Table, error) { return table(), nil }
	return t
}

// portsTable is what a host with port mappings has in the table, besides their elements:
//
//	chain prerouting         { loopback addresses return; fib daddr type local jump host_ports }
//	chain output             { ::1 returns;               fib daddr type local jump host_ports }
//	chain host_ports         { mark what needs the host's address; dnat by address_ports, by host_ports }
//	chain mapped_postrouting { marked and translated: masquerade }
func portsTable() nft.Table {
	t := inetTable()
	t.Sets, t.Key = natSets(), portsLayout
	t.Former = []string{"loopback_guard", "loopback_bridges", "hairpin_targets4", "hairpin_targets6", "masquerade_targets4", "masquerade_targets6"}
	t.Chains = []nft.Chain{
		{Name: hostPorts, Rules: lookupRules()},
		{Name: prerouting, Hook: natHook(nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), Rules: append(
			outsideRules(), rule(mappedComment, fibLocal(), jump(hostPorts)))},
		{Name: output, Hook: natHook(nftables.ChainHookOutput, nftables.ChainPriorityNATDest), Rules: []nft.Rule{
			rule(mappedComment, family6().isFamily(), family6().daddr(1), equal(netip.IPv6Loopback().AsSlice()), verdict(expr.VerdictReturn)),
			rule(mappedComment, fibLocal(), jump(hostPorts)),
		}},
		// in a chain of its own, before that of the networks' masquerade, whose rules have no order
		{Name: mappedPostrouting, Hook: natHook(nftables.ChainHookPostrouting, nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource-1)), Rules: []nft.Rule{
			rule(mappedComment, isMarked(), isTranslated(expr.CmpOpNeq), []expr.Any{&expr.Masq{}}),
		}},
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
	var sets []nft.Set
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
			nft.Set{Name: f.name(hairpinAddresses), Key: []nftables.SetDatatype{nftables.TypeIFName, proto, address, port}},
			nft.Set{Name: f.name(masqueradePorts), Key: []nftables.SetDatatype{proto, port}},
			nft.Set{Name: f.name(masqueradeAddresses), Key: []nftables.SetDatatype{proto, address, port}},
		)
	}
	return sets
}

func (f family) name(set string) string { return set + f.digit() }

// outsideRules exempt packets from outside with a loopback address, which only lo may have
// (RFC 1122, 3.2.1.3 (g)). The kernel drops these packets, unless route_localnet is set, as
// kube-proxy does.
func outsideRules() []nft.Rule {
	f := family4()
	var rules []nft.Rule
	for _, address := range [][]expr.Any{f.saddr(), f.daddr(1)} {
		rules = append(rules, rule(outsideComment,
			f.isFamily(), address, within(f.loopback, expr.CmpOpEq), meta(expr.MetaKeyIIFNAME, 1), notEqual(nft.InterfaceKey("lo")), verdict(expr.VerdictReturn)))
	}
	return rules
}

// loopbackTable lets clients on the host reach mapped ports by 127.0.0.1. The kernel sends a
// packet with such a source only by lo, and by interfaces that have route_localnet; but with
// that, everybody behind them could reach services that listen on 127.0.0.1. So the source is
// replaced before all other chains, and 127.0.0.1 is put back as the answer's destination
// after them:
//
//	chain loopback_output { ip saddr 127.0.0.1, to a mapped port: ip saddr set the host's address on the container's network }
//	chain loopback_input  { ip saddr 127.0.0.0/8, translated, not from lo: ip daddr set 127.0.0.1
//	                        an ICMP error about a packet to 127.0.0.0/8, translated: so there, and as that packet's source }
//
// Forwarded packets pass neither chain. Both backends use it. IPv6 has no such chains: ::1
// cannot be mapped.
func loopbackTable() nft.Table {
	f, t := family4(), inetTable()
	t.Key = loopbackLayout
	proto, port, address := nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIPAddr
	t.Sets = []nft.Set{
		{Name: loopbackPorts, Key: []nftables.SetDatatype{proto, port}, Data: []nftables.SetDatatype{address}},
		{Name: loopbackAddresses, Key: []nftables.SetDatatype{proto, address, port}, Data: []nftables.SetDatatype{address}},
	}
	local := nft.Join(f.isFamily(), f.saddr(), equal(loopback4().AsSlice()), f.daddr(1), within(f.loopback, expr.CmpOpEq))
	failed := nft.Join(meta(expr.MetaKeyL4PROTO, 1), equal([]byte{unix.IPPROTO_ICMP}),
		payload(expr.PayloadBaseTransportHeader, failedDestination, 4, 1), within(f.loopback, expr.CmpOpEq), isRelated(), isTranslated(expr.CmpOpNeq))
	client := []expr.Any{&expr.Immediate{Register: 1, Data: loopback4().AsSlice()}}
	lookup := func(set string) []expr.Any {
		return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set, DestRegister: 1, IsDestRegSet: true}}
	}
	t.Chains = []nft.Chain{
		{Name: loopbackOutput, Hook: &nft.Hook{
			Type:     nftables.ChainTypeFilter,
			Hook:     nftables.ChainHookOutput,
			Priority: nftables.ChainPriorityRaw,
		}, Rules: []nft.Rule{
			rule(mappedComment, local, meta(expr.MetaKeyL4PROTO, 1), f.daddr(word(1)), dport(word(2)), lookup(loopbackAddresses), f.setAddress(12)),
			rule(mappedComment, local, meta(expr.MetaKeyL4PROTO, 1), dport(word(1)), lookup(loopbackPorts), f.setAddress(12)),
		}},
		// after NAT, which has given the answer the address that the client asked as source
		{Name: loopbackInput, Hook: &nft.Hook{
			Type:     nftables.ChainTypeFilter,
			Hook:     nftables.ChainHookInput,
			Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource + 1),
		}, Rules: []nft.Rule{
			rule(mappedComment, f.isFamily(), f.saddr(), within(f.loopback, expr.CmpOpEq), meta(expr.MetaKeyIIFNAME, 1), notEqual(nft.InterfaceKey("lo")),
				isTranslated(expr.CmpOpNeq), client, f.setAddress(16)),
			rule(mappedComment, failed, f.isFamily(), client, f.setAddress(16), client, setFailedSource()), // in nft's order
		}},
	}
	return t
}

func loopback4() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// setAddress writes register 1 to the IPv4 header at offset, and updates the checksums of the
// header and, by way of the pseudo-header, of TCP and UDP.
func (f family) setAddress(offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4,
		CsumType: expr.CsumTypeInet, CsumOffset: 10, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
	}}
}

// lookupRules returns the rules of chain host_ports. A client on the container's own bridge
// would be answered directly, past the host's NAT: so its packet is marked for masquerade in
// postrouting before DNAT. Only the first packet of a connection passes the chain.
func lookupRules() []nft.Rule {
	var rules []nft.Rule
	for _, f := range families() {
		proto := func(n uint32) []expr.Any { return meta(expr.MetaKeyL4PROTO, n) }
		byPort := func(n uint32) []expr.Any { return nft.Join(proto(word(n)), dport(word(n+1))) }
		byAddress := func(n uint32) []expr.Any {
			return nft.Join(proto(word(n)), f.daddr(word(n+1)), dport(word(n+1+f.words())))
		}
		marks := func(set string, key ...[]expr.Any) nft.Rule {
			return rule(mappedComment, f.isFamily(), nft.Join(key...), inSet(f.name(set)), setMark())
		}
		const nameWords = 4 // words of an interface name
		rules = append(rules,
			marks(hairpinAddresses, meta(expr.MetaKeyIIFNAME, 1), byAddress(nameWords)),
			marks(hairpinPorts, meta(expr.MetaKeyIIFNAME, 1), byPort(nameWords)),
			marks(masqueradeAddresses, byAddress(0)),
			marks(masqueradePorts, byPort(0)),
			rule(mappedComment, f.lookupAddressPort()),
			rule(mappedComment, f.lookupHostPort()))
	}
	return rules
}

// setMark is "meta mark set meta mark or 0x2000".
func setMark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1,
			DestRegister:   1,
			Len:            4,
			Mask:           binaryutil.NativeEndian.PutUint32(^uint32(masqueradeMark)),
			Xor:            binaryutil.NativeEndian.PutUint32(masqueradeMark),
		},
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

// isTranslated is "ct status dnat" with CmpOpNeq, and the opposite with CmpOpEq.
func isTranslated(op expr.CmpOp) []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		bits(dnat),
		&expr.Cmp{Op: op, Register: 1, Data: make([]byte, 4)},
	}
}

// isRelated is "ct state related".
func isRelated() []expr.Any {
	const related = 1 << 2 // NF_CT_STATE_BIT(IP_CT_RELATED), linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		bits(related),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func bits(mask uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)}
}

// Offsets in an ICMP error of fields of the packet that it is about (RFC 792; RFC 791, 3.1).
const (
	failedChecksum    = 8 + 10
	failedSource      = 8 + 12
	failedDestination = 8 + 16
)

// setFailedSource writes register 1 as the source of the packet that an ICMP error is about: its
// client looks for a socket by that. The checksum in that packet's header is updated, so that the
// sum of both is as before, and ICMP's own right. nft(8) cannot say so: if it loads what it has
// printed, the error has a wrong checksum, and the client waits for an answer.
func setFailedSource() []expr.Any {
	return []expr.Any{&expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: failedSource, Len: 4,
		CsumType: expr.CsumTypeInet, CsumOffset: failedChecksum,
	}}
}

// elements returns the elements of the port mappings in the nftables backend, each once.
func (p ownedPorts) elements() []nft.Element {
	elements := p.loopbackElements()
	for _, m := range p.Mappings {
		f := familyOf(m.Container.Addr())
		proto, host, to := []byte{m.Protocol.number()}, m.Host, m.Container
		e := nft.Element{
			Set:   f.name(hostPorts),
			Key:   concat(proto, port(host)),
			Value: concat(to.Addr().AsSlice(), port(to)),
			What:  "mapping " + m.String(),
		}
		if !m.anyHost() {
			e.Set, e.Key = f.name(addressPorts), concat(proto, host.Addr().AsSlice(), port(host))
		}
		elements = append(append(elements, e), p.markElements(f, m)...)
	}
	owner := p.Owner.String()
	for i := range elements {
		elements[i].Family, elements[i].Table, elements[i].Owner = nftables.TableFamilyINet, "trestle", owner
	}
	if len(p.Mappings) > 1 {
		elements = nft.Without(elements, nil)
	}
	return elements
}

// markElements returns the elements that say which connections to a port mapping are
// masqueraded.
func (p ownedPorts) markElements(f family, m Mapping) []nft.Element {
	if !p.SNAT {
		return nil
	}
	hairpin, all := hairpinPorts, masqueradePorts
	key := [][]byte{{m.Protocol.number()}, port(m.Host)}
	if !m.anyHost() {
		hairpin, all = hairpinAddresses, masqueradeAddresses
		key = [][]byte{{m.Protocol.number()}, m.Host.Addr().AsSlice(), port(m.Host)}
	}
	what := "masquerade for mapping " + m.String()
	var elements []nft.Element
	if p.Bridge != "" {
		elements = append(elements, nft.Element{
			Set:  f.name(hairpin),
			Key:  concat(append([][]byte{nft.InterfaceKey(p.Bridge)}, key...)...),
			What: what,
		})
	}
	if p.MasqueradeAll {
		elements = append(elements, nft.Element{Set: f.name(all), Key: concat(key...), What: what})
	}
	return elements
}

// loopbackElements returns the elements by which 127.0.0.1 reaches the port mappings, in both
// backends.
func (p ownedPorts) loopbackElements() []nft.Element {
	var elements []nft.Element
	for _, m := range p.Mappings {
		if !p.SNAT || !p.HostAddress.IsValid() || !m.answersLoopback() {
			continue
		}
		proto, host := []byte{m.Protocol.number()}, m.Host
		e := nft.Element{
			Family: nftables.TableFamilyINet, Table: "trestle", Owner: p.Owner.String(), What: "127.0.0.1 for mapping " + m.String(),
			Set: loopbackPorts, Key: concat(proto, port(host)), Value: p.HostAddress.AsSlice(),
		}
		if !m.anyHost() {
			e.Set, e.Key = loopbackAddresses, concat(proto, host.Addr().AsSlice(), port(host))
		}
		elements = append(elements, e)
	}
	return elements
}

func port(a netip.AddrPort) []byte { return binaryutil.BigEndian.PutUint16(a.Port()) }

// concat joins the fields of a key as nftables does: each is padded to 4 bytes.
func concat(parts ...[]byte) []byte {
	var key []byte
	for _, part := range parts {
		key = append(key, part...)
		key = append(key, make([]byte, -len(part)&3)...)
	}
	return key
}

// mappingOf decodes the mapping that an element makes; ok is false for elements of other sets.
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
			host, _ = netip.AddrFromSlice(key[4 : 4+size]) // the length was checked
			key = append(key[:4:4], key[4+size:]...)
		case f.name(hostPorts):
		default:
			continue
		}
		if len(key) != 8 || len(e.Value) != size+4 {
			return m, false
		}
		to, _ := netip.AddrFromSlice(e.Value[:size]) // the length was checked
		return Mapping{
			Protocol:  protocolOf(key[0]),
			Host:      netip.AddrPortFrom(host, binaryutil.BigEndian.Uint16(key[4:6])),
			Container: netip.AddrPortFrom(to, binaryutil.BigEndian.Uint16(e.Value[size:size+2])),
		}, true
	}
	return m, false
}

// Layouts returns the layouts of all parts of our table, each the part's name and a number.
func Layouts() []string { return []string{masqueradeLayout, portsLayout, loopbackLayout} }
