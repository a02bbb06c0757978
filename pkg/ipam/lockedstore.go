package ipam

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// access says what may be done while the store is locked.
type access int

const (
	look   access = iota // write nothing at all
	change               // change and repair, but do not create the network's directory
	create               // create that, too
)

// lockedStore is the store while its lock is held, with an index that is up to date.
type lockedStore struct {
	access  access
	network string
	boot    string
	machine string
	lock    int // open file; -1 if there is no lock file
	net     dir
	own     dir // of the index; its fd is -1 if there is none
	head    header
	used    bitmap
	// owners are all records, if the index had to be rebuilt; else nil.
	owners map[cni.Owner]ownerRecord
	// unsaved is the error for which the index could not be written; else nil.
	unsaved error
}

// errNoNetwork says that the network has no directory, and so no leases.
var errNoNetwork = errors.New("no such network")

// lock takes the lock, and opens the index or rebuilds it.
func (s *Store) lock(mode access) (*lockedStore, error) {
	for {
		l := &lockedStore{access: mode, network: s.network, lock: -1, own: dir{fd: -1}}
		var err error
		if l.net, err = s.openNetwork(mode); err != nil {
			return nil, err
		}
		var stat unix.Stat_t
		if l.boot, err = record.BootID(); err == nil {
			stat, err = l.begin(s.wait)
		}
		if err == nil && stat.Nlink > 0 {
			err = l.openIndex(stat)
		}
		if err != nil {
			l.unlock()
			return nil, err
		}
		if stat.Nlink > 0 {
			s.noteIfNew(l)
			return l, nil
		}
		l.unlock() // the directory was removed while we waited: try again
	}
}

// noteIfNew notes the store's data directory if its index has just been built. An error is
// ignored: the default data directory may not be writable, and without the note only a DEL
// with an edited configuration misses the lease.
func (s *Store) noteIfNew(l *lockedStore) {
	if l.owners != nil && l.access == create {
		_ = s.note(s.home)
	}
}

// openNetwork opens the network's directory. The path of the data directory may have symbolic
// links; the network's directory itself must not be one.
func (s *Store) openNetwork(mode access) (dir, error) {
	path := filepath.Join(s.dataDir, s.network)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return dir{fd, path}, nil
	case !errors.Is(err, unix.ENOENT):
		return dir{}, &os.PathError{Op: "open", Path: path, Err: err}
	case mode != create:
		return dir{}, errNoNetwork
	}
	parent, err := makeDirs(s.dataDir)
	if err != nil {
		return dir{}, err
	}
	defer parent.close()
	return parent.makeSub(s.network)
}

// begin takes the lock and returns the directory's status.
func (l *lockedStore) begin(wait time.Duration) (unix.Stat_t, error) {
	fd, err := takeLock(l.net, wait, l.access != look)
	switch {
	case err == nil:
		l.lock = fd
	case l.access == look && errors.Is(err, unix.ENOENT): // there is no lock file, and look must not create one
	case l.access == change && l.unused():
		return unix.Stat_t{}, errNoNetwork
	default:
		return unix.Stat_t{}, err
	}
	return l.net.stat()
}

// unused says whether the directory is empty, as after an ADD that found the disk full.
func (l *lockedStore) unused() bool {
	names, err := l.net.names()
	return err == nil && len(names) == 0
}

// openIndex opens the index, and rebuilds it if it is stale.
func (l *lockedStore) openIndex(stat unix.Stat_t) error {
	own, err := l.net.sub(indexDir)
	if err != nil && l.access != look {
		own, err = l.makeIndexDir()
	}
	if err != nil {
		l.unsaved = err
		return l.rebuild()
	}
	l.own = own
	l.head = readHeader(own)
	l.used = bitmap{own: own, blocks: map[netip.Addr]*block{}}
	ownStat, err := own.stat()
	if err == nil && l.head.fits(l.boot, stat, ownStat) {
		l.machine = l.head.Machine
		return nil
	}
	return errors.Join(err, l.rebuild())
}

// makeIndexDir opens the index's directory, after creating it if need be. A file or link of
// that name is removed.
func (l *lockedStore) makeIndexDir() (dir, error) {
	own, err := l.net.makeSub(indexDir)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if err := l.net.remove(indexDir); err != nil {
			return own, err
		}
		return l.net.makeSub(indexDir)
	}
	return own, err
}

// unlock releases the lock and closes everything.
func (l *lockedStore) unlock() {
	for _, fd := range []int{l.own.fd, l.lock, l.net.fd} {
		if fd >= 0 {
			_ = unix.Close(fd) // all writes have been checked
		}
	}
}

