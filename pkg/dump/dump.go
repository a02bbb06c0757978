// Package dump repeats netlink dumps until they are complete. If something changes during a
// dump, the kernel reports that (NLM_F_DUMP_INTR), and the list may lack entries that were
// there all the time. On a busy host that is common.
package dump

import (
	"errors"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// ErrInterrupted is the error of an interrupted dump: the library's, and that of callers who
// read a dump without it.
var ErrInterrupted = netlink.ErrDumpInterrupted

// A dump is repeated a few times at once, since most changes are short, and then after pauses
// that double, up to half a second. Repeating takes CPU time and the kernel's lock from
// whatever changes the list all the time, and an ADD must not wait longer than a second.
const (
	atOnce    = 4
	tries     = atOnce + 10
	firstWait = time.Millisecond
)

// Complete repeats a dump while its error is ErrInterrupted. If the list is still not complete
// after some ten tries, within a second or so, Complete returns it with that error, which has
// code 11. A caller may rely on the entries of such a list, but not on an entry's absence.
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
