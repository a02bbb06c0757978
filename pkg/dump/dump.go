// Package dump asks the kernel for a list by netlink until it is whole. Where something
// changes in the middle of a dump, the kernel says so (NLM_F_DUMP_INTR) and what it has
// told may lack what was there all the time: on a busy host that happens all day.
package dump

import (
	"errors"
	"time"

	"github.com/vishvananda/netlink"
)

// ErrInterrupted is what the library, and whoever reads a dump without it, says of a list
// in the middle of which something changed.
var ErrInterrupted = netlink.ErrDumpInterrupted

// Limit bounds how long a list that changes all the time is asked for.
const Limit = 10 * time.Second

// Complete asks for the list again while the error is ErrInterrupted. One that
// is not complete after Limit is given with that error: who only looks for something may
// go by what is in it, and nobody by what is not.
func Complete[T any](list func() (T, error)) (T, error) {
	for end := time.Now().Add(Limit); ; {
		found, err := list()
		if !errors.Is(err, ErrInterrupted) || time.Now().After(end) {
			return found, err
		}
	}
}
