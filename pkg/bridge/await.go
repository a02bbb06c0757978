package bridge

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// await returns as soon as done is true. It calls done again after each event of the
// rtnetlink group in the thread's namespace, and fails after limit.
func await(what string, group uint, limit time.Duration, done func() (bool, error)) error {
	if ok, err := done(); ok || err != nil {
		return err
	}
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, group)
	if err != nil {
		return fmt.Errorf("subscribe to netlink events: %w", err)
	}
	defer events.Close()
	for end := time.Now().Add(limit); ; {
		// asked again: it may have happened between the first call and the subscription
		if ok, err := done(); ok || err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("wait until %s: timed out after %s", what, limit)
		}
		timeout := unix.NsecToTimeval(left.Nanoseconds())
		if err := events.SetReceiveTimeout(&timeout); err != nil {
			return fmt.Errorf("set time-out of netlink events: %w", err)
		}
		if _, _, err := events.Receive(); err != nil && !passing(err) {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}

// passing says whether an error of Receive means that done must be asked again: the time is
// over, a signal came, or there were more events than the socket's buffer holds.
func passing(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS)
}
