package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Store is the leases of one network. Any number of processes may use it, ours
// and host-local's; each operation takes the network's lock for itself.
//
// What a kill leaves behind, step by step, and who clears it away. "Stale" means
// that the directory's time is no longer the index's stamp, whereupon the next
// operation of any kind builds the index anew from the leases (survey.go).
//
//	ADD   addresses given up by a repeated ADD are unlinked   stale
//	      record written                        a record without leases: DEL, GC and a repeated ADD find it
//	      lease created, still empty            stale; empty is garbage
//	      lease written                         stale; the record names it, and so does the lease its owner
//	      lease's time set                      stale; without it the lease counts as host-local's: nothing
//	                                            proves it dead, but DEL and GC know its owner
//	      cursor, blocks written                stale
//	      directory stamped                     done
//	DEL   leases unlinked                       stale; the record, without leases, goes then too
//	      record removed, blocks written        stale
//	      directory stamped                     done
//	anew  header removed                        no header: stale
//	      garbage, records, blocks              no header: stale
//	      header written                        stale until stamped
//
// Nothing is synced to the disk: after a power loss the boot id is another one,
// and all leases of ours are void.
type Store struct {
	dataDir string
	network string
	wait    time.Duration
}

// NewStore is the store of a network whose lock is waited for no longer than
// wait. Nothing is opened or made yet.
func NewStore(dataDir, network string, wait time.Duration) *Store {
	return &Store{dataDir: dataDir, network: network, wait: wait}
}

// Want is what an ADD asks for.
type Want struct {
	Owner cni.Owner
	NetNS string // the path of the container's namespace
	// Sets give one address each.
	Sets []Set
	// Requested is the address that is wanted of the set at the same place; the
	// zero value asks for any.
	Requested []netip.Addr
}

// errFull says that a set has no address left, as far as the index knows.
type errFull struct{ set int }

func (e errFull) Error() string { return fmt.Sprintf("range set %d is full", e.set) }

// Lease gives the owner one address of every set, or none at all. An owner that
// has leases keeps them, as far as they suit, if its earlier namespace is this
// one or is gone.
//
// Errors: code 101 where a set is used up, 102 where another holds what is
// wanted, 11 where the lock cannot be had, 5 where the store cannot be written.
func (s *Store) Lease(w Want) ([]netip.Addr, error) {
	ns := identifyNetNS(w.NetNS)
	dead, err := newVerdicts()
	if err != nil {
		return nil, ioError(err)
	}
	reclaimed := false
	for range 100 { // each turn settles one more open question
		addresses, err := s.attempt(w, ns, dead)
		var open *openQuestion
		var full errFull
		switch {
		case errors.As(err, &open):
			dead.settle(open.about)
		case errors.As(err, &full) && !reclaimed:
			reclaimed = true
			if _, err := s.reclaim(dead); err != nil {
				return nil, err
			}
		case errors.As(err, &full):
			return nil, s.exhausted(w.Sets[full.set], full.set, cni.ExhaustedErrorf)
		default:
			return addresses, ioError(err)
		}
	}
	return nil, cni.TryAgainErrorf("lease an address of %s to %s: its holders keep changing; try again", s.network, w.Owner)
}

// ioError gives an error without a code that of input and output.
func ioError(err error) error {
	var coded *cni.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return cni.IOErrorf("leases: %w", err)
}

// attempt is Lease with what is known of the dead so far, under the lock. It
// asks by an openQuestion whether somebody is alive, since that is looked up
// without the lock.
func (s *Store) attempt(w Want, ns netNS, dead *verdicts) ([]netip.Addr, error) {
	l, err := s.lock(create)
	if err != nil {
		return nil, err
	}
	defer l.unlock()
	for range 3 {
		if l.unsaved != nil {
			return nil, fmt.Errorf("write the index: %w", l.unsaved)
		}
		addresses, err := l.lease(w, ns, dead)
		var full errFull
		doubt := errors.Is(err, errTorn) || errors.Is(err, unix.EEXIST) || errors.As(err, &full) && l.owners == nil
		if !doubt {
			return addresses, err
		}
		if err := l.rebuild(); err != nil {
			return nil, err
		}
	}
	return nil, cni.TryAgainErrorf("lease an address of %s to %s: somebody changes %s without its lock; try again", s.network, w.Owner, l.net.path)
}

// lease chooses addresses and claims them.
func (l *locked) lease(w Want, ns netNS, dead *verdicts) ([]netip.Addr, error) {
	old, had, err := l.lookup(w.Owner)
	if err != nil {
		return nil, err
	}
	if had {
		if err := old.mayServe(ns, w.Owner, dead); err != nil {
			return nil, err
		}
	}
	held, err := l.held(old, w.Owner)
	if err != nil {
		return nil, err
	}
	var c claim
	for i, set := range w.Sets {
		a, err := l.choose(set, i, w.Requested[i], held, dead)
		if err != nil {
			return nil, err
		}
		c.addresses = append(c.addresses, a)
	}
	c.record = record{
		ContainerID: w.Owner.ContainerID, IfName: w.Owner.IfName, Addresses: c.addresses,
		NetNS: ns, Boot: l.boot, Time: time.Now().UTC().Truncate(time.Second),
	}
	c.held = held
	if had {
		c.old = &old
	}
	return c.addresses, l.claim(c)
}

