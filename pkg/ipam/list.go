package ipam

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Use is how much of a range is taken.
type Use struct {
	Range Range
	Size  uint64 // addresses that may be leased; math.MaxUint64 stands for more
	Used  uint64 // of these, how many are
	Dead  uint64 // of those, how many are proved dead
}

// Leases lists all leases in the order of their addresses. It reads every one
// of them, and writes nothing.
func (s *Store) Leases() ([]Lease, error) {
	leases, _, err := s.Inspect()
	return leases, err
}

// Inspect is Leases and Verify in one look.
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

// usage counts, range by range, what is leased.
func (s *Store) usage(sets []Set) ([]Use, error) {
	leases, err := s.Leases()
	if err != nil {
		return nil, err
	}
	return Count(sets, leases), nil
}

// Count is Usage of leases that are listed already.
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

// ReleaseAddress takes one address away from whoever has it; if it had others,
// they stay. It says whose it was. An address that is free is no error.
func (s *Store) ReleaseAddress(a netip.Addr) (cni.Owner, error) {
	l, err := s.lock(change)
	if errors.Is(err, errNoNetwork) {
		return cni.Owner{}, nil
	}
	if err != nil {
		return cni.Owner{}, ioError(err)
	}
	defer l.unlock()
	f, ok, err := readLease(l.net, s.network, a)
	if err != nil || !ok {
		return cni.Owner{}, ioError(err)
	}
	defer l.saveIndex()
	return f.owner, ioError(l.withdraw(a, f))
}

// withdraw frees one address and takes it out of its owner's record.
func (l *locked) withdraw(a netip.Addr, f leaseFile) error {
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

// Verify lists what is wrong in the directory, and changes nothing.
func (s *Store) Verify() ([]Problem, error) {
	_, m, err := s.inspect()
	return m.problem, err
}

// Repair puts right what Verify lists.
func (s *Store) Repair() error {
	l, err := s.lock(change)
	if errors.Is(err, errNoNetwork) {
		return nil
	}
	if err != nil {
		return ioError(err)
	}
	defer l.unlock()
	if l.owners == nil { // else it has just been done
		err = l.rebuild()
	}
	return ioError(errors.Join(err, l.unsaved))
}

// inspect takes a snapshot under the lock.
func (s *Store) inspect() (snapshot, repairs, error) {
	l, err := s.lock(look)
	if errors.Is(err, errNoNetwork) {
		return snapshot{}, repairs{}, nil
	}
	if err != nil {
		return snapshot{}, repairs{}, ioError(err)
	}
	defer l.unlock()
	seen, err := takeSnapshot(l.net, l.own, s.network)
	if err != nil {
		return snapshot{}, repairs{}, ioError(err)
	}
	host, err := record.ThisHost()
	if err != nil {
		return snapshot{}, repairs{}, ioError(err)
	}
	m := seen.planRepairs(host, l.head)
	if l.owners == nil {
		m.problem = append(m.problem, seen.compareBitmap(l.own, m.taken)...)
	}
	return seen, m, nil
}

// compareBitmap says where the bitmap differs from what is taken.
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
