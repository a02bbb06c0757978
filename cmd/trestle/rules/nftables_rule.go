package rules

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// parse makes a Rule of the kernel's expressions. For a packet they are evaluated as the
// kernel does: each loads a register, or compares one.
func (t *tableReader) parse(r *nftables.Rule) Rule {
	rule := Rule{Text: t.text(r)}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
			rule.Counted, rule.Packets, rule.Bytes = true, e.Packets, e.Bytes
		case *expr.Verdict:
			rule.Verdict, rule.Jump, rule.Goto = verdictOf(e)
		case *expr.Reject:
			rule.Verdict = Drop
		case *expr.Target: // iptables' REJECT, in a table that iptables' programs do not show
			if e.Name == "REJECT" {
				rule.Verdict = Drop
			}
		case *expr.NAT, *expr.Masq, *expr.Redir:
			rule.Verdict = Translate
		case *expr.Lookup:
			if isVerdictMap(e) {
				rule.resolve = func(p Packet) (Rule, bool) { return rule.decided(t.run(r, p)) }
			}
		}
	}
	rule.matches = func(p Packet) Match {
		match, _ := t.run(r, p)
		return match
	}
	return rule
}

// run evaluates the expressions until one does not match. decision is the verdict of a verdict
// map, if the rule has one.
func (t *tableReader) run(r *nftables.Rule, p Packet) (match Match, decision *expr.Verdict) {
	m := machine{packet: p, table: t}
	match = Yes
	for _, e := range r.Exprs {
		if match = both(match, m.run(e)); match == No {
			return No, nil
		}
	}
	return match, m.decision
}

func (r Rule) decided(_ Match, decision *expr.Verdict) (Rule, bool) {
	if decision == nil {
		return r, false
	}
	r.Verdict, r.Jump, r.Goto = verdictOf(decision)
	return r, true
}

func isVerdictMap(e *expr.Lookup) bool {
	return e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT
}

func verdictOf(v *expr.Verdict) (verdict Verdict, jump string, isGoto bool) {
	switch v.Kind {
	case expr.VerdictAccept:
		return Accept, "", false
	case expr.VerdictDrop:
		return Drop, "", false
	case expr.VerdictReturn:
		return Return, "", false
	case expr.VerdictJump:
		return Pass, v.Chain, false
	case expr.VerdictGoto:
		return Pass, v.Chain, true
	default:
		return Pass, "", false
	}
}

// wordCount is the number of registers of four bytes. Four of 16 bytes overlap them; the
// verdict's is separate (enum nft_registers, linux/netfilter/nf_tables.h).
const wordCount = 16

type word struct {
	bytes [4]byte
	known bool
}

type machine struct {
	packet Packet
	table  *tableReader
	words  [wordCount]word
	// decision is a verdict map's value for the packet.
	decision *expr.Verdict
}

func firstWord(register uint32) int {
	if register >= unix.NFT_REG32_00 {
		return int(register - unix.NFT_REG32_00)
	}
	return int(register-unix.NFT_REG_1) * 4
}

// load sets a register. nil stands for an unknown value.
func (m *machine) load(register uint32, value []byte, length int) {
	padded := make([]byte, (max(len(value), length, 1)+3)/4*4)
	copy(padded, value)
	for i := 0; i*4 < len(padded); i++ {
		if at := firstWord(register) + i; at >= 0 && at < wordCount {
			m.words[at] = word{[4]byte(padded[i*4:]), value != nil}
		}
	}
}

// get reads length bytes from a register; ok is false if they are unknown.
func (m *machine) get(register uint32, length int) (value []byte, ok bool) {
	for i := 0; len(value) < length; i++ {
		at := firstWord(register) + i
		if at < 0 || at >= wordCount || !m.words[at].known {
			return nil, false
		}
		value = append(value, m.words[at].bytes[:]...)
	}
	return value[:length], true
}

func (m *machine) run(e expr.Any) Match {
	switch e := e.(type) {
	case *expr.Meta:
		m.meta(e)
	case *expr.Payload:
		m.payload(e)
	case *expr.Ct:
		m.load(e.Register, m.connection(e), 4)
	case *expr.Fib:
		m.fib(e)
	case *expr.Immediate:
		m.load(e.Register, e.Data, len(e.Data))
	case *expr.Bitwise:
		m.bitwise(e)
	case *expr.Cmp:
		return m.compare(e)
	case *expr.Range:
		return m.within(e)
	case *expr.Lookup:
		return m.lookUp(e)
	case *expr.Verdict, *expr.Counter, *expr.NAT, *expr.Masq, *expr.Redir, *expr.Reject, *expr.Target, *expr.Log, *expr.Notrack:
	default:
		return Maybe
	}
	return Yes
}

