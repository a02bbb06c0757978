package main

import (
	"context"
	"errors"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// alone takes the lock of network lists, clears away what killed runs left, unless dry, and
// then takes a snapshot of the host.
func (a *app) alone(ctx context.Context, p *ui.Printer, dry bool) (r attach.Runtime, release func(*error), err error) {
	if release, err = locked(network.Lock); err != nil {
		return r, nil, err
	}
	if !dry {
		a.tidy(ctx, p)
	}
	if r, err = a.runtime(p); err != nil {
		release(&err)
	}
	return r, release, err
}

// locked takes a lock. release unlocks it, and joins an error of that to the caller's.
func locked(take func() (*flock.Lock, error)) (release func(*error), err error) {
	lock, err := take()
	if err != nil {
		return nil, err
	}
	return func(failed *error) { *failed = errors.Join(*failed, lock.Unlock()) }, nil
}
