package main

import (
	"context"
	"errors"
	"io"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// store is a cluster.Store with what this program needs besides.
type store interface {
	cluster.Store
	io.Closer
	// Announce keeps this host's sign of life in the store until ctx ends, and calls given when
	// it is there. It returns when ctx has ended, or with the reason why it could not go on:
	// errNoSign where the store answers, and refuses it.
	Announce(ctx context.Context, key string, value []byte, given func()) error
	// Describe names the store for people.
	Describe() string
}

// errChanged is the error of a Watch that noticed a change and cannot say what has changed:
// the session starts again.
var errChanged = errors.New("the store has changed")

// errNoSign is the error of an Announce that the store has refused.
var errNoSign = errors.New("this host counts as down, since the store takes no sign of life from it")

func openStore(s settings) (store, error) {
	if s.Etcd != nil {
		return openEtcd(s)
	}
	if s.Kubernetes != nil {
		return openKubernetes(s)
	}
	return openFile(s.File), nil
}
