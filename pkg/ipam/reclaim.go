package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// livenessProber remembers what was proved of records. Under the lock, of asks what it
// remembers; without the lock, probe finds out.
type livenessProber struct {
	prober record.Prober
	known  map[record.Stamp]record.Life // by stampOf
}

func newLivenessProber() *livenessProber {
	return &livenessProber{known: map[record.Stamp]record.Life{}}
}

// stampOf is the record's stamp, which is equal to that of the same record read again: without a
// zone, of which each reading makes its own.
func stampOf(r ownerRecord) record.Stamp {
	s := r.Stamp
	s.Time = s.Time.UTC()
	return s
}

// needLivenessError says that probe must be called for a record.
type needLivenessError struct{ about ownerRecord }

func (q *needLivenessError) Error() string { return "is " + q.about.ContainerID + " alive?" }

func (v *livenessProber) of(r ownerRecord) (record.Life, error) {
	if verdict, ok := v.known[stampOf(r)]; ok {
		return verdict, nil
	}
	return record.Unknown, &needLivenessError{r}
}

func (v *livenessProber) probe(r ownerRecord) record.Life { return v.learn(r, v.prober.Life) }

// probeEnding is probe for a holder because of whom a lease is about to be refused: it waits
// for the end of a namespace that is about to end.
func (v *livenessProber) probeEnding(r ownerRecord) record.Life {
	return v.learn(r, v.prober.AwaitEnd)
}

func (v *livenessProber) learn(r ownerRecord, life func(record.Stamp) (record.Life, error)) record.Life {
	verdict, err := life(r.Stamp)
	if err != nil {
		verdict = record.Unknown
	}
	v.known[stampOf(r)] = verdict
	return verdict
}

// GC releases the leases of all owners that the list does not name. If the runtime has sent no
// list, it releases those of the dead.
func (s *Store) GC(valid cni.Valid) error {
	if valid.Known {
		_, err := s.sweep(stale{
			isStale: func(r ownerRecord) bool { return !keeps(valid, r.owner(s.network)) },
			kept:    keptRecords(valid),
		})
		return err
	}
	_, err := s.reclaimDead()
	return err
}

// keptRecords are the names of the records of listed owners, which need not be read.
func keptRecords(valid cni.Valid) map[string]bool {
	kept := map[string]bool{}
	for _, o := range valid.Owners() {
		kept[recordName(o)] = true
		o.IfName = ""
		kept[recordName(o)] = true
	}
	return kept
}

// keeps says whether the list names the owner or, if the lease has no interface name, its
// container.
func keeps(valid cni.Valid, o cni.Owner) bool {
	return valid.Keeps(o) || o.IfName == "" && valid.KeepsContainer(o.ContainerID)
}

// reclaimDead releases the leases of all owners who are proved dead, and returns how many
// owners these were.
func (s *Store) reclaimDead() (int, error) {
	dead := newLivenessProber()
	return s.sweep(stale{isStale: func(r ownerRecord) bool { return dead.probe(r) == record.Dead }, tiedOnly: true})
}

// roomMaker makes room in full sets for one ADD.
type roomMaker struct {
	store *Store
	dead  *livenessProber
	// living are the owners that were alive at the last look; looked says whether there was one.
	living []ownerRecord
	looked bool
}

// make releases the leases of all owners who are proved dead, and returns how many owners
// these were; another process may have done so. If the set is full even then, it waits, without
// the lock, for holders whose namespaces are about to end. The error has code 101 if there are none.
func (m *roomMaker) make(full Set) (swept int, err error) {
	if m.looked {
		if ended, err := m.dead.prober.AwaitAny(m.holders(full)); err != nil || !ended {
			return 0, m.store.full(full)
		}
	}
	m.looked, m.living = true, nil
	return m.store.sweep(stale{tiedOnly: true, isStale: func(r ownerRecord) bool {
		life := m.dead.probe(r)
		if life == record.Alive {
			m.living = append(m.living, r)
		}
		return life == record.Dead
	}})
}

