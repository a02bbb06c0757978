package ipam

import (
	"errors"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Store is the leases of one network. Any number of processes may use it, ours
// and host-local's; each operation takes the network's lock for itself.
//
// What a kill leaves behind, step by step, and who clears it away. "Stale" means
// that the directory's time is no longer the index's stamp, whereupon the next
// operation of any kind rebuilds the index from the leases (snapshot.go).
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
	// home is the directory where other stores of the network are noted; "" for
	// none.
	home string
}

// NewStore is the store of a network whose lock is waited for no longer than
// wait. It stands alone (see StoreOf). Nothing is opened or made yet.
func NewStore(dataDir, network string, wait time.Duration) *Store {
	return &Store{dataDir: filepath.Clean(dataDir), network: network, wait: wait}
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
	defer l.saveIndex()
	return ioError(l.release(r))
}

// find is lookup, and else the container's lease without interface name.
func (l *locked) find(o cni.Owner) (ownerRecord, bool, error) {
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

// writeError says, where leases cannot be written, by which key of the configuration
// that can be changed.
func (s *Store) writeError(err error) error {
	for _, refusal := range []error{unix.EROFS, unix.EACCES, unix.EPERM, unix.ENOTDIR, unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, refusal) {
			return cni.IOErrorf("ipam.dataDir: leases cannot be written below %s: %w; make it writable, or name another directory", s.dataDir, err)
		}
	}
	return ioError(err)
}

// ioError gives an error without a code that of input and output.
func ioError(err error) error {
	var coded *cni.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return cni.IOErrorf("leases: %w", err)
}
