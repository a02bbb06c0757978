package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// lookout hears of the routes to subnets of the pool that come to a host, from its
// beginning on: looking for them again and again would keep agents from their work.
type lookout struct {
	host   *lab.Host
	routes chan netlink.RouteUpdate
	failed chan error
	done   chan struct{}
}

func newLookout(h *lab.Host) (*lookout, error) {
	l := &lookout{h, make(chan netlink.RouteUpdate, 4096), make(chan error, 1), make(chan struct{})}
	err := h.Do(func() error {
		return netlink.RouteSubscribeWithOptions(l.routes, l.done, netlink.RouteSubscribeOptions{
			ReceiveBufferSize: 16 << 20, ReceiveBufferForceSize: true,
			ErrorCallback: func(err error) {
				select {
				case l.failed <- err:
				default: // the first one is enough
				}
			},
		})
	})
	return l, err
}

// close ends it.
func (l *lookout) close() { close(l.done) }

// await waits until so many different ones have come.
func (l *lookout) await(want int) error {
	seen := map[netip.Prefix]bool{}
	deadline := time.After(lab.Patience)
	for len(seen) < want {
		select {
		case r := <-l.routes:
			if to, ok := subnet(r.Dst); ok && r.Type == unix.RTM_NEWROUTE && r.Route.Type == unix.RTN_UNICAST {
				seen[to] = true
			}
		case err := <-l.failed:
			return fmt.Errorf("listen to the routes of %s: %w", l.host.Name, err)
		case <-deadline:
			return fmt.Errorf("%d routes have come to %s, want %d", len(seen), l.host.Name, want)
		}
	}
	return nil
}

// routes are how many of a host's lead to subnets of the pool.
func routes(h *lab.Host) (count int, err error) {
	err = h.Do(func() error {
		all, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // there were changes: look again
		}
		for _, r := range all {
			if _, ok := subnet(r.Dst); ok && r.Type == unix.RTN_UNICAST {
				count++
			}
		}
		return err
	})
	return count, err
}

// settle waits until the host has so many routes.
func settle(h *lab.Host, want int) error {
	deadline := time.Now().Add(lab.Patience)
	for {
		got, err := routes(h)
		if err != nil || got == want {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has %d routes, want %d", h.Name, got, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