// holders are the stamps of the living who have an address of the set.
func (m *roomMaker) holders(set Set) []record.Stamp {
	var stamps []record.Stamp
	for _, r := range m.living {
		if slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool { _, ok := set.rangeOf(a); return ok }) {
			stamps = append(stamps, r.Stamp)
		}
	}
	return stamps
}

// full is the error for a set without a free address.
func (s *Store) full(set Set) error {
	use, err := s.usage([]Set{set})
	if err != nil {
		return err
	}
	return cni.ExhaustedErrorf("%s", s.exhausted(use))
}

// stale says of which records a sweep releases the leases.
type stale struct {
	isStale func(ownerRecord) bool
	// kept are the names of records that are not stale, and need not be read.
	kept map[string]bool
	// tiedOnly skips records of which somebody else has written a lease since.
	tiedOnly bool
}

// sweep releases the leases of all stale records, and returns how many records these were. It
// decides without the lock, and then takes the lock for one batch at a time. It skips a record
// that has changed meanwhile.
func (s *Store) sweep(which stale) (swept int, err error) {
	records, err := s.records(which.kept)
	if err != nil {
		return 0, ioError(err)
	}
	var batch []ownerRecord
	var failed []error
	flush := func() {
		n, err := s.sweepBatch(batch, which.tiedOnly)
		swept, failed, batch = swept+n, append(failed, err), nil
	}
	for _, r := range records {
		if which.isStale(r) {
			batch = append(batch, r)
		}
		if len(batch) == 64 {
			flush()
		}
	}
	if len(batch) > 0 {
		flush()
	}
	return swept, ioError(errors.Join(failed...))
}

func (s *Store) sweepBatch(batch []ownerRecord, tiedOnly bool) (swept int, err error) {
	l, err := s.lock(change)
	if errors.Is(err, errNoNetwork) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer l.unlock()
	defer l.saveIndex()
	var failed []error
	for _, r := range batch {
		now, ok, err := l.lookup(r.owner(s.network))
		if err == nil && ok && now.equal(r) {
			ok, err = l.tied(r)
			if err == nil && (ok || !tiedOnly) {
				err = l.release(r)
				swept++
			}
		}
		failed = append(failed, err)
	}
	return swept, errors.Join(failed...)
}

// records reads all records except those with a kept name. It holds the lock only while it
// brings the index up to date.
func (s *Store) records(kept map[string]bool) ([]ownerRecord, error) {
	for attempt := 0; ; attempt++ {
		l, err := s.lock(change)
		if errors.Is(err, errNoNetwork) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if attempt > 0 && l.owners == nil {
			err = l.rebuild()
		}
		if err != nil || l.owners != nil {
			l.unlock()
			return slices.Collect(maps.Values(l.owners)), err
		}
		own := l.own
		l.own.fd = -1 // so that unlock does not close it
		l.unlock()
		all, damaged, err := readRecords(own, s.network, kept)
		own.close()
		if err != nil || len(damaged) == 0 {
			return all, err
		}
		// somebody is writing a record, or was killed while writing it; under the lock, only
		// the latter is possible, and the index is rebuilt
	}
}

// exhausted is the message for a set without a free address. It begins like host-local's,
// since alerts look for that.
func (s *Store) exhausted(use []Use) string {
	var ranges, counts []string
	for _, u := range use {
		ranges = append(ranges, u.Range.First.String()+"-"+u.Range.Last.String())
		counts = append(counts, fmt.Sprintf("%d of %d in %s", u.Used, u.Size, u.Range.Subnet))
	}
	return fmt.Sprintf("no IP addresses available in range set: %s; "+
		"network %s: all addresses are leased, %s (a gateway is never leased), and no holder is proved dead; "+
		"enlarge the range, or delete attachments: grep . %s/[0-9a-f]* shows who has which (GC releases those that the runtime no longer knows)",
		strings.Join(ranges, ","), s.network, strings.Join(counts, ", "), filepath.Join(s.dataDir, s.network))
}
