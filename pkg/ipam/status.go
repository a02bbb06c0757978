package ipam

import (
	"errors"
	"path/filepath"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// Available is an error of code 50 unless every set has a free address, or one whose owner is
// proved dead. It writes nothing.
func (s *Store) Available(sets []Set) error {
	full, err := s.firstFull(sets, false)
	if err == nil && full >= 0 {
		full, err = s.firstFull(sets, true)
	}
	if err != nil || full < 0 {
		return ioError(err)
	}
	use, err := s.usage(sets[full : full+1])
	if err != nil {
		return err
	}
	for _, u := range use {
		if u.Dead > 0 {
			return nil
		}
	}
	return cni.UnavailableErrorf("%s", s.exhausted(use))
}

// Writable is an error of code 50 unless the network's directory, or the one that it would be
// created in, can be written and has room.
func (s *Store) Writable() error {
	if err := rawfile.CheckRoom(filepath.Join(s.dataDir, s.network)); err != nil {
		return cni.UnavailableErrorf("ipam.dataDir: leases: %w; make it writable, with room, or name another directory", err)
	}
	return nil
}

// firstFull is the index of the first set without a free address, or -1. It asks the index,
// or reads the leases themselves if sure is true.
func (s *Store) firstFull(sets []Set, sure bool) (int, error) {
	l, err := s.lock(look)
	if errors.Is(err, errNoNetwork) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	defer l.unlock()
	if sure && l.owners == nil {
		if err := l.rebuild(); err != nil {
			return -1, err
		}
	}
	for i, set := range sets {
		_, ok, err := set.next(readCursor(l.net, i), l.used.block)
		if errors.Is(err, errDamaged) && l.owners == nil {
			ok = false // so that the caller asks again with sure
			err = nil
		}
		if err != nil || !ok {
			return i, err
		}
	}
	return -1, nil
}
