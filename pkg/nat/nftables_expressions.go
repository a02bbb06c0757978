package nat

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// newSource returns the statement of a masquerade rule: masquerade, or snat to a fixed address.
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

// lookupAddressPort is "dnat ip to meta l4proto . ip daddr . th dport map @address_ports4".
func (f family) lookupAddressPort() []expr.Any {
	return nft.Join(f.isFamily(), meta(expr.MetaKeyL4PROTO, 1), f.daddr(word(1)), dport(word(1+f.words())), f.translate(addressPorts))
}

// lookupHostPort is "dnat ip to meta l4proto . th dport map @host_ports4".
func (f family) lookupHostPort() []expr.Any {
	return nft.Join(f.isFamily(), meta(expr.MetaKeyL4PROTO, 1), dport(word(1)), f.translate(hostPorts))
}

func (f family) translate(portMap string) []expr.Any {
	port := word(f.words())
	return []expr.Any{
		&expr.Lookup{SourceRegister: 1, SetName: f.name(portMap), DestRegister: 1, IsDestRegSet: true},
		// as the kernel dumps it: the last port of a single one is the first
		&expr.NAT{
			Type:        expr.NATTypeDestNAT,
			Family:      f.nfproto(),
			RegAddrMin:  1,
			RegAddrMax:  1,
			RegProtoMin: port,
			RegProtoMax: port,
			Specified:   true,
		},
	}
}

// word returns the register for the nth 4-byte word. Words have numbers from 8 on
// (NFT_REG32_00, linux/netfilter/nf_tables.h), but every fourth is dumped by the number of the
// 16-byte register that begins there (nft_dump_register, net/netfilter/nf_tables_api.c), and
// rules are compared with what is dumped.
func word(n uint32) uint32 {
	if n%4 == 0 {
		return 1 + n/4
	}
	return 8 + n
}

// words is the number of 4-byte words of an address.
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
	return nft.Join(meta(expr.MetaKeyNFPROTO, 1), equal([]byte{byte(f.nfproto())}))
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

// dport loads the destination port, which TCP, UDP and SCTP have at the same offset.
func dport(register uint32) []expr.Any {
	return payload(expr.PayloadBaseTransportHeader, 2, 2, register)
}

func payload(base expr.PayloadBase, offset, length, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}}
}

func meta(key expr.MetaKey, register uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register}}
}

// equal compares register 1.
func equal(data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

// within compares register 1 with a prefix, by == or !=.
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

// fibLocal is "fib daddr type local": only ports on the host's own addresses are mapped.
func fibLocal() []expr.Any {
	return nft.Join([]expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}},
		equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)))
}

func inSet(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set}}
}

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func commentOf(r *nftables.Rule) string { return nft.Comment(r.UserData) }

func notEqual(data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data}}
}
