package ipam

import "net/netip"

// used gives the block of an address group; the first address names it.
type used func(base netip.Addr) (*block, error)

// next is the first address from 'from' on to 'to' that the range may give away
// and that nobody has.
func (r Range) next(from, to netip.Addr, blocks used) (a netip.Addr, ok bool, err error) {
	for a = from; a.IsValid() && a.Compare(to) <= 0; {
		if s, barred := r.bar(a); barred {
			a = s.last.Next()
			continue
		}
		base, bit := blockOf(a)
		b, err := blocks(base)
		if err != nil {
			return a, false, err
		}
		free, ok := b.nextFree(bit)
		switch {
		case !ok:
			a = inBlock(base, blockBits-1).Next()
		case free == bit:
			return a, true, nil
		default:
			a = inBlock(base, free)
		}
	}
	return netip.Addr{}, false, nil
}

// next is the address that the set gives away after the one that it gave last:
// round robin over all its ranges, so that a released address comes back as late
// as possible. A cursor outside the set's ranges is ignored.
func (s Set) next(cursor netip.Addr, blocks used) (netip.Addr, bool, error) {
	at := 0
	from := s[0].First
	for i, r := range s {
		if r.Contains(cursor) {
			at, from = i, cursor.Next()
		}
	}
	for i := range len(s) {
		r := s[(at+i)%len(s)]
		if i > 0 {
			from = r.First
		}
		if a, ok, err := r.next(from, r.Last, blocks); ok || err != nil {
			return a, ok, err
		}
	}
	return s[at].next(s[at].First, s[at].Last, blocks) // from its beginning up to the cursor
}