func (m *machine) meta(e *expr.Meta) {
	if e.SourceRegister {
		return // it sets a mark
	}
	var value []byte
	switch e.Key {
	case expr.MetaKeyIIFNAME:
		value = nft.InterfaceKey(m.packet.In)
	case expr.MetaKeyOIFNAME:
		value = nft.InterfaceKey(m.packet.Out)
	case expr.MetaKeyL4PROTO:
		value = m.protocol()
	case expr.MetaKeyNFPROTO:
		value = []byte{unix.NFPROTO_IPV6}
		if m.packet.Destination.Is4() {
			value[0] = unix.NFPROTO_IPV4
		}
	case expr.MetaKeyPROTOCOL:
		value = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
		if m.packet.Destination.Is4() {
			value = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
		}
	default:
	}
	m.load(e.Register, value, 4)
}

func (m *machine) protocol() []byte {
	switch m.packet.Protocol {
	case "tcp":
		return []byte{unix.IPPROTO_TCP}
	case "udp":
		return []byte{unix.IPPROTO_UDP}
	case "icmp":
		if m.packet.Destination.Is6() {
			return []byte{unix.IPPROTO_ICMPV6}
		}
		return []byte{unix.IPPROTO_ICMP}
	}
	return nil
}

// payload loads addresses, the protocol and the destination's port; of an address perhaps only
// the beginning, since nft compares prefixes of whole bytes that way.
func (m *machine) payload(e *expr.Payload) {
	if e.OperationType != expr.PayloadLoad {
		return
	}
	source, destination := m.packet.Source.AsSlice(), m.packet.Destination.AsSlice()
	at := map[uint32][]byte{8: source, 24: destination}
	if m.packet.Destination.Is4() {
		at = map[uint32][]byte{12: source, 16: destination}
	}
	var value []byte
	switch e.Base {
	case expr.PayloadBaseNetworkHeader:
		value = at[e.Offset]
		if m.packet.Destination.Is4() && e.Offset == 9 {
			value = m.protocol()
		}
		if m.packet.Destination.Is6() && e.Offset == 6 {
			value = m.protocol()
		}
	case expr.PayloadBaseTransportHeader:
		if e.Offset == 2 && e.Len == 2 && m.packet.Protocol != "icmp" {
			value = binary.BigEndian.AppendUint16(nil, m.packet.Port)
		}
	default:
	}
	if len(value) < int(e.Len) {
		value = nil
	} else {
		value = value[:e.Len]
	}
	m.load(e.DestRegister, value, int(e.Len))
}

// connection is the state or status of the packet's connection
// (linux/netfilter/nf_conntrack_common.h).
func (m *machine) connection(e *expr.Ct) []byte {
	const established, isNew, translated = 1 << 1, 1 << 3, 1 << 5
	switch {
	case e.SourceRegister:
		return nil
	case e.Key == expr.CtKeySTATE && m.packet.Answer:
		return binaryutil.NativeEndian.PutUint32(established)
	case e.Key == expr.CtKeySTATE:
		return binaryutil.NativeEndian.PutUint32(isNew)
	case e.Key == expr.CtKeySTATUS && m.packet.Translated:
		return binaryutil.NativeEndian.PutUint32(translated)
	case e.Key == expr.CtKeySTATUS:
		return binaryutil.NativeEndian.PutUint32(0)
	}
	return nil
}

// fib loads the type of the destination: whether it is an address of the host.
func (m *machine) fib(e *expr.Fib) {
	var value []byte
	if e.ResultADDRTYPE && e.FlagDADDR && !e.FlagIIF && !e.FlagOIF {
		kind := uint32(unix.RTN_UNICAST)
		if m.packet.Local {
			kind = unix.RTN_LOCAL
		}
		value = binaryutil.NativeEndian.PutUint32(kind)
	}
	m.load(e.Register, value, 4)
}

func (m *machine) bitwise(e *expr.Bitwise) {
	value, ok := m.get(e.SourceRegister, int(e.Len))
	if !ok || len(e.Mask) < int(e.Len) || len(e.Xor) < int(e.Len) {
		m.load(e.DestRegister, nil, int(e.Len))
		return
	}
	for i := range value {
		value[i] = value[i]&e.Mask[i] ^ e.Xor[i]
	}
	m.load(e.DestRegister, value, int(e.Len))
}

func (m *machine) compare(e *expr.Cmp) Match {
	value, ok := m.get(e.Register, len(e.Data))
	if !ok {
		return Maybe
	}
	order := bytes.Compare(value, e.Data)
	switch e.Op {
	case expr.CmpOpEq:
		return yes(order == 0)
	case expr.CmpOpNeq:
		return yes(order != 0)
	case expr.CmpOpLt:
		return yes(order < 0)
	case expr.CmpOpLte:
		return yes(order <= 0)
	case expr.CmpOpGt:
		return yes(order > 0)
	case expr.CmpOpGte:
		return yes(order >= 0)
	}
	return Maybe
}

