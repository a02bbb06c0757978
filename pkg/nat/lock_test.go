package nat

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func TestLockIsExclusive(t *testing.T) {
	dir := t.TempDir()
	const goroutines, rounds = 8, 100
	var inside atomic.Int32
	done := make(chan error)
	for range goroutines {
		go func() {
			for range rounds {
				l, err := takeLock(dir, lockPatience)
				if err != nil {
					done <- err
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("got %d inside at once, want 1", n)
				}
				inside.Add(-1)
				if err := l.release(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range goroutines {
		must(t, <-done)
	}
}

// A lock that nobody lets go of is an error that says who has it, and one that
// is got too late is let go of.
func TestLockIsBounded(t *testing.T) {
	dir := t.TempDir()
	held, err := takeLock(dir, lockPatience)
	must(t, err)
	_, err = takeLock(dir, 0)
	if cni.CodeOf(err) != cni.CodeTryAgain || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("got %v, want code %d that names process %d", err, cni.CodeTryAgain, os.Getpid())
	}
	must(t, held.release())
	again, err := takeLock(dir, lockPatience)
	must(t, err)
	must(t, again.release())
}

func TestLockGoesWithItsHolder(t *testing.T) {
	dir := t.TempDir()
	file, err := os.Create(filepath.Join(dir, "lock"))
	must(t, err)
	must(t, unix.Flock(int(file.Fd()), unix.LOCK_EX))
	must(t, file.Close())
	l, err := takeLock(dir, 0)
	must(t, err)
	must(t, l.release())
}