// mayServe says whether the owner of old may be given its leases again, now in
// the namespace ns.
func (old record) mayServe(ns netNS, o cni.Owner, dead *verdicts) error {
	if !old.ours() || old.NetNS.same(ns) {
		return nil // of whom nothing is known, the owner's word holds
	}
	verdict, err := dead.of(old)
	if err == nil && verdict == lifeAlive {
		err = cni.ConflictErrorf("%s has leases already, in the namespace %s, which is in use; delete that attachment first", o, old.NetNS.Path)
	}
	return err
}

// held is which of the record's addresses its owner really has.
func (l *locked) held(r record, o cni.Owner) ([]netip.Addr, error) {
	var held []netip.Addr
	for _, a := range r.Addresses {
		f, ok, err := readLease(l.net, l.network, a)
		if err != nil {
			return nil, err
		}
		if ok && f.owner == o {
			held = append(held, a)
		}
	}
	return held, nil
}

// choose is the address of one set: the requested one, one that is held already,
// or the next free one.
func (l *locked) choose(set Set, number int, requested netip.Addr, held []netip.Addr, dead *verdicts) (netip.Addr, error) {
	if requested.IsValid() {
		if slices.Contains(held, requested) {
			return requested, nil
		}
		return requested, l.vacate(requested, dead)
	}
	for _, a := range held {
		if r, ok := set.rangeOf(a); ok && r.leasable(a) {
			return a, nil
		}
	}
	a, ok, err := set.next(readCursor(l.net, number), l.used.block)
	if err == nil && !ok {
		err = errFull{number}
	}
	return a, err
}

// vacate makes sure that nobody has a requested address, or that it was a dead
// one's.
func (l *locked) vacate(a netip.Addr, dead *verdicts) error {
	f, ok, err := readLease(l.net, l.network, a)
	switch {
	case err != nil || !ok:
		return err
	case f.kind == leaseGarbage:
		return l.free(a)
	case f.kind == leaseOdd:
		return cni.ConflictErrorf("the requested address %s is taken: %s/%s is there and is no lease; remove it if nobody needs it", a, l.net.path, a)
	}
	holder, ok, err := l.lookup(f.owner)
	if err != nil {
		return err
	}
	if ok {
		verdict, err := dead.of(holder)
		if err != nil {
			return err
		}
		if verdict == lifeDead && f.tiedTo(holder) {
			return l.release(holder)
		}
	}
	return cni.ConflictErrorf("the requested address %s is leased to %s; request another one or delete that attachment", a, f.owner)
}

// claim is the addresses that an owner shall have.
type claim struct {
	record    record
	addresses []netip.Addr
	held      []netip.Addr // those that it has
	old       *record
}

// claim makes the leases. It fails with EEXIST where an address turns out to be
// taken, and then nothing has changed.
func (l *locked) claim(c claim) (err error) {
	if c.old != nil && c.old.ours() {
		c.record.Time = c.old.Time // the leases that stay are tied to it
	}
	if c.old != nil && c.old.equal(c.record) && slices.Equal(c.held, c.addresses) {
		return nil
	}
	defer l.settle()
	for _, a := range c.held {
		if !slices.Contains(c.addresses, a) {
			if err := l.free(a); err != nil {
				return err
			}
		}
	}
	if err := l.writeRecord(c.record); err != nil {
		return err
	}
	var undo cni.Undo
	defer undo.OnError(&err)
	undo.Push("restore the record", func() error { return l.restore(c) })
	for i, a := range c.addresses {
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

// take creates the file that is the lease.
func (l *locked) take(a netip.Addr, r record) error {
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
// the round only begins anew, and so that is not worth a failed ADD.
func (l *locked) moveCursor(set int, a netip.Addr) {
	_ = writeCursor(l.net, set, a) // see above
}

// Release gives back all that the owner has. An owner without leases is no error.
func (s *Store) Release(o cni.Owner) error {
	l, err := s.lock(change)
	if errors.Is(err, errNoNetwork) {
		return nil
	}
	if err != nil {
		return ioError(err)
	}
	defer l.unlock()
	r, ok, err := l.find(o)
	if err != nil || !ok {
		return ioError(err)
	}
	defer l.settle()
	return ioError(l.release(r))
}

// find is lookup, and else the container's lease without interface name.
func (l *locked) find(o cni.Owner) (record, bool, error) {
	r, ok, err := l.lookup(o)
	nameless := l.head.Nameless || l.owners != nil
	if ok || err != nil || !nameless {
		return r, ok, err
	}
	o.IfName = ""
	return l.lookup(o)
}

// Held is the addresses that the owner has.
func (s *Store) Held(o cni.Owner) ([]netip.Addr, error) {
	l, err := s.lock(look)
	if errors.Is(err, errNoNetwork) {
		return nil, nil
	}
	if err != nil {
		return nil, ioError(err)
	}
	defer l.unlock()
	r, ok, err := l.find(o)
	if err != nil || !ok {
		return nil, ioError(err)
	}
	held, err := l.held(r, r.owner(s.network))
	return held, ioError(err)
}
