package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
	"time"
)

// Pool is a network's addresses of one family, divided into subnets of one length.
type Pool struct {
	Prefix    netip.Prefix `json:"pool"`
	SubnetLen int          `json:"subnetLen"`

	extra extra
}

func (p Pool) String() string { return fmt.Sprintf("%s cut into /%d", p.Prefix, p.SubnetLen) }

// isSame says whether both have the same subnets.
func (p Pool) isSame(other Pool) bool {
	return p.Prefix == other.Prefix && p.SubnetLen == other.SubnetLen
}

// MarshalJSON writes keys of newer releases as they were read.
func (p Pool) MarshalJSON() ([]byte, error) {
	type plain Pool
	return p.extra.marshal(plain(p))
}

// UnmarshalJSON keeps the keys that this release does not know.
func (p *Pool) UnmarshalJSON(data []byte) error {
	type plain Pool
	var read plain
	e, err := unmarshalKeeping(data, &read)
	if err != nil {
		return err
	}
	*p = Pool(read)
	p.extra = e
	return nil
}

// maxSubnetBits bounds a pool at 2^32 subnets, more than there are hosts.
const maxSubnetBits = 32

func (p Pool) check(family Family) error {
	switch {
	case !p.Prefix.IsValid():
		return errors.New("pool: missing; write it like 10.40.0.0/16 or fd40::/48")
	case FamilyOf(p.Prefix.Addr()) != family:
		return fmt.Errorf("pool: %s is of the other family", p.Prefix)
	case p.Prefix != p.Prefix.Masked():
		return fmt.Errorf("pool: %s has bits beyond its length; %s is the prefix", p.Prefix, p.Prefix.Masked())
	}
	addressBits := p.Prefix.Addr().BitLen()
	if p.SubnetLen <= p.Prefix.Bits() || p.SubnetLen > addressBits-2 {
		return fmt.Errorf("subnetLen: %d must be more than the pool's %d, so that there is more than one subnet, and at most %d, so that one has room for a container",
			p.SubnetLen, p.Prefix.Bits(), addressBits-2)
	}
	if p.SubnetLen-p.Prefix.Bits() > maxSubnetBits {
		return fmt.Errorf("subnetLen: %d cuts %s into 2^%d subnets; 2^%d is the most, choose a smaller pool or a shorter length",
			p.SubnetLen, p.Prefix, p.SubnetLen-p.Prefix.Bits(), maxSubnetBits)
	}
	return nil
}

// filled is the pool with the default length where it has none.
func (p *Pool) filled(length int) *Pool {
	if p == nil || p.SubnetLen != 0 {
		return p
	}
	return &Pool{Prefix: p.Prefix, SubnetLen: length, extra: p.extra}
}

// Size is the number of subnets in the pool.
func (p Pool) Size() uint64 { return 1 << (p.SubnetLen - p.Prefix.Bits()) }

// Subnet is the i-th of the pool's subnets.
func (p Pool) Subnet(i uint64) netip.Prefix {
	shift := p.Prefix.Addr().BitLen() - p.SubnetLen
	if p.Prefix.Addr().Is4() {
		a := p.Prefix.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])|uint32(i<<shift))
		return netip.PrefixFrom(netip.AddrFrom4(a), p.SubnetLen)
	}
	a := p.Prefix.Addr().As16()
	hi, lo := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	if shift >= 64 {
		hi |= i << (shift - 64)
	} else {
		hi |= i >> (64 - shift) // 0 where shift is 0
		lo |= i << shift
	}
	binary.BigEndian.PutUint64(a[:8], hi)
	binary.BigEndian.PutUint64(a[8:], lo)
	return netip.PrefixFrom(netip.AddrFrom16(a), p.SubnetLen)
}

// has says whether the subnet is one of the pool's.
func (p Pool) has(subnet netip.Prefix) bool {
	return subnet.Bits() == p.SubnetLen && p.Prefix.Contains(subnet.Addr()) && subnet == subnet.Masked()
}

