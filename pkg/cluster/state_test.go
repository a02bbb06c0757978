package cluster_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// TestStateIsNoFIFO: what is no file in the place of the state, or of the one that it is
// written to first, is an error and nothing to wait for.
func TestStateIsNoFIFO(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, fresh := filepath.Join(dir, "state.json"), filepath.Join(dir, ".state.json.new")
	if err := errors.Join(unix.Mkfifo(path, 0o600), unix.Mkfifo(fresh, 0o600)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() {
		_, err := cluster.ReadState(path)
		done <- err
		done <- cluster.SaveState(path, cluster.State{ID: "a"})
	}()
	for _, want := range []error{rawfile.ErrUnfit, unix.ENXIO} {
		select {
		case err := <-done:
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it waits")
		}
	}
	if err := errors.Join(os.Remove(fresh), cluster.SaveState(path, cluster.State{ID: "a"})); err != nil {
		t.Fatal(err)
	}
	if s, err := cluster.ReadState(path); err != nil || s.ID != "a" {
		t.Errorf("got %+v, %v, want what was saved over it", s, err)
	}
}
