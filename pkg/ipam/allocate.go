package ipam

import "net/netip"

// used returns the block that begins at base.
type used func(base netip.Addr) (*block, error)

// next is the first free address between from and to, both included, that the range may
// lease.
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

// next is the first free address after the cursor: round robin over all ranges of the set,
// so that a released address is reused as late as possible. A cursor outside the set's
// ranges is ignored.
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
	return s[at].next(s[at].First, s[at].Last, blocks) // the cursor's range again, up to the cursor
}
