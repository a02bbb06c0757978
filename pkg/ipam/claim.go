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
	// Sets give one address each.
	Sets []Set
	// Requested is the address that is wanted of the set at the same place; the
	// zero value, or a shorter list, asks for any.
	Requested []netip.Addr
	// Executed is set where the ADD is another process's, which cannot take back what
	// this call gave and nothing else.
	Executed *Executed
}

// requested is the address wanted of the set with that number.
func (w Want) requested(set int) netip.Addr {
	if set < len(w.Requested) {
		return w.Requested[set]
	}
	return netip.Addr{}
}

// fullError says that a set has no address left, as far as the index knows.
type fullError struct{ set int }

func (e fullError) Error() string { return fmt.Sprintf("range set %d is full", e.set) }

// Grant is what an ADD was given.
type Grant struct {
	Addresses []netip.Addr
	// FromDead says that leases of owners who are proved dead were taken away for it.
	FromDead bool
}

// Lease gives the owner one address of every set, or none at all. An owner that
// has leases keeps them, as far as they suit, if its earlier namespace is this
// one or is gone (but see Executed). The inverse is pushed to undo, which the caller runs
// if the ADD fails.
//
// Errors: code 101 where a set is used up, 102 where another holds what is
// wanted, 11 where the lock cannot be had, 5 where the store cannot be written.
func (s *Store) Lease(w Want, undo *cni.Undo) (Grant, error) {
	ns := record.Identify(w.NetNS)
	dead := newLivenessProber()
	reclaimed, fromDead := false, false
	for range 100 { // each round answers for one more owner
		c, err := s.attempt(w, ns, dead)
		var open *needLivenessError
		var full fullError
		switch {
		case errors.As(err, &open): // whoever has what is wanted may be about to go
			gone := dead.probeEnding(open.about) == record.Dead
			fromDead = fromDead || gone && open.about.owner(s.network) != w.Owner
		case errors.As(err, &full) && !reclaimed:
			reclaimed = true
			swept, err := s.reclaim(dead)
			if err != nil {
				return Grant{}, err
			}
			fromDead = fromDead || swept > 0
		case errors.As(err, &full):
			use, err := s.usage(w.Sets[full.set : full.set+1])
			if err != nil {
				return Grant{}, err
			}
			return Grant{}, cni.ExhaustedErrorf("%s", s.exhausted(use))
		case err != nil:
			return Grant{}, s.writeError(err)
		default:
			undo.Push("release the lease", func() error { return s.takeBack(c) })
			return Grant{c.record.Addresses, fromDead}, nil
		}
	}
	return Grant{}, cni.TryAgainErrorf("lease an address of %s to %s: its holders keep changing; try again", s.network, w.Owner)
}

// attempt is Lease with what is known of the dead so far, under the lock. It
// asks by a needLivenessError whether somebody is alive, since that is looked up
// without the lock.
func (s *Store) attempt(w Want, ns record.NetNS, dead *livenessProber) (claim, error) {
	l, err := s.lock(create)
	if err != nil {
		return claim{}, err
	}
	defer l.unlock()
	for range 3 {
		if l.unsaved != nil {
			return claim{}, fmt.Errorf("write the index: %w", l.unsaved)
		}
		c, err := l.lease(w, ns, dead)
		var full fullError
		doubt := errors.Is(err, errDamaged) || errors.Is(err, unix.EEXIST) || errors.As(err, &full) && l.owners == nil
		if !doubt {
			return c, err
		}
		if err := l.rebuild(); err != nil {
			return claim{}, err
		}
	}
	return claim{}, cni.TryAgainErrorf("lease an address of %s to %s: somebody changes %s without its lock; try again", s.network, w.Owner, l.net.path)
}

