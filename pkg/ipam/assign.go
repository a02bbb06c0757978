package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Want is what an ADD asks for.
type Want struct {
	Owner cni.Owner
	NetNS string // the path of the container's namespace
	// Sets are the range sets; the owner gets one address of each.
	Sets []Set
	// Requested has, at the index of its set, a requested address; the zero value, or a
	// shorter list, asks for any.
	Requested []netip.Addr
	// Executed is set if another plugin executes this ADD, so that it can undo it only by a
	// DEL.
	Executed *Executed
}

// requested is the address requested of the set with that number.
func (w Want) requested(set int) netip.Addr {
	if set < len(w.Requested) {
		return w.Requested[set]
	}
	return netip.Addr{}
}

// fullError says that a set has no free address, according to the index.
type fullError struct{ set int }

func (e fullError) Error() string { return fmt.Sprintf("range set %d is full", e.set) }

// Grant is what an ADD got.
type Grant struct {
	Addresses []netip.Addr
	// FromDead says that leases of owners who are proved dead were released for it.
	FromDead bool
}

// Lease leases to the owner one address of every set, or none at all. An owner that already
// has leases gets them again, as far as they are in the sets, if their namespace is this one
// or is gone (but see Executed). Lease pushes its inverse to undo, which the caller runs if
// the ADD fails.
//
// Errors have code 101 if a set is full, 102 if somebody else has a requested address, 11 if
// the lock cannot be taken, 5 if the store cannot be written.
func (s *Store) Lease(w Want, undo *cni.Undo) (Grant, error) {
	ns := record.Identify(w.NetNS)
	dead := newLivenessProber()
	room := roomMaker{store: s, dead: dead}
	fromDead := false
	for range 100 { // each round proves one more owner dead or alive
		c, err := s.attempt(w, ns, dead)
		var open *needLivenessError
		var full fullError
		switch {
		case errors.As(err, &open): // whoever has what is wanted may be about to go
			gone := dead.probeEnding(open.about) == record.Dead
			fromDead = fromDead || gone && open.about.owner(s.network) != w.Owner
		case errors.As(err, &full):
			swept, err := room.make(w.Sets[full.set])
			if err != nil {
				return Grant{}, err
			}
			fromDead = fromDead || swept > 0
		case err != nil:
			return Grant{}, s.writeError(err)
		default:
			undo.Push("release the lease", func() error { return s.takeBack(c) })
			return Grant{c.record.Addresses, fromDead}, nil
		}
	}
	return Grant{}, cni.TryAgainErrorf("lease an address of %s to %s: its holders keep changing; try again", s.network, w.Owner)
}

// attempt is Lease under the lock, with what dead knows so far. If it must know whether an
// owner is alive, it fails with a needLivenessError, since that is found out without the
// lock.
func (s *Store) attempt(w Want, ns record.NetNS, dead *livenessProber) (assignment, error) {
	l, err := s.lock(create)
	if err != nil {
		return assignment{}, err
	}
	defer l.unlock()
	for range 3 {
		if l.unsaved != nil {
			return assignment{}, fmt.Errorf("write the index: %w", l.unsaved)
		}
		c, err := l.lease(w, ns, dead)
		var full fullError
		doubt := errors.Is(err, errDamaged) || errors.Is(err, unix.EEXIST) || errors.As(err, &full) && l.owners == nil
		if !doubt {
			return c, err
		}
		if err := l.rebuild(); err != nil {
			return assignment{}, err
		}
	}
	return assignment{}, cni.TryAgainErrorf("lease an address of %s to %s: somebody changes %s without its lock; try again", s.network, w.Owner, l.net.path)
}

// lease chooses addresses and leases them.
func (l *lockedStore) lease(w Want, ns record.NetNS, dead *livenessProber) (assignment, error) {
	old, had, err := l.lookup(w.Owner)
	if err != nil {
		return assignment{}, err
	}
	if had {
		if err := l.mayServe(old, ns, w, dead); err != nil {
			return assignment{}, err
		}
	}
	held, err := l.held(old, w.Owner)
	if err != nil {
		return assignment{}, err
	}
	c := assignment{held: held, record: ownerRecord{
		ContainerID: w.Owner.ContainerID, IfName: w.Owner.IfName, Take: rand.Uint32(),
		Stamp: record.Stamp{NetNS: ns, Boot: l.boot, Machine: l.machine, Time: time.Now().UTC().Truncate(time.Second)},
	}}
	if w.Executed != nil {
		c.record.Caller = w.Executed.By
	}
	choice := chooser{l, held, dead}
	for i, set := range w.Sets {
		a, err := choice.choose(i, set, w.requested(i))
		if err != nil {
			return assignment{}, err
		}
		c.record.Addresses = append(c.record.Addresses, a)
	}
	if len(held) > 0 {
		c.old, c.record.Take, c.record.Again = &old, old.Take, old.Again+1
		if old.ours() {
			c.record.Time = old.Time // kept leases are tied to it
		}
	}
	return c, l.assign(c)
}

// mayServe is an error if the owner of old must not get its leases again, in the namespace
// ns.
func (l *lockedStore) mayServe(old ownerRecord, ns record.NetNS, w Want, dead *livenessProber) error {
	if !old.ours() || old.NetNS.Same(ns) { // without a stamp nothing can be proved, so the owner is believed
		return l.mayGiveAgain(old, w)
	}
	verdict, err := dead.of(old)
	if err == nil && verdict == record.Alive {
		err = cni.ConflictErrorf("%s has leases already, in the namespace %s, which is in use; delete that attachment first", w.Owner, old.NetNS.Path)
	}
	return err
}