func (m *machine) within(e *expr.Range) Match {
	value, ok := m.get(e.Register, len(e.FromData))
	if !ok {
		return Maybe
	}
	in := yes(bytes.Compare(value, e.FromData) >= 0 && bytes.Compare(value, e.ToData) <= 0)
	if e.Op == expr.CmpOpNeq {
		return not(in)
	}
	return in
}

// lookUp evaluates sets and verdict maps. The value of another map is unknown.
func (m *machine) lookUp(e *expr.Lookup) Match {
	s := m.table.setOf(e.SetName)
	if s == nil {
		return Maybe
	}
	found := No
	if len(s.elements) > 0 {
		key, ok := m.get(e.SourceRegister, len(s.elements[0].Key))
		if !ok {
			return Maybe
		}
		element, isIn := s.find(key)
		if found = isIn; element != nil && isVerdictMap(e) {
			m.decision = decodeVerdict(element.Val)
		}
	}
	if e.IsDestRegSet && e.DestRegister != unix.NFT_REG_VERDICT {
		m.load(e.DestRegister, nil, int(s.DataType.Bytes))
	}
	if e.Invert {
		return not(found)
	}
	return found
}

// decodeVerdict decodes a verdict map's value, which the library does not (NFTA_VERDICT_CODE and
// NFTA_VERDICT_CHAIN, linux/netfilter/nf_tables.h). It is nil if the value is no verdict.
func decodeVerdict(data []byte) *expr.Verdict {
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil
	}
	attributes.ByteOrder = binary.BigEndian
	var verdict *expr.Verdict
	chain := ""
	for attributes.Next() {
		switch attributes.Type() {
		case unix.NFTA_VERDICT_CODE:
			verdict = &expr.Verdict{Kind: expr.VerdictKind(int32(attributes.Uint32()))}
		case unix.NFTA_VERDICT_CHAIN:
			chain = attributes.String()
		}
	}
	if verdict == nil || attributes.Err() != nil {
		return nil
	}
	verdict.Chain = chain
	return verdict
}

// find finds the key's element. Each end of an interval is an element of its own: the last
// element at or before the key decides.
func (s *set) find(key []byte) (*nftables.SetElement, Match) {
	if s.Interval && s.Concatenation {
		return nil, Maybe
	}
	var last *nftables.SetElement
	for i, e := range s.elements {
		order := bytes.Compare(e.Key, key)
		// where one interval ends and another begins, the beginning counts
		later := last == nil || bytes.Compare(e.Key, last.Key) > 0 || bytes.Equal(e.Key, last.Key) && !e.IntervalEnd
		if order == 0 && !s.Interval || order <= 0 && s.Interval && later {
			last = &s.elements[i]
		}
	}
	if last == nil || last.IntervalEnd {
		return nil, No
	}
	return last, Yes
}

// text is the rule, much like nft(8) prints it.
func (t *tableReader) text(r *nftables.Rule) string {
	w := writer{names: map[uint32]string{}, masks: map[uint32][]byte{}}
	for _, e := range r.Exprs {
		w.write(e)
	}
	if comment, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok {
		w.parts = append(w.parts, fmt.Sprintf("comment %q", comment))
	}
	return strings.Join(w.parts, " ")
}

// writer collects a rule's text. names says what each register holds.
type writer struct {
	parts []string
	names map[uint32]string
	masks map[uint32][]byte
}

func (w *writer) load(register uint32, name string) {
	w.names[register] = name
	delete(w.masks, register)
}

func (w *writer) write(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		w.load(e.Register, metaText(e))
	case *expr.Payload:
		w.load(e.DestRegister, payloadText(e))
	case *expr.Ct:
		w.load(e.Register, map[expr.CtKey]string{expr.CtKeySTATE: "ct state", expr.CtKeySTATUS: "ct status"}[e.Key])
	case *expr.Fib:
		w.load(e.Register, "fib daddr type")
	case *expr.Bitwise:
		w.load(e.DestRegister, w.names[e.SourceRegister])
		w.masks[e.DestRegister] = e.Mask
	case *expr.Cmp:
		w.parts = append(w.parts, comparison(e, w.names[e.Register], w.masks[e.Register]))
	case *expr.Lookup:
		w.parts = append(w.parts, joinNames(w.names, e.SourceRegister)+map[bool]string{true: " vmap"}[isVerdictMap(e)]+" @"+e.SetName)
	default:
		if text := statement(e); text != "" {
			w.parts = append(w.parts, text)
		}
	}
}

