package host

import (
	"os/exec"
	"testing"
	"time"
)

type failedT struct{ *testing.T }

func (failedT) Failed() bool { return true }

// TestHold: the host of a failed test is held if that is asked for, until its first
// process is killed.
func TestHold(t *testing.T) {
	first := exec.Command("sleep", "60")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = first.Process.Kill() }) // where hold did not wait
	hold(failedT{t}, first)                        // nobody has asked
	t.Setenv("TRESTLE_HOLD", "1")
	hold(t, first) // has not failed
	held := make(chan struct{})
	go func() {
		defer close(held)
		hold(failedT{t}, first)
	}()
	select {
	case <-held:
		t.Fatal("got the host let go, want it held")
	case <-time.After(50 * time.Millisecond):
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-held
}
