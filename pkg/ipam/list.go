package ipam

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Use says how much of a range is leased.
type Use struct {
	Range Range
	Size  uint64 // how many addresses may be leased; math.MaxUint64 stands for more
	Used  uint64 // how many of these are leased
	Dead  uint64 // how many of those to owners who are proved dead
}

// Leases lists all leases in the order of their addresses. It reads every lease, and writes
// nothing.
func (s *Store) Leases() ([]Lease, error) {
	leases, _, err := s.Inspect()
	return leases, err
}

// Inspect is Leases and Verify, by reading the directory once.
func (s *Store) Inspect() ([]Lease, []Problem, error) {
	seen, m, err := s.inspect()
	if err != nil {
		return nil, nil, err
	}
	dead := newLivenessProber()
	var leases []Lease
	for _, a := range m.taken {
		r := m.owners[seen.files[a].owner]
		life := dead.probe(r)
		leases = append(leases, Lease{
			Address: a, Owner: seen.files[a].owner, NetNS: r.NetNS.Path, Time: r.Time,
			Life: life, Dead: life == record.Dead,
		})
	}
	return leases, m.problem, nil
}

// usage counts the leases of each range.
func (s *Store) usage(sets []Set) ([]Use, error) {
	leases, err := s.Leases()
	if err != nil {
		return nil, err
	}
	return Count(sets, leases), nil
}

// Count counts, of the leases given, those of each range.
func Count(sets []Set, leases []Lease) []Use {
	var all []Use
	for _, r := range slices.Concat(sets...) {
		u := Use{Range: r, Size: r.Size()}
		for _, l := range leases {
			if !r.Leasable(l.Address) {
				continue
			}
			u.Used++
			if l.Dead {
				u.Dead++
			}
		}
		all = append(all, u)
	}
	return all
}

// ReleaseAddress releases one address, whoever has it, and returns who that was. Other
// addresses of that owner stay. It is no error if the address is free.
func (s *Store) ReleaseAddress(a netip.Addr) (owner cni.Owner, err error) {
	err = s.whileLocked(change, func(l *lockedStore) error {
		f, ok, err := readLease(l.net, s.network, a)
		if err != nil || !ok {
			return err
		}
		defer l.saveIndex()
		owner = f.owner
		return l.withdraw(a, f)
	})
	return owner, err
}

// withdraw frees one address and removes it from its owner's record.
func (l *lockedStore) withdraw(a netip.Addr, f leaseFile) error {
	r, ok, err := l.lookup(f.owner)
	if err != nil {
		return err
	}
	if err := l.free(a); err != nil || !ok {
		return err
	}
	r.Addresses = slices.DeleteFunc(slices.Clone(r.Addresses), func(other netip.Addr) bool { return other == a })
	if len(r.Addresses) == 0 {
		return l.removeRecord(f.owner)
	}
	return l.writeRecord(r)
}

// Verify lists what is inconsistent in the directory. It changes nothing.
func (s *Store) Verify() ([]Problem, error) {
	_, m, err := s.inspect()
	return m.problem, err
}

// Repair repairs what Verify lists.
func (s *Store) Repair() error {
	return s.whileLocked(change, func(l *lockedStore) (err error) {
		if l.owners == nil { // else lock has just rebuilt the index
			err = l.rebuild()
		}
		return errors.Join(err, l.unsaved)
	})
}

// inspect takes a snapshot under the lock, and plans repairs without making them.
func (s *Store) inspect() (seen snapshot, m repairs, err error) {
	err = s.whileLocked(look, func(l *lockedStore) (err error) {
		if seen, err = takeSnapshot(l.net, l.own, s.network); err != nil {
			return err
		}
		host, err := record.ThisHost()
		if err != nil {
			return err
		}
		m = seen.planRepairs(host, l.head)
		if l.owners == nil {
			m.problem = append(m.problem, seen.compareBitmap(l.own, m.taken)...)
		}
		return nil
	})
	return seen, m, err
}

// compareBitmap lists where the index's bitmap differs from the taken addresses.
func (s snapshot) compareBitmap(own dir, taken []netip.Addr) []Problem {
	var problems []Problem
	m := bitmap{own: own, blocks: map[netip.Addr]*block{}}
	for _, a := range taken {
		base, bit := blockOf(a)
		b, err := m.block(base)
		if err == nil && b.has(bit) {
			b.clear(bit)
			continue
		}
		problems = append(problems, Problem{indexDir + "/" + blockPrefix + base.String(), a.String() + " is leased and not marked so"})
	}
	for base, b := range m.blocks {
		if b.count > 0 {
			problems = append(problems, Problem{indexDir + "/" + blockPrefix + base.String(), "addresses are marked as leased and are not"})
		}
	}
	return problems
}