// Tombstone is what remains of a claim that was released.
type Tombstone struct {
	Subnet   netip.Prefix
	Revision int64 // the store's, when it was released
	At       time.Time
}

// ErrFull says that a pool has no subnet left to give.
var ErrFull = errors.New("no subnet is left")

// Wish is the input of Choose.
type Wish struct {
	// Seed is hashed to decide where the search begins, so that hosts that join at the same
	// time begin at different subnets.
	Seed string
	// Taken are subnets that somebody has; they may have another length than the pool's.
	Taken []netip.Prefix
	// Released are subnets that were released. They are chosen last, the oldest first, and
	// not before Quarantine has passed: hosts may still have routes to their former owner.
	Released   []Tombstone
	Quarantine time.Duration
	Now        time.Time
}

// Choose chooses a free subnet. The error is ErrFull where there is none.
func (p Pool) Choose(w Wish) (netip.Prefix, error) {
	avoid := map[netip.Prefix]bool{}
	var wide []netip.Prefix
	for _, t := range w.Taken {
		if t.Bits() == p.SubnetLen {
			avoid[t] = true
		} else {
			wide = append(wide, t)
		}
	}
	var dead []Tombstone
	for _, t := range w.Released {
		if p.has(t.Subnet) && !avoid[t.Subnet] {
			dead = append(dead, t)
			avoid[t.Subnet] = true
		}
	}
	isFree := func(s netip.Prefix) bool {
		return !avoid[s] && !slices.ContainsFunc(wide, s.Overlaps)
	}
	size := p.Size()
	start := p.start(w.Seed)
	for n := range min(size, uint64(len(w.Taken)+len(dead))+1+p.covered(wide)) {
		if s := p.Subnet((start + n) % size); isFree(s) {
			return s, nil
		}
	}
	return p.oldest(dead, wide, w)
}

// start is where the search begins: the seed's hash, scaled to the pool.
func (p Pool) start(seed string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed)) // a hash's Write never fails
	at, _ := bits.Mul64(mix(h.Sum64()), p.Size())
	return at
}

// mix spreads FNV's lower bits over all bits (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// covered is how many subnets of this pool overlap prefixes of other lengths.
func (p Pool) covered(wide []netip.Prefix) uint64 {
	var n uint64
	for _, w := range wide {
		if w.Overlaps(p.Prefix) && w.Bits() < p.SubnetLen {
			n += min(p.Size(), 1<<min(63, p.SubnetLen-w.Bits()))
		} else if w.Overlaps(p.Prefix) {
			n++
		}
	}
	return n
}

// oldest chooses the subnet that was released first, if its quarantine is over.
func (p Pool) oldest(dead []Tombstone, wide []netip.Prefix, w Wish) (netip.Prefix, error) {
	dead = slices.DeleteFunc(dead, func(t Tombstone) bool { return slices.ContainsFunc(wide, t.Subnet.Overlaps) })
	slices.SortFunc(dead, func(a, b Tombstone) int { return int(a.Revision - b.Revision) })
	for _, t := range dead {
		// A time a little in the future means that a clock was set back; it still counts. One
		// far in the future comes from a wrong clock, and is no reason to wait for it.
		if age := w.Now.Sub(t.At); age.Abs() >= w.Quarantine {
			return t.Subnet, nil
		}
	}
	err := fmt.Errorf("pool %s: %w: all %d of length %d are taken", p.Prefix, ErrFull, p.Size(), p.SubnetLen)
	if len(dead) > 0 {
		err = fmt.Errorf("%w or given up less than %v ago, %s as the oldest at %s", err, w.Quarantine, dead[0].Subnet, dead[0].At.UTC().Format(time.RFC3339))
	}
	return netip.Prefix{}, fmt.Errorf("%w; release the subnets of hosts that are dead (trestle cluster nodes; trestle cluster release), or configure a larger pool", err)
}
