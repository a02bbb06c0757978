package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// lockName is the file that host-local locks with flock(2) as well.
const lockName = "lock"

// takeLock locks d's lock file, made if that is allowed, and returns it; closing
// it gives the lock up. After wait, the error has code 11 and names who holds
// the lock.
func takeLock(d dir, wait time.Duration, mayMake bool) (int, error) {
	flags := unix.O_RDONLY
	if mayMake {
		flags |= unix.O_CREAT
	}
	fd, err := d.open(lockName, flags)
	if err != nil {
		return -1, err
	}
	err = flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = flockWithin(fd, wait)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = cni.TryAgainErrorf("lock %s/%s: held by %s for longer than %s; try again, or raise ipam.lockTimeout", d.path, lockName, holder(fd), wait)
	} else if err != nil {
		err = d.failed("lock", lockName, err)
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return -1, err
	}
	return fd, nil
}

// flock is flock(2), begun anew where a signal interrupts it.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// flockWithin waits for the lock, in the kernel's queue, no longer than wait.
// The thread that waits stays behind after that, with a descriptor of its own;
// when the lock comes to it at last, it closes that, and with the last descriptor
// the lock is gone (flock(2)).
func flockWithin(fd int, wait time.Duration) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- errors.Join(flock(own, unix.LOCK_EX), unix.Close(own)) }()
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	select {
	case err := <-done:
		return err
	case <-deadline.C:
		return os.ErrDeadlineExceeded
	}
}

// holder says which process has the file locked (proc_locks(5)).
func holder(fd int) string {
	var stat unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if statErr := unix.Fstat(fd, &stat); err != nil || statErr != nil {
		return "another process"
	}
	pid := lockHolder(locks, stat.Ino)
	if pid == "" || pid == "0" { // 0: a process outside our pid namespace
		return "another process"
	}
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, bytes.TrimSpace(name))
}

// lockHolder finds the pid of who holds a flock on the inode, in lines like
// "1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF"; those who wait have "->"
// after the number. The device is not compared: on btrfs it differs from stat's.
func lockHolder(locks []byte, ino uint64) string {
	suffix := fmt.Sprintf(":%d", ino)
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[1] == "FLOCK" && strings.HasSuffix(fields[5], suffix) {
			return fields[4]
		}
	}
	return ""
}
