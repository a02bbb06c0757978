package ipam

import (
	"cmp"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Range is a range of addresses of one subnet that may be leased.
type Range struct {
	Subnet      netip.Prefix
	First, Last netip.Addr
	Gateway     netip.Addr // invalid if there is none

	// barred are the spans within the range that are never leased, in order and without
	// overlap: excluded ones, gateways, network and broadcast addresses.
	barred []span
}

// Set is a list of ranges of one family that do not overlap. An attachment gets
// one address of every set.
type Set []Range

// span is the addresses from first to last.
type span struct{ first, last netip.Addr }

func prefixSpan(p netip.Prefix) span { return span{p.Masked().Addr(), lastOf(p)} }

// lastOf is the highest address of p.
func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw) // cannot fail: raw has 4 or 16 bytes
	return last
}

// hasEnds says whether the first and the last address of p are network and broadcast address:
// with IPv4, except in a /31 (RFC 3021) and a /32.
func hasEnds(p netip.Prefix) bool { return p.Addr().Is4() && p.Bits() <= 30 }

// Contains says whether a is in the range, even if it is never leased.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// bar finds the barred span that contains a.
func (r Range) bar(a netip.Addr) (span, bool) {
	i, found := slices.BinarySearchFunc(r.barred, a, func(s span, a netip.Addr) int { return s.last.Compare(a) })
	if found || i < len(r.barred) && r.barred[i].first.Compare(a) <= 0 {
		return r.barred[i], true
	}
	return span{}, false
}

// Leasable says whether a is in the range and may be leased.
func (r Range) Leasable(a netip.Addr) bool {
	_, barred := r.bar(a)
	return r.Contains(a) && !barred
}

// withBarred is the range with those parts of the spans barred that are in it.
func (r Range) withBarred(spans []span) Range {
	r.barred = nil
	for _, s := range spans {
		if s.first.BitLen() != r.First.BitLen() || s.last.Less(r.First) || r.Last.Less(s.first) {
			continue
		}
		r.barred = append(r.barred, span{later(s.first, r.First), earlier(s.last, r.Last)})
	}
	slices.SortFunc(r.barred, func(a, b span) int { return cmp.Or(a.first.Compare(b.first), a.last.Compare(b.last)) })
	r.barred = joined(r.barred)
	return r
}

// joined merges spans that overlap. The spans must be in order.
func joined(spans []span) []span {
	var apart []span
	for _, s := range spans {
		if n := len(apart); n > 0 && s.first.Compare(apart[n-1].last) <= 0 {
			apart[n-1].last = later(apart[n-1].last, s.last)
			continue
		}
		apart = append(apart, s)
	}
	return apart
}

func later(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func earlier(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}

// Size is how many addresses may be leased; math.MaxUint64 stands for more.
func (r Range) Size() uint64 {
	size := span{r.First, r.Last}.size()
	if size == math.MaxUint64 {
		return size
	}
	for _, s := range r.barred {
		size -= s.size()
	}
	return size
}

// SizeIn is how many addresses of p may be leased; math.MaxUint64 stands for more.
func (r Range) SizeIn(p netip.Prefix) uint64 {
	s := prefixSpan(p)
	if s.first.BitLen() != r.First.BitLen() || s.last.Less(r.First) || r.Last.Less(s.first) {
		return 0
	}
	part := Range{First: later(s.first, r.First), Last: earlier(s.last, r.Last)}
	return part.withBarred(r.barred).Size()
}

// size is how many addresses are in s; math.MaxUint64 stands for more.
func (s span) size() uint64 {
	firstHigh, firstLow := halves(s.first)
	lastHigh, lastLow := halves(s.last)
	low, borrow := bits.Sub64(lastLow, firstLow, 0)
	high, _ := bits.Sub64(lastHigh, firstHigh, borrow)
	if high > 0 || low == math.MaxUint64 {
		return math.MaxUint64
	}
	return low + 1
}

// halves are the two halves of an address as a number of 128 bits.
func halves(a netip.Addr) (high, low uint64) {
	raw := a.As16()
	for i := range 8 {
		high = high<<8 | uint64(raw[i])
		low = low<<8 | uint64(raw[8+i])
	}
	return high, low
}

// String shows the range as "10.1.0.1-10.1.0.254".
func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// rangeOf finds the range of the set that contains a.
func (s Set) rangeOf(a netip.Addr) (Range, bool) {
	i := slices.IndexFunc(s, func(r Range) bool { return r.Contains(a) })
	if i < 0 {
		return Range{}, false
	}
	return s[i], true
}

// String shows the ranges of the set.
func (s Set) String() string {
	var parts []string
	for _, r := range s {
		parts = append(parts, r.String())
	}
	return strings.Join(parts, ", ")
}
