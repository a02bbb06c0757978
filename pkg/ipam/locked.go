package ipam

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// access says what one may do while the store is locked.
type access int

const (
	look   access = iota // write nothing at all
	change               // change and repair, but do not make what is not there
	create               // make the directory too
)

// locked is the store while its lock is held, with an index that is right.
type locked struct {
	access  access
	network string
	boot    string
	machine string
	lock    int // open file; -1 where there is none to lock
	net     dir
	own     dir // its fd is -1 where there is no index
	head    header
	used    bitmap
	// owners are all the records, where the index had to be rebuilt.
	owners map[cni.Owner]ownerRecord
	// unsaved is why the index could not be written, if so.
	unsaved error
}

// errNoNetwork says that the network has no directory, and so no leases.
var errNoNetwork = errors.New("no such network")

// lock takes the lock and finds the index, or rebuilds it.
func (s *Store) lock(mode access) (*locked, error) {
	for {
		l := &locked{access: mode, network: s.network, lock: -1, own: dir{fd: -1}}
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
		l.unlock() // the directory was removed while we waited
	}
}

// noteIfNew notes the store when its index has just been built. Without the note
// no more is lost than that a DEL with an edited configuration finds the lease: a data
// directory may well be writable where the default one is not.
func (s *Store) noteIfNew(l *locked) {
	if l.owners != nil && l.access == create {
		_ = s.note(s.home) // see above
	}
}

// openNetwork opens the network's directory. The data directory may be reached
// by links, as its owner pleases; the network's own name in it may not be one.
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

// begin takes the lock and looks at the directory.
func (l *locked) begin(wait time.Duration) (unix.Stat_t, error) {
	fd, err := takeLock(l.net, wait, l.access != look)
	switch {
	case err == nil:
		l.lock = fd
	case l.access == look && errors.Is(err, unix.ENOENT): // nothing to lock, and nothing is written
	case l.access == change && l.unused():
		return unix.Stat_t{}, errNoNetwork
	default:
		return unix.Stat_t{}, err
	}
	return l.net.stat()
}

// unused says whether the directory is empty: an ADD made it and then found the
// disk full.
func (l *locked) unused() bool {
	names, err := l.net.names()
	return err == nil && len(names) == 0
}

// openIndex opens the index and rebuilds it if it is not right.
func (l *locked) openIndex(stat unix.Stat_t) error {
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

// makeIndexDir makes the index's directory, in the place of whatever else bears
// its name.
func (l *locked) makeIndexDir() (dir, error) {
	own, err := l.net.makeSub(indexDir)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if err := l.net.remove(indexDir); err != nil {
			return own, err
		}
		return l.net.makeSub(indexDir)
	}
	return own, err
}

// unlock gives up the lock and closes everything.
func (l *locked) unlock() {
	for _, fd := range []int{l.own.fd, l.lock, l.net.fd} {
		if fd >= 0 {
			_ = unix.Close(fd) // all writes were checked where they were made
		}
	}
}

// rebuild makes the index from the leases. That the result cannot be
// written is noted in l.unsaved and is no error: a release must go on with a
// full disk, and the next of us tries again.
func (l *locked) rebuild() error {
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
	l.used = bitmap{own: l.own, blocks: map[netip.Addr]*block{}, whole: true}
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

// apply writes the repairs. The header is removed first and written last, so that a
// half-built index is never taken for a complete one.
func (l *locked) apply(m repairs, seen snapshot) error {
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

// writeHeader stamps the index as right.
func (l *locked) writeHeader(m repairs) error {
	stat, err := l.net.stat()
	if err != nil {
		return err
	}
	// The kernel never puts a past time there, and every file system can keep an
	// even number of seconds.
	stamp := (time.Now().Unix() - 10) &^ 1
	h := header{Format: indexFormat, Boot: l.boot, Ino: stat.Ino, Stamp: stamp, Machine: m.host.Machine, Nameless: m.nameless}
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := l.own.create(headerName, append(data, '\n')); err != nil {
		return err
	}
	l.head = h
	return l.stamp()
}

// saveIndex writes the index after leases have been changed. What cannot be
// written is no error: without the stamp the next of us rebuilds the index.
func (l *locked) saveIndex() {
	if l.unsaved == nil {
		l.unsaved = l.used.save()
	}
	if l.unsaved == nil {
		l.unsaved = l.stamp()
	}
}

// stamp says by the time of both directories that the index is right.
func (l *locked) stamp() error {
	if err := l.own.setTime(".", l.head.Stamp); err != nil {
		return err
	}
	return l.net.setTime(".", l.head.Stamp)
}

// lookup finds the owner's record.
func (l *locked) lookup(o cni.Owner) (ownerRecord, bool, error) {
	if l.owners == nil {
		r, sound, err := readRecord(l.own, l.network, recordName(o), make([]byte, recordMax))
		if errors.Is(err, unix.ENOENT) {
			return ownerRecord{}, false, nil
		}
		if err != nil || sound {
			return r, sound, err
		}
		if err := l.rebuild(); err != nil { // the record is truncated
			return ownerRecord{}, false, err
		}
	}
	r, ok := l.owners[o]
	return r, ok, nil
}

// writeRecord writes an owner's record, over the one that there may be.
func (l *locked) writeRecord(r ownerRecord) error {
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

func (l *locked) removeRecord(o cni.Owner) error {
	delete(l.owners, o)
	if l.own.fd < 0 {
		return nil
	}
	return l.own.remove(recordName(o))
}

// free unlinks an address's file, and its bit.
func (l *locked) free(a netip.Addr) error {
	if err := l.net.remove(a.String()); err != nil {
		return err
	}
	err := l.used.clear(a)
	if errors.Is(err, errDamaged) {
		return l.rebuild()
	}
	return err
}

// release gives back all that the record's owner holds. The caller saves the index.
func (l *locked) release(r ownerRecord) error {
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
	if err == nil && rewritten { // in place, which no time tells: another owner has no record
		err = l.rebuild()
	}
	return err
}

// tied says whether all that the record's owner holds was written together with
// the record, so that its death is theirs.
func (l *locked) tied(r ownerRecord) (bool, error) {
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
