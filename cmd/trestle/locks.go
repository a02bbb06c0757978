package main

import (
	"context"
	"errors"

	"github.com/trestle-cni/trestle/cmd/trestle/attach"
	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// alone takes the lock of network lists, clears away after runs that were killed, unless
// dry, and then looks at the host.
func (a *app) alone(ctx context.Context, p *ui.Printer, dry bool) (r attach.Runtime, release func(*error), err error) {
	if release, err = locked(network.Lock); err != nil {
		return r, nil, err
	}
	if !dry {
		err = a.sweep(ctx, p)
	}
	if err == nil {
		r, err = a.runtime(p)
	}
	if err != nil {
		release(&err)
	}
	return r, release, err
}

// locked takes a lock; release gives it up, and joins what goes wrong with that to the
// error of who had it.
func locked(take func() (*flock.Lock, error)) (release func(*error), err error) {
	lock, err := take()
	if err != nil {
		return nil, err
	}
	return func(failed *error) { *failed = errors.Join(*failed, lock.Unlock()) }, nil
}
