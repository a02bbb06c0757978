package bridge

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// await returns when done says so. It asks again after each event of the
// rtnetlink group (of the thread's namespace), and gives up after limit.
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
		// between the first look and the subscription it may have happened
		if ok, err := done(); ok || err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("wait until %s: not so after %s", what, limit)
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

// passing says whether an error of Receive means "look again": the time is
// over, a signal came, or there were more events than the socket holds.
func passing(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS)
}
