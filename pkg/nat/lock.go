package nat

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// lockPatience is how long a call waits for others. An ADD holds the lock for
// about a millisecond; a runtime gives up on us after minutes.
const lockPatience = 20 * time.Second

// lock is held by whoever reads and changes records and kernel rules together.
type lock struct{ file *os.File }

// takeLock waits for the lock of dir, which it creates if need be. The error of a
// wait that took longer than patience has code 11 and names the holder.
func takeLock(dir string, patience time.Duration) (*lock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, cni.IOErrorf("create the directory of NAT records: %w", err)
	}
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, cni.IOErrorf("open the lock of the NAT records: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = waitForLock(file, patience)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	return &lock{file}, nil
}

// waitForLock blocks in the kernel rather than polling. A wait that is given up
// goes on in its own thread until the process ends, and lets go at once of a
// lock that it gets too late.
func waitForLock(file *os.File, patience time.Duration) error {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	got := make(chan error)
	late := make(chan struct{})
	go func() {
		defer unix.Close(fd)
		err := unix.Flock(fd, unix.LOCK_EX)
		select {
		case got <- err:
		case <-late:
			if err == nil {
				_ = unix.Flock(fd, unix.LOCK_UN) // nobody is left to hear of it
			}
		}
	}()
	select {
	case err := <-got:
		return err
	case <-time.After(patience):
		close(late)
		return cni.TryAgainErrorf("held by %s for %s; try again", holder(file), patience)
	}
}

// holder names the process that holds the lock of file, by /proc/locks
// (proc_locks(5)): "1: FLOCK  ADVISORY  WRITE 4242 00:1a:77 0 EOF".
func holder(file *os.File) string {
	const unknown = "another process"
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	inode := fmt.Sprintf(":%d", stat.Ino)
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[1] == "FLOCK" && strings.HasSuffix(fields[5], inode) {
			return processName(fields[4])
		}
	}
	return unknown
}

func processName(pid string) string {
	comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm)))
}

// release lets the next one in.
func (l *lock) release() error { return l.file.Close() }