// lease chooses addresses and claims them.
func (l *locked) lease(w Want, ns record.NetNS, dead *livenessProber) (claim, error) {
	old, had, err := l.lookup(w.Owner)
	if err != nil {
		return claim{}, err
	}
	if had {
		if err := l.mayServe(old, ns, w, dead); err != nil {
			return claim{}, err
		}
	}
	held, err := l.held(old, w.Owner)
	if err != nil {
		return claim{}, err
	}
	c := claim{held: held, record: ownerRecord{
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
			return claim{}, err
		}
		c.record.Addresses = append(c.record.Addresses, a)
	}
	if len(held) > 0 {
		c.old, c.record.Take, c.record.Again = &old, old.Take, old.Again+1
		if old.ours() {
			c.record.Time = old.Time // the leases that stay are tied to it
		}
	}
	return c, l.claim(c)
}

// mayServe says whether the owner of old may be given its leases again, now in
// the namespace ns.
func (l *locked) mayServe(old ownerRecord, ns record.NetNS, w Want, dead *livenessProber) error {
	if !old.ours() || old.NetNS.Same(ns) { // of whom nothing is known, the owner's word holds
		return l.mayGiveAgain(old, w)
	}
	verdict, err := dead.of(old)
	if err == nil && verdict == record.Alive {
		err = cni.ConflictErrorf("%s has leases already, in the namespace %s, which is in use; delete that attachment first", w.Owner, old.NetNS.Path)
	}
	return err
}

// held is which of the record's addresses its owner really has.
func (l *locked) held(r ownerRecord, o cni.Owner) ([]netip.Addr, error) {
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
	*locked
	held []netip.Addr // those that the owner has
	dead *livenessProber
}

// choose is the address of one set: the requested one, one that is held already,
// or the next free one.
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

// vacate makes sure that nobody has a requested address, or that it was a dead
// one's.
func (c chooser) vacate(a netip.Addr) error {
	f, ok, err := readLease(c.net, c.network, a)
	switch {
	case err != nil || !ok:
		return err
	case f.kind == leaseGarbage:
		return c.free(a)
	case f.kind == leaseOdd:
		return cni.ConflictErrorf("the requested address %s is taken: %s/%s is there and is no lease; remove it if nobody needs it", a, c.net.path, a)
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

// claim is what an owner shall have.
type claim struct {
	record ownerRecord
	old    *ownerRecord // what it had, if anything
	held   []netip.Addr // which of that it really has
}

// claim makes the leases. It fails with EEXIST where an address turns out to be
// taken, and then nothing has changed.
func (l *locked) claim(c claim) (err error) {
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

// restore puts back the record that the owner had.
func (l *locked) restore(c claim) error {
	if c.old == nil {
		return l.removeRecord(c.record.owner(l.network))
	}
	return l.writeRecord(*c.old)
}

// takeBack releases what an ADD took, and nothing else: addresses that its owner had
// before, or that another ADD for the same owner has been given since, stay.
func (s *Store) takeBack(c claim) error {
	return s.whileLocked(change, func(l *locked) error {
		now, ok, err := l.lookup(c.record.owner(s.network))
		if err != nil || !ok || now.Take != c.record.Take {
			return err // without one: a DEL came first
		}
		defer l.saveIndex()
		return l.giveBack(c, now)
	})
}

// giveBack is takeBack with the record that there is now.
func (l *locked) giveBack(c claim, now ownerRecord) error {
	switch {
	case c.old != nil && now.equal(c.record):
		held, err := l.held(now, now.owner(l.network))
		if err != nil {
			return err
		}
		return l.claim(claim{record: *c.old, old: &now, held: held})
	case now.Again > 0: // another is left that was given them
		now.Again--
		return l.writeRecord(now)
	}
	return l.release(now)
}

// take creates the file that is the lease.
func (l *locked) take(a netip.Addr, r ownerRecord) error {
	name := a.String()
	if err := l.net.create(name, leaseContent(r.owner(l.network))); err != nil {
		return err
	}
	if err := errors.Join(l.net.setTime(name, r.Time.Unix()), l.used.set(a)); err != nil {
		return errors.Join(err, l.net.remove(name))
	}
	return nil
}

// moveCursor is told which address a set gave last. Without the cursor's file
// the round only begins again, and so that is not worth a failed ADD.
func (l *locked) moveCursor(set int, a netip.Addr) {
	_ = writeCursor(l.net, set, a) // see above
}
