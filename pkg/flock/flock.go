// Package flock locks files with a bounded wait. The error of a wait that took too long names
// the holder.
//
// Create and Open lock the file at a path, FD an open file; Unlock releases the lock, and so
// does the end of the process. To debug: /proc/locks has the holder's pid.
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

// Mode says which other locks a lock excludes.
type Mode int

// Shared locks exclude only exclusive ones; Exclusive locks exclude all others.
const (
	Shared    Mode = unix.LOCK_SH
	Exclusive Mode = unix.LOCK_EX
)

// DefaultWait bounds the wait for a lock unless a configuration says otherwise.
const DefaultWait = 10 * time.Second

// Lock is a held lock (flock(2)).
type Lock struct{ fd int }

// Open locks what is at path: a file, a directory or a namespace. If the lock is not free
// after wait, the error has code 11 and names the process that holds it.
func Open(path string, mode Mode, wait time.Duration) (*Lock, error) {
	return open(path, mode, wait, func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) })
}

// Create is Open for a file that it creates if need be (0600), with its directories (0700), so
// that only root can open it, and therefore lock it. It does not follow a symbolic link.
func Create(path string, mode Mode, wait time.Duration) (*Lock, error) {
	return open(path, mode, wait, func() (int, error) {
		const flags = unix.O_RDWR | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_CLOEXEC
		for {
			fd, err := unix.Open(path, flags, 0o600)
			if !errors.Is(err, unix.ENOENT) {
				return fd, err
			}
			// a directory is missing, or was removed since we made it
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
		// its last holder has removed the file while we waited, and others lock a new one
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

// FD locks an open file; name is for messages. The lock is released when the last descriptor
// of that open file is closed.
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

// flockWithin waits for the lock, in the kernel's queue, for at most wait. The thread that
// waits cannot be interrupted, so it has a descriptor of its own, and goes on after wait: when
// it gets the lock at last, it closes the descriptor, which releases the lock.
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

// holder names the process that has locked the file (proc_locks(5)), for a message.
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

// lockHolder is the pid of the process that holds a flock on the inode, from lines like
// "1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF"; lines of waiting processes have "->"
// after the number. The device is not compared, since on btrfs it differs from stat's.
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

// Unlock releases the lock.
func (l *Lock) Unlock() error {
	if err := unix.Close(l.fd); err != nil {
		return cni.IOErrorf("close lock: %w", err)
	}
	return nil
}
