package ipam

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/flock"
)

// lockName is the file that host-local locks, too (flock(2)).
const lockName = "lock"

// takeLock locks d's lock file, which it creates if mayMake is true, and returns it; closing
// it releases the lock. If the lock is not free after wait, the error has code 11 and names
// the holder.
func takeLock(d dir, wait time.Duration, mayMake bool) (int, error) {
	flags := unix.O_RDONLY
	if mayMake {
		flags |= unix.O_CREAT
	}
	fd, err := d.open(lockName, flags)
	if err != nil {
		return -1, err
	}
	if err := flock.FD(fd, d.path+"/"+lockName, flock.Exclusive, wait); err != nil {
		_ = unix.Close(fd) // nothing was written
		return -1, err
	}
	return fd, nil
}