// statement is the text of what the rule does with a packet.
func statement(e expr.Any) string {
	switch e := e.(type) {
	case *expr.Verdict:
		verdict, jump, isGoto := verdictOf(e)
		switch {
		case isGoto:
			return "goto " + jump
		case jump != "":
			return "jump " + jump
		}
		return string(verdict)
	case *expr.Reject:
		return "reject"
	case *expr.Masq:
		return "masquerade"
	case *expr.NAT:
		return map[expr.NATType]string{expr.NATTypeDestNAT: "dnat", expr.NATTypeSourceNAT: "snat"}[e.Type]
	case *expr.Redir:
		return "redirect"
	}
	return ""
}

func joinNames(names map[uint32]string, register uint32) string {
	text := names[register]
	if next := names[register+1]; next != "" {
		text += " . " + next
	}
	return text
}

func metaText(e *expr.Meta) string {
	return map[expr.MetaKey]string{
		expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyOIFNAME: "oifname", expr.MetaKeyL4PROTO: "meta l4proto",
		expr.MetaKeyNFPROTO: "meta nfproto", expr.MetaKeyIIF: "iif", expr.MetaKeyOIF: "oif", expr.MetaKeyMARK: "meta mark",
	}[e.Key]
}

func payloadText(e *expr.Payload) string {
	switch {
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 0:
		return "sport"
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2:
		return "dport"
	case e.Base != expr.PayloadBaseNetworkHeader:
		return "payload"
	}
	if name := map[uint32]string{12: "ip saddr", 16: "ip daddr", 8: "ip6 saddr", 24: "ip6 daddr"}[e.Offset]; name != "" {
		return name
	}
	return "payload"
}

// comparison is the text of a comparison, as nft prints it. Each bit of a mask is a flag.
func comparison(e *expr.Cmp, what string, mask []byte) string {
	isNot := e.Op == expr.CmpOpNeq
	value := valueText(what, e.Data)
	switch {
	case mask == nil:
	case strings.HasSuffix(what, "addr"):
		if ones, bits := net.IPMask(mask).Size(); bits > 0 {
			value += fmt.Sprintf("/%d", ones)
		}
	case isNot && strings.HasPrefix(what, "ct "): // any of the bits
		isNot, value = false, flagText(what, binaryutil.NativeEndian.Uint32(mask))
	default:
		what += fmt.Sprintf(" & %#x", mask)
	}
	if isNot {
		return what + " != " + value
	}
	return what + " " + value
}

// flagText names the flags that are set (linux/netfilter/nf_conntrack_common.h).
func flagText(what string, bits uint32) string {
	names := map[uint32]string{1: "invalid", 1 << 1: "established", 1 << 2: "related", 1 << 3: "new", 1 << 6: "untracked"}
	if what == "ct status" {
		names = map[uint32]string{1 << 4: "snat", 1 << 5: "dnat"}
	}
	var set []string
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if bits&bit != 0 {
			set = append(set, cmp.Or(names[bit], fmt.Sprintf("%#x", bit)))
		}
	}
	return strings.Join(set, ",")
}

func valueText(what string, data []byte) string {
	switch {
	case strings.HasSuffix(what, "ifname"):
		return fmt.Sprintf("%q", strings.TrimRight(string(data), "\x00"))
	case strings.HasSuffix(what, "port") && len(data) == 2:
		return fmt.Sprint(binary.BigEndian.Uint16(data))
	case strings.HasSuffix(what, "addr"):
		return addressText(strings.HasPrefix(what, "ip6"), data)
	case strings.HasPrefix(what, "ct ") && len(data) == 4:
		return flagText(what, binaryutil.NativeEndian.Uint32(data))
	case what == "meta nfproto" && len(data) == 1:
		return map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[data[0]]
	case what == "fib daddr type" && len(data) == 4 && binaryutil.NativeEndian.Uint32(data) == unix.RTN_LOCAL:
		return "local"
	case what == "meta l4proto" && len(data) == 1:
		return map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmpv6"}[data[0]]
	}
	return fmt.Sprintf("%#x", data)
}

// addressText is an address, or a prefix of whole bytes, of which nft compares only the
// beginning.
func addressText(isIPv6 bool, data []byte) string {
	whole := make([]byte, 4)
	if isIPv6 {
		whole = make([]byte, 16)
	}
	copy(whole, data)
	a, _ := netip.AddrFromSlice(whole) // 4 or 16 bytes
	if len(data) < len(whole) {
		return fmt.Sprintf("%s/%d", a, 8*len(data))
	}
	return a.String()
}
