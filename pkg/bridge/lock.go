package bridge

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// stateDir has the lock of bridges and the records of gateway addresses. Only root may look
// into it, since whoever can open a file can lock it.
const (
	stateDir = "/run/trestle/bridge"
	lockFile = stateDir + "/lock"
)

// lock takes the lock of bridges. flock.Shared keeps others from deleting a bridge; an ADD
// holds it until its port is on the bridge, which keeps it from then on. flock.Exclusive
// keeps others from using one. The file is never removed, so that all lock the same one.
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
	unlock = func() { _ = unix.Close(fd) } // which releases the lock
	if err := flock.FD(fd, lockFile, mode, flock.DefaultWait); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// whileIdle calls fn under the exclusive lock, while no ADD is between finding its bridge
// and putting its port on it.
func whileIdle(fn func() error) error {
	unlock, err := lock(flock.Exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}
