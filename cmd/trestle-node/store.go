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
	// Announce keeps this host's sign of life in the store until ctx ends. It returns when ctx
	// has ended, or with the reason why it could not go on.
	Announce(ctx context.Context, key string, value []byte) error
	// Describe names the store for people.
	Describe() string
}

// errChanged is the error of a Watch that noticed a change and cannot say what has changed:
// the session starts again.
var errChanged = errors.New("the store has changed")

func openStore(s settings) (store, error) {
	if s.Etcd != nil {
		return openEtcd(s)
	}
	if s.Kubernetes != nil {
		return openKubernetes(s)
	}
	return openFile(s.File), nil
}
