package bridge

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// stateDir has the lock of bridges, and what says which network gave a bridge an
// address. Root alone may look into it: whoever may open a file may lock it.
const (
	stateDir = "/run/trestle/bridge"
	lockFile = stateDir + "/lock"
)

// lock keeps bridges from being deleted (flock.Shared) or used (flock.Exclusive) by
// others. An ADD holds it until its port is on the bridge; from then on the port
// keeps the bridge. The file stays, so that all lock the same one.
func lock(mode flock.Mode) (unlock func(), err error) {
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOFOLLOW
	fd, err := unix.Open(lockFile, flags, 0o600)
	if errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(stateDir, 0o700); err != nil {
			return nil, cni.IOErrorf("lock of bridges: %w", err)
		}
		fd, err = unix.Open(lockFile, flags, 0o600)
	}
	if err != nil {
		return nil, cni.IOErrorf("lock of bridges: open %s: %w", lockFile, err)
	}
	unlock = func() { _ = unix.Close(fd) } // closed is free
	if err := flock.FD(fd, lockFile, mode, flock.DefaultWait); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// whileIdle calls fn while no ADD is between its bridge and its port.
func whileIdle(fn func() error) error {
	unlock, err := lock(flock.Exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}
