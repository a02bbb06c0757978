package main

import (
	"errors"

	"github.com/trestle-cni/trestle/pkg/flock"
)

// locked takes a lock; release gives it up, and joins what goes wrong with that to the
// error of who had it.
func locked(take func() (*flock.Lock, error)) (release func(*error), err error) {
	lock, err := take()
	if err != nil {
		return nil, err
	}
	return func(failed *error) { *failed = errors.Join(*failed, lock.Unlock()) }, nil
}
