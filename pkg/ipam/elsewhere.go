package ipam

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// A configuration may name another data directory, or another IPAM plugin, when
// an attachment is deleted than when it was made. The default directory is known
// without it; any other one that leases are in is noted there, once for each
// network:
//
//	/var/lib/cni/networks/.trestle/<network>/<hash of the directory> -> the directory
//
// It lies beside the leases, and so outlives a reboot as they do. The note is made
// when the index is built, not for each lease, so that it costs an ADD nothing.

// notes is the directory of a network's notes.
func notes(home, network string) string { return filepath.Join(home, indexDir, network) }

// note notes the store, unless it is where everybody looks. home is the default
// data directory.
func (s *Store) note(home string) error {
	if home == "" || s.dataDir == home || !filepath.IsAbs(s.dataDir) {
		return nil
	}
	dir := notes(home, s.network)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(s.dataDir))
	err := os.Symlink(s.dataDir, filepath.Join(dir, hex.EncodeToString(sum[:8])))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// elsewhere is the stores of the network, but for s itself, in which we keep
// leases: one that is host-local's alone is never touched. A note of a directory
// that is gone goes too.
func (s *Store) elsewhere() []*Store {
	var found []*Store
	if s.dataDir != s.home && s.isKept(s.home) == nil {
		found = append(found, s.in(s.home))
	}
	dir := notes(s.home, s.network)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return found // no notes, as on most hosts; and what cannot be read leads nowhere
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		dataDir, err := os.Readlink(path)
		if err != nil || dataDir == s.dataDir {
			continue
		}
		err = s.isKept(dataDir)
		if err == nil {
			found = append(found, s.in(dataDir))
		}
		if errors.Is(err, unix.ENOENT) {
			_ = errors.Join(os.Remove(path), os.Remove(dir)) // the latter with the last note; they do no harm if they stay
		}
	}
	return found
}

// IsAlive says whether the owner has a lease, in any store of its network that is known
// without a configuration, and its container is proved to be alive. No lock is taken: a
// record that is being written is of an ADD, which is not asked about yet.
func IsAlive(o cni.Owner) (bool, error) {
	for _, store := range Former(o.Network).elsewhere() {
		own, err := openDir(filepath.Join(store.dataDir, o.Network, indexDir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, ioError(err)
		}
		r, ok, err := readRecord(own, o.Network, recordName(o), make([]byte, recordMax))
		own.close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, ioError(err)
		}
		if life, err := new(record.Prober).Life(r.Stamp); err != nil || ok && life == record.Alive {
			return err == nil, err
		}
	}
	return false, nil
}

// isKept is an error where we keep no leases of the network in that directory.
func (s *Store) isKept(dataDir string) error {
	return unix.Access(filepath.Join(dataDir, s.network, indexDir), unix.F_OK)
}

// in is the store of the same network in another directory.
func (s *Store) in(dataDir string) *Store {
	other := *s
	other.dataDir = dataDir
	return &other
}

// ReleaseElsewhere gives back what the owner has in the network's other stores. It
// costs a system call or two where there are none, and takes no lock of a store
// where the owner has nothing.
func (s *Store) ReleaseElsewhere(o cni.Owner) error {
	var failed []error
	for _, other := range s.elsewhere() {
		if unix.Access(filepath.Join(other.dataDir, s.network, indexDir, recordName(o)), unix.F_OK) == nil {
			failed = append(failed, other.Release(o))
		}
	}
	return errors.Join(failed...)
}

// ReclaimElsewhere releases the leases of the dead in the network's other stores.
// No list of who is valid counts there: another runtime may have a network of this name.
func (s *Store) ReclaimElsewhere() error {
	var failed []error
	for _, other := range s.elsewhere() {
		_, err := other.reclaimDead()
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