// rebuild makes the index from the leases. If it cannot be written, that is no error but is
// noted in l.unsaved: a DEL must go on with a full disk, and the next operation rebuilds the
// index again.
func (l *lockedStore) rebuild() error {
	seen, err := takeSnapshot(l.net, l.own, l.network)
	if err != nil {
		return err
	}
	host, err := record.ThisHost()
	if err != nil {
		return err
	}
	l.machine = host.Machine
	m := seen.planRepairs(host, l.head)
	l.owners = m.owners
	l.used = bitmap{own: l.own, blocks: map[netip.Addr]*block{}, complete: true}
	for _, a := range m.taken {
		if err := l.used.set(a); err != nil {
			return err
		}
	}
	if l.access != look && l.own.fd >= 0 {
		l.unsaved = l.apply(m, seen)
	}
	return nil
}

// apply makes the repairs. It removes the header first and writes it last, so that an
// incomplete index is never used.
func (l *lockedStore) apply(m repairs, seen snapshot) error {
	if err := l.own.remove(headerName); err != nil {
		return err
	}
	for _, a := range m.dropFiles {
		if err := l.net.remove(a.String()); err != nil {
			return err
		}
	}
	for _, name := range append(m.dropRecords, seen.blocks...) {
		if err := l.own.remove(name); err != nil {
			return err
		}
	}
	for _, r := range m.write {
		if err := l.writeRecord(r); err != nil {
			return err
		}
	}
	if err := l.used.save(); err != nil {
		return err
	}
	return l.writeHeader(m)
}

// writeHeader writes the header and stamps the directories.
func (l *lockedStore) writeHeader(m repairs) error {
	stat, err := l.net.stat()
	if err != nil {
		return err
	}
	// in the past, since the kernel never sets such a time, and even, since every file
	// system can store that
	stamp := (time.Now().Unix() - 10) &^ 1
	h := header{Format: indexFormat, Boot: l.boot, Ino: stat.Ino, Stamp: stamp, Machine: m.host.Machine, Nameless: m.nameless}
	data, err := cni.MarshalOnce(h)
	if err != nil {
		return err
	}
	if err := l.own.create(headerName, append(data, '\n')); err != nil {
		return err
	}
	l.head = h
	return l.stamp()
}

// saveIndex writes the index after leases have been changed. A failure is no error: without
// the stamp the next operation rebuilds the index.
func (l *lockedStore) saveIndex() {
	if l.unsaved == nil {
		l.unsaved = l.used.save()
	}
	if l.unsaved == nil {
		l.unsaved = l.stamp()
	}
}

// stamp sets the times of both directories, which says that the index is up to date.
func (l *lockedStore) stamp() error {
	if err := l.own.setTime(".", l.head.Stamp); err != nil {
		return err
	}
	return l.net.setTime(".", l.head.Stamp)
}

// lookup finds the owner's record.
func (l *lockedStore) lookup(o cni.Owner) (ownerRecord, bool, error) {
	if l.owners == nil {
		r, ok, err := readRecord(l.own, o)
		if errors.Is(err, unix.ENOENT) {
			return ownerRecord{}, false, nil
		}
		if err != nil || ok {
			return r, ok, err
		}
		if err := l.rebuild(); err != nil { // the record is truncated
			return ownerRecord{}, false, err
		}
	}
	r, ok := l.owners[o]
	return r, ok, nil
}

// writeRecord writes an owner's record, or replaces it.
func (l *lockedStore) writeRecord(r ownerRecord) error {
	name := recordName(r.owner(l.network))
	err := l.own.create(name, r.encode())
	if errors.Is(err, unix.EEXIST) {
		err = l.own.rewrite(name, r.encode())
	}
	if err == nil && l.owners != nil {
		l.owners[r.owner(l.network)] = r
	}
	return err
}

func (l *lockedStore) removeRecord(o cni.Owner) error {
	delete(l.owners, o)
	if l.own.fd < 0 {
		return nil
	}
	return l.own.remove(recordName(o))
}

// free removes the file of an address, and clears its bit.
func (l *lockedStore) free(a netip.Addr) error {
	if err := l.net.remove(a.String()); err != nil {
		return err
	}
	err := l.used.clear(a)
	if errors.Is(err, errDamaged) {
		return l.rebuild()
	}
	return err
}

// release frees all addresses that the record's owner has, and removes the record. The caller
// saves the index.
func (l *lockedStore) release(r ownerRecord) error {
	var failed []error
	o := r.owner(l.network)
	rewritten := false
	for _, a := range r.Addresses {
		f, ok, err := readLease(l.net, l.network, a)
		switch {
		case err != nil || !ok:
		case f.isOf(o) || f.kind == leaseGarbage:
			err = l.free(a)
		default:
			rewritten = true
		}
		failed = append(failed, err)
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	err := l.removeRecord(o)
	if err == nil && rewritten { // by another owner, in place, so that the directory's time does not show it
		err = l.rebuild()
	}
	return err
}

// tied says whether all leases of the record's owner were written together with the record,
// so that they are dead if the record is.
func (l *lockedStore) tied(r ownerRecord) (bool, error) {
	for _, a := range r.Addresses {
		f, ok, err := readLease(l.net, l.network, a)
		if err != nil {
			return false, err
		}
		if ok && f.owner == r.owner(l.network) && !f.tiedTo(r) {
			return false, nil
		}
	}
	return true, nil
}