// held are those of the record's addresses that its owner really has.
func (l *lockedStore) held(r ownerRecord, o cni.Owner) ([]netip.Addr, error) {
	var held []netip.Addr
	for _, a := range r.Addresses {
		f, ok, err := readLease(l.net, l.network, a)
		if err != nil {
			return nil, err
		}
		if ok && f.isOf(o) {
			held = append(held, a)
		}
	}
	return held, nil
}

// chooser chooses the addresses of one owner.
type chooser struct {
	*lockedStore
	held []netip.Addr // the addresses that the owner has already
	dead *livenessProber
}

// choose chooses the address of one set: the requested one, or one that the owner has
// already, or the next free one.
func (c chooser) choose(number int, set Set, requested netip.Addr) (netip.Addr, error) {
	if requested.IsValid() {
		if slices.Contains(c.held, requested) {
			return requested, nil
		}
		return requested, c.vacate(requested)
	}
	for _, a := range c.held {
		if r, ok := set.rangeOf(a); ok && r.Leasable(a) {
			return a, nil
		}
	}
	a, ok, err := set.next(readCursor(c.net, number), c.used.block)
	if err == nil && !ok {
		err = fullError{number}
	}
	return a, err
}

// vacate makes sure that a requested address is free: it releases the leases of a dead
// holder, and is an error if another one has it.
func (c chooser) vacate(a netip.Addr) error {
	f, ok, err := readLease(c.net, c.network, a)
	switch {
	case err != nil || !ok:
		return err
	case f.kind == leaseGarbage:
		return c.free(a)
	case f.kind == leaseOdd:
		return cni.ConflictErrorf("the requested address %s is taken: %s/%s exists and is no lease; remove it if nobody needs it", a, c.net.path, a)
	}
	holder, ok, err := c.lookup(f.owner)
	if err != nil {
		return err
	}
	if ok {
		verdict, err := c.dead.of(holder)
		if err != nil {
			return err
		}
		if verdict == record.Dead && f.tiedTo(holder) {
			return c.release(holder)
		}
	}
	return cni.ConflictErrorf("the requested address %s is leased to %s; request another one or delete that attachment", a, f.owner)
}

// assignment is a planned change of what an owner has.
type assignment struct {
	record ownerRecord  // the owner's record afterwards
	old    *ownerRecord // the record before, if there is one
	held   []netip.Addr // those addresses of old that the owner really has
}

// assign makes record and leases. If an address turns out to be taken, it fails with EEXIST
// and has changed nothing.
func (l *lockedStore) assign(c assignment) (err error) {
	defer l.saveIndex()
	var undo cni.Undo
	defer undo.OnError(&err)
	for _, a := range c.held {
		if slices.Contains(c.record.Addresses, a) {
			continue
		}
		if err := l.free(a); err != nil {
			return err
		}
		undo.Push("lease "+a.String()+" again", func() error { return l.take(a, *c.old) })
	}
	undo.Push("restore the record", func() error { return l.restore(c) })
	if err := l.writeRecord(c.record); err != nil {
		return err
	}
	for i, a := range c.record.Addresses {
		if slices.Contains(c.held, a) {
			if err := l.net.setTime(a.String(), c.record.Time.Unix()); err != nil {
				return err
			}
			continue
		}
		if err := l.take(a, c.record); err != nil {
			return err
		}
		undo.Push("release "+a.String(), func() error { return l.free(a) })
		l.moveCursor(i, a)
	}
	return nil
}

// restore writes again the record that the owner had before.
func (l *lockedStore) restore(c assignment) error {
	if c.old == nil {
		return l.removeRecord(c.record.owner(l.network))
	}
	return l.writeRecord(*c.old)
}

// takeBack releases the addresses that an ADD has leased, but keeps those that its owner had
// before, or that another ADD of the same owner has got since.
func (s *Store) takeBack(c assignment) error {
	return s.whileLocked(change, func(l *lockedStore) error {
		now, ok, err := l.lookup(c.record.owner(s.network))
		if err != nil || !ok || now.Take != c.record.Take {
			return err // nil if a DEL has released them already
		}
		defer l.saveIndex()
		return l.undo(c, now)
	})
}

// undo is takeBack, given the owner's record as it is now.
func (l *lockedStore) undo(c assignment, now ownerRecord) error {
	switch {
	case c.old != nil && now.equal(c.record):
		held, err := l.held(now, now.owner(l.network))
		if err != nil {
			return err
		}
		return l.assign(assignment{record: *c.old, old: &now, held: held})
	case now.Again > 0: // another ADD has got them, too
		now.Again--
		return l.writeRecord(now)
	}
	return l.release(now)
}

// take creates the file of the lease, exclusively, and sets the address's bit.
func (l *lockedStore) take(a netip.Addr, r ownerRecord) error {
	name := a.String()
	if err := l.net.create(name, leaseContent(r.owner(l.network))); err != nil {
		return err
	}
	if err := errors.Join(l.net.setTime(name, r.Time.Unix()), l.used.set(a)); err != nil {
		return errors.Join(err, l.net.remove(name))
	}
	return nil
}

// moveCursor notes which address was leased last of a set. An ADD must not fail because of
// it: without the file, the round robin only starts again.
func (l *lockedStore) moveCursor(set int, a netip.Addr) {
	_ = writeCursor(l.net, set, a)
}
