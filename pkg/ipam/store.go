package ipam

import (
	"errors"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Store is the leases of one network. Any number of processes may use it, ours and
// host-local's; each operation takes the network's lock.
//
// What a kill after each step leaves, and how that is repaired. "Stale" means that the
// directory's time is not the index's stamp, so that the next operation of any kind rebuilds
// the index from the leases (see index.go, repair.go).
//
//	ADD      addresses removed that a repeated ADD no longer needs   stale
//	         record written                     a record without leases: DEL, GC and a repeated ADD find it
//	         lease created, still empty         stale; an empty lease is garbage
//	         lease written                      stale; the record has the address, and the lease names its owner
//	         lease's time set                   stale; without it the lease counts as host-local's: nothing
//	                                            proves it dead, but DEL and GC know its owner
//	         cursor, blocks written             stale
//	         directories stamped                done
//	DEL      leases removed                     stale; the rebuild removes the record without leases
//	         record removed, blocks written     stale
//	         directories stamped                done
//	rebuild  header removed                     no header: stale
//	         garbage, records, blocks           no header: stale
//	         header written                     stale until stamped
//
// Nothing is synced to the disk: after a power loss the boot id is another one, and all
// leases that we wrote are dead.
type Store struct {
	dataDir string
	network string
	wait    time.Duration
	// home is the default data directory, which has the notes of the network's other data
	// directories; "" for none.
	home string
}

// NewStore is the store of a network in one data directory alone; StoreOf is one that also
// knows the others. wait bounds the wait for the lock. It reads and creates nothing yet.
func NewStore(dataDir, network string, wait time.Duration) *Store {
	return &Store{dataDir: filepath.Clean(dataDir), network: network, wait: wait}
}

// Release releases all addresses that the owner has. It is no error if it has none.
func (s *Store) Release(o cni.Owner) error {
	return s.whileLocked(change, func(l *lockedStore) error {
		r, ok, err := l.find(o)
		if err != nil || !ok {
			return err
		}
		defer l.saveIndex()
		return l.release(r)
	})
}

// whileLocked calls do under the network's lock, unless the network has no directory and so
// no leases. Errors have code 11 if the lock cannot be taken, else 5.
func (s *Store) whileLocked(mode access, do func(*lockedStore) error) error {
	l, err := s.lock(mode)
	if errors.Is(err, errNoNetwork) {
		return nil
	}
	if err == nil {
		defer l.unlock()
		err = do(l)
	}
	return ioError(err)
}

// find is lookup or, if there is no such record, that of the container without interface name
// (host-local before 0.8).
func (l *lockedStore) find(o cni.Owner) (ownerRecord, bool, error) {
	r, ok, err := l.lookup(o)
	nameless := l.head.Nameless || l.owners != nil
	if ok || err != nil || !nameless {
		return r, ok, err
	}
	o.IfName = ""
	return l.lookup(o)
}

// Held are the addresses that the owner has.
func (s *Store) Held(o cni.Owner) (held []netip.Addr, err error) {
	err = s.whileLocked(look, func(l *lockedStore) error {
		r, ok, err := l.find(o)
		if err == nil && ok {
			held, err = l.held(r, r.owner(s.network))
		}
		return err
	})
	return held, err
}

// writeError adds, if leases cannot be written, the key of the configuration that names
// another directory.
func (s *Store) writeError(err error) error {
	for _, refusal := range []error{unix.EROFS, unix.EACCES, unix.EPERM, unix.ENOTDIR, unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, refusal) {
			return cni.IOErrorf("ipam.dataDir: leases cannot be written below %s: %w; make it writable, or name another directory", s.dataDir, err)
		}
	}
	return ioError(err)
}

// ioError gives code 5 to an error without a code.
func ioError(err error) error {
	var coded *cni.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return cni.IOErrorf("leases: %w", err)
}
