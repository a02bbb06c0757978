// Package flock is a file lock with a bounded wait: who waits too long gives up
// and is told who holds it.
//
// Create and Open take the lock of a path, FD that of what is open already; Unlock gives
// it up, and so does the end of the process. To debug: /proc/locks has the holder's pid.
package flock

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Mode says whom a lock keeps out.
type Mode int

// Shared locks keep out exclusive ones only.
const (
	Shared    Mode = unix.LOCK_SH
	Exclusive Mode = unix.LOCK_EX
)

// DefaultWait is how long a lock is waited for where no configuration says.
const DefaultWait = 10 * time.Second

// Lock is a lock held (flock(2)): Unlock, or the end of the process, frees it.
type Lock struct{ fd int }

// Open locks what is at path: a directory, a file, a namespace. After wait it
// gives up with code 11 and names the processes that hold it.
func Open(path string, mode Mode, wait time.Duration) (*Lock, error) {
	return open(path, mode, wait, func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) })
}

// Create is Open for a file that is made if missing (0600), in directories that
// are made if missing (0700), and not followed if it is a symbolic link: nobody but
// root can open it, and so nobody else can lock it.
func Create(path string, mode Mode, wait time.Duration) (*Lock, error) {
	return open(path, mode, wait, func() (int, error) {
		const flags = unix.O_RDWR | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_CLOEXEC
		for {
			fd, err := unix.Open(path, flags, 0o600)
			if !errors.Is(err, unix.ENOENT) {
				return fd, err
			}
			// missing, or taken away again since we made them
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return -1, err
			}
		}
	})
}

func open(path string, mode Mode, wait time.Duration, openFile func() (int, error)) (*Lock, error) {
	for {
		fd, err := openFile()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, cni.IOErrorf("open lock: %w", &fs.PathError{Op: "open", Path: path, Err: err})
		}
		l := &Lock{fd}
		if err := FD(fd, path, mode, wait); err != nil {
			return nil, errors.Join(err, l.Unlock())
		}
		if l.isAt(path) {
			return l, nil
		}
		// its last holder has removed it while we waited, and others lock a new one
		if err := l.Unlock(); err != nil {
			return nil, err
		}
	}
}

func (l *Lock) isAt(path string) bool {
	var there, held unix.Stat_t
	if unix.Stat(path, &there) != nil || unix.Fstat(l.fd, &held) != nil {
		return false
	}
	return there.Dev == held.Dev && there.Ino == held.Ino
}

// FD locks what the descriptor has open; name is for messages. The lock goes
// with the last descriptor of the same open file.
func FD(fd int, name string, mode Mode, wait time.Duration) error {
	err := flock(fd, int(mode)|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = flockWithin(fd, mode, wait)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return cni.TryAgainErrorf("lock %s: held by %s for longer than %s; try again", name, holder(fd), wait)
	}
	if err != nil {
		return cni.IOErrorf("lock %s: %w", name, err)
	}
	return nil
}

// flock is flock(2), repeated if a signal interrupts it.
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
// the lock is gone.
func flockWithin(fd int, mode Mode, wait time.Duration) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- errors.Join(flock(own, int(mode)), unix.Close(own)) }()
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

// Unlock frees the lock.
func (l *Lock) Unlock() error {
	if err := unix.Close(l.fd); err != nil {
		return cni.IOErrorf("close lock: %w", err)
	}
	return nil
}
