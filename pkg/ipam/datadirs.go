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

// When an attachment is deleted, its network's configuration may name another data directory
// or another IPAM plugin than at its ADD. So that DEL finds the leases nevertheless, each data
// directory other than the default one is noted in the default one, once for each network:
//
//	/var/lib/cni/networks/.trestle/<network>/<hash of the directory> -> the directory
//
// These notes outlive a reboot, as leases do. They are written when an index is built, not
// for each lease, so that they cost an ADD nothing.

// notes is the directory of a network's notes.
func notes(home, network string) string { return filepath.Join(home, indexDir, network) }

// note notes the store's data directory, unless it is home, the default one.
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

// elsewhere are the stores of the network, other than s, that have an index of ours; others
// belong to host-local alone, and are never touched. It removes notes of directories that are
// gone.
func (s *Store) elsewhere() []*Store {
	var found []*Store
	if s.dataDir != s.home && s.hasIndex(s.home) == nil {
		found = append(found, s.in(s.home))
	}
	dir := notes(s.home, s.network)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return found // no notes, as on most hosts
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		dataDir, err := os.Readlink(path)
		if err != nil || dataDir == s.dataDir {
			continue
		}
		err = s.hasIndex(dataDir)
		if err == nil {
			found = append(found, s.in(dataDir))
		}
		if errors.Is(err, unix.ENOENT) {
			_ = errors.Join(os.Remove(path), os.Remove(dir)) // dir only if it is empty; neither does harm if it stays
		}
	}
	return found
}

// IsAlive says whether the owner has a lease and its container is proved to be alive. It looks
// in all stores of the network that are known without a configuration. It takes no lock: if a
// record is just being written, its ADD is not over, and nobody asks about that attachment.
func IsAlive(o cni.Owner) (bool, error) {
	for _, store := range Former(o.Network).elsewhere() {
		own, err := openDir(filepath.Join(store.dataDir, o.Network, indexDir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, ioError(err)
		}
		r, ok, err := readRecord(own, o)
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

// hasIndex is an error if there is no index of the network in that data directory.
func (s *Store) hasIndex(dataDir string) error {
	return unix.Access(filepath.Join(dataDir, s.network, indexDir), unix.F_OK)
}

// in is the store of the same network in another data directory.
func (s *Store) in(dataDir string) *Store {
	other := *s
	other.dataDir = dataDir
	return &other
}

// ReleaseElsewhere releases what the owner has in the network's other data directories. It
// takes one or two system calls if there are none, and locks only a store in which the owner
// has a record.
func (s *Store) ReleaseElsewhere(o cni.Owner) error {
	var failed []error
	for _, other := range s.elsewhere() {
		if unix.Access(filepath.Join(other.dataDir, s.network, indexDir, recordName(o)), unix.F_OK) == nil {
			failed = append(failed, other.Release(o))
		}
	}
	return errors.Join(failed...)
}

// ReclaimElsewhere releases the leases of the dead in the network's other data directories.
// GC's list does not count there, since another runtime may have a network of that name.
func (s *Store) ReclaimElsewhere() error {
	var failed []error
	for _, other := range s.elsewhere() {
		_, err := other.reclaimDead()
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
