package flock

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func mustLock(t *testing.T, path string, mode Mode) *Lock {
	t.Helper()
	l, err := Create(path, mode, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWaiterGivesUpAndNamesTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held := mustLock(t, path, Exclusive)
	_, err := Create(path, Shared, time.Millisecond)
	if cni.CodeOf(err) != cni.CodeTryAgain {
		t.Fatalf("got %v, want an error of code %d", err, cni.CodeTryAgain)
	}
	for _, want := range []string{path, fmt.Sprintf("process %d", os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
	if err := held.Unlock(); err != nil {
		t.Fatal(err)
	}
	// the waiting thread must not keep a lock that it gets too late
	if err := mustLock(t, path, Exclusive).Unlock(); err != nil {
		t.Error(err)
	}
}

func TestSharedLocksStandTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := mustLock(t, path, Shared), mustLock(t, path, Shared)
	if _, err := Create(path, Exclusive, time.Millisecond); cni.CodeOf(err) != cni.CodeTryAgain {
		t.Errorf("got %v beside shared locks, want code %d", err, cni.CodeTryAgain)
	}
	for _, l := range []*Lock{a, b} {
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
	}
}

func TestWaiterGetsTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held := mustLock(t, path, Exclusive)
	got := make(chan error)
	go func() {
		l, err := Create(path, Exclusive, time.Minute)
		if err == nil {
			err = l.Unlock()
		}
		got <- err
	}()
	if err := held.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// If a lock's file is removed while somebody waits for it, Open must lock the new file instead,
// since all others do.
func TestRemovedLockIsNotHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var inside atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				l, err := Create(path, Exclusive, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("got %d holders at once, want 1", n)
				}
				inside.Add(-1)
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
				if err := l.Unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestNamespaceCanBeLocked(t *testing.T) {
	l, err := Open("/proc/thread-self/ns/net", Shared, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestPlantedLinkIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "lock")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, Exclusive, time.Second); cni.CodeOf(err) != cni.CodeIO {
		t.Errorf("got %v, want an error of code %d", err, cni.CodeIO)
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("the link was followed")
	}
}

func TestLockHolder(t *testing.T) {
	locks := "1: POSIX  ADVISORY  WRITE 700 fe:00:131 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 4712 fe:00:131 0 EOF\n3: FLOCK  ADVISORY  WRITE 9 fe:00:1131 0 EOF\n"
	for ino, want := range map[uint64]string{131: "4711", 1131: "9", 31: ""} {
		if got := lockHolder([]byte(locks), ino); got != want {
			t.Errorf("inode %d: got %q, want %q", ino, got, want)
		}
	}
}
