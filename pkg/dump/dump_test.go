package dump

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func TestComplete(t *testing.T) {
	t.Parallel()
	other := errors.New("no such device")
	for _, test := range []struct {
		name  string
		errs  []error
		want  string
		fails error
	}{
		{"at once", []error{nil}, "list 1", nil},
		{"interrupted", []error{netlink.ErrDumpInterrupted, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted), nil}, "list 3", nil},
		{"interrupted, then refused", []error{netlink.ErrDumpInterrupted, other}, "list 2", other},
	} {
		asked := 0
		got, err := Complete(func() (string, error) {
			asked++
			return fmt.Sprint("list ", asked), test.errs[asked-1]
		})
		if got != test.want || !errors.Is(err, test.fails) {
			t.Errorf("%s: got %q, %v, want %q, %v", test.name, got, err, test.want, test.fails)
		}
	}
}

// TestNeverComplete: for a list that changes all the time, Complete gives up within a second or
// so, after a few tries.
func TestNeverComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, asked := time.Now(), 0
		got, err := Complete(func() (string, error) {
			asked++
			time.Sleep(time.Microsecond) // on the test's fake clock
			return fmt.Sprint("list ", asked), netlink.ErrDumpInterrupted
		})
		if want := fmt.Sprint("list ", asked); got != want {
			t.Errorf("got %q, want what was there last, %q", got, want)
		}
		if !errors.Is(err, ErrInterrupted) || cni.CodeOf(err) != cni.CodeTryAgain {
			t.Errorf("got %v with code %d, want ErrInterrupted with code 11", err, cni.CodeOf(err))
		}
		if took := time.Since(start); asked > 20 || took > 2*time.Second {
			t.Errorf("asked %d times in %s, want at most 20 times in 2 seconds", asked, took)
		}
	})
}
