package nat

import (
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// exprs are the network's rules, one for each subnet:
//
//	ip saddr SUBNET ip daddr != SUBNET … ip daddr != 224.0.0.0/4 masquerade
//
// Destinations are compared one after the other: that many there are not, and a
// rule without anonymous sets can be read back and compared as a whole.
func (n NetworkRule) exprs() [][]expr.Any {
	var rules [][]expr.Any
	for _, f := range families() {
		for _, subnet := range f.only(n.Prefixes) {
			rule := append(f.isFamily(), f.compare(f.saddr(), expr.CmpOpEq, subnet)...)
			for _, kept := range n.keeps(f) {
				rule = append(rule, f.compare(f.daddr(), expr.CmpOpNeq, kept)...)
			}
			rules = append(rules, append(rule, n.newSource(f)...))
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

func (f family) nfproto() uint32 {
	if f.is4 {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// isFamily is "meta nfproto".
func (f family) isFamily() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(f.nfproto())}},
	}
}

// Offsets of addresses in the headers: RFC 791, 3.1, and RFC 8200, 3.
func (f family) saddr() *expr.Payload {
	if f.is4 {
		return networkHeader(12, 4)
	}
	return networkHeader(8, 16)
}

func (f family) daddr() *expr.Payload {
	if f.is4 {
		return networkHeader(16, 4)
	}
	return networkHeader(24, 16)
}

func networkHeader(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// compare is "address == prefix" or "address != prefix".
func (f family) compare(address *expr.Payload, op expr.CmpOp, prefix netip.Prefix) []expr.Any {
	exprs := []expr.Any{address}
	if !prefix.IsSingleIP() {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: address.Len,
			Mask: mask(prefix.Bits(), int(address.Len)), Xor: make([]byte, address.Len),
		})
	}
	return append(exprs, &expr.Cmp{Op: op, Register: 1, Data: prefix.Addr().AsSlice()})
}

func mask(bits, length int) []byte {
	m := make([]byte, length)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}
