// Package dump asks the kernel for a list by netlink until it is whole. Where something
// changes in the middle of a dump, the kernel says so (NLM_F_DUMP_INTR) and what it has
// told may lack what was there all the time: on a busy host that happens all day.
package dump

import (
	"errors"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// ErrInterrupted is what the library, and whoever reads a dump without it, says of a list
// in the middle of which something changed.
var ErrInterrupted = netlink.ErrDumpInterrupted

// A list is asked for again at once a few times, since most changes pass: then after pauses
// that double, the longest of half a second. What changes a list all the time needs the CPU
// and the kernel's lock that asking again takes, and an ADD waits for one second, not more.
const (
	atOnce    = 4
	tries     = atOnce + 10
	firstWait = time.Millisecond
)

// Complete asks for the list again while the error is ErrInterrupted. One that is not
// complete after some ten tries, within a second or so, is given with that error, which has
// code 11: who only looks for something may go by what is in it, and nobody by what is not.
func Complete[T any](list func() (T, error)) (T, error) {
	start, wait := time.Now(), firstWait
	for try := 1; ; try++ {
		found, err := list()
		if !errors.Is(err, ErrInterrupted) {
			return found, err
		}
		if try == tries {
			return found, cni.TryAgainErrorf("the list changed while it was read, each of %d times in %s; try again, or look what changes it all the time (ip monitor): %w",
				tries, time.Since(start).Round(time.Millisecond), err)
		}
		if try >= atOnce {
			time.Sleep(wait) //nolint:forbidigo // no event says that others have stopped changing things
			wait *= 2
		}
	}
}
