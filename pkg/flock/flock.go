// Package flock is a file lock with a bounded wait: who waits too long gives up
// and is told who holds it.
package flock

import (
	"bufio"
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
type Lock struct{ file *os.File }

// Open locks what is at path: a directory, a file, a namespace. After wait it
// gives up with code 11 and names the processes that hold it.
func Open(path string, mode Mode, wait time.Duration) (*Lock, error) {
	return open(path, mode, wait, func() (*os.File, error) { return os.Open(path) })
}

// Create is Open for a file that is made if missing (0600), in directories that
// are made if missing (0755), and not followed if it is a symbolic link.
func Create(path string, mode Mode, wait time.Duration) (*Lock, error) {
	return open(path, mode, wait, func() (*os.File, error) {
		const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW
		for {
			file, err := os.OpenFile(path, flags, 0o600)
			if !errors.Is(err, fs.ErrNotExist) {
				return file, err
			}
			// missing, or taken away again since we made them
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return nil, err
			}
		}
	})
}

func open(path string, mode Mode, wait time.Duration, openFile func() (*os.File, error)) (*Lock, error) {
	for {
		file, err := openFile()
		if err != nil {
			return nil, cni.IOErrorf("open lock: %w", err)
		}
		l := &Lock{file}
		if err := l.lock(mode, wait); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if l.isAt(path) {
			return l, nil
		}
		// its last holder has removed it while we waited, and others lock a new one
		if err := file.Close(); err != nil {
			return nil, cni.IOErrorf("close lock: %w", err)
		}
	}
}

func (l *Lock) isAt(path string) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	held, err := l.file.Stat()
	return err == nil && os.SameFile(there, held)
}

func (l *Lock) lock(mode Mode, wait time.Duration) error {
	err := unix.Flock(int(l.file.Fd()), int(mode)|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return l.wait(mode, wait)
	}
	if err != nil {
		return cni.IOErrorf("lock %s: %w", l.file.Name(), err)
	}
	return nil
}

// wait blocks in flock on a thread of its own. When the time is over the thread
// stays behind, and a lock that it may still be given is freed with the file,
// which the caller closes.
func (l *Lock) wait(mode Mode, limit time.Duration) error {
	fd, err := unix.FcntlInt(l.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return cni.IOErrorf("lock %s: %w", l.file.Name(), err)
	}
	got := make(chan error, 1)
	go func() {
		var err error
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(fd, int(mode))
		}
		got <- errors.Join(err, unix.Close(fd))
	}()
	select {
	case err := <-got:
		if err != nil {
			return cni.IOErrorf("lock %s: %w", l.file.Name(), err)
		}
		return nil
	case <-time.After(limit):
		return cni.TryAgainErrorf("lock %s: still held by %s after %s; try again", l.file.Name(), l.holders(), limit)
	}
}

// holders names who has the lock, from /proc/locks (fs/locks.c, lock_get_status):
// "1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF".
func (l *Lock) holders() string {
	var stat unix.Stat_t
	locks, err := os.Open("/proc/locks")
	if err != nil || unix.Fstat(int(l.file.Fd()), &stat) != nil {
		return "another process"
	}
	defer func() { _ = locks.Close() }() // only read from
	inode := fmt.Sprintf(":%d", stat.Ino)
	var pids []string
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], inode) {
			pids = append(pids, "pid "+f[4])
		}
	}
	if pids == nil {
		return "another process"
	}
	return strings.Join(pids, ", ")
}

// Unlock frees the lock.
func (l *Lock) Unlock() error { return l.file.Close() }
