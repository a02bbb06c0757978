package hosts

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/trestle-cni/trestle/pkg/flock"
)

// TestRunning: an agent that holds the lock is running, whatever PID it has noted: in a pod it
// is not the host's. If nobody holds the lock, the PID does not count.
func TestRunning(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	s := Status{PID: os.Getpid()}
	if s.runs(path) {
		t.Error("no lock was ever there, and this process is no agent: got that it runs")
	}
	lock, err := flock.Create(path, flock.Exclusive, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{0, 1, os.Getpid()} {
		if s := (&Status{PID: pid}); !s.runs(path) {
			t.Errorf("process %d: somebody has the lock: got that it does not run", pid)
		}
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if s.runs(path) {
		t.Error("nobody has the lock: got that it runs")
	}
}
