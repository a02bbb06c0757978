package main

import (
	"context"
	"errors"
	"io"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// store is a cluster.Store with what this program wants besides.
type store interface {
	cluster.Store
	io.Closer
	// Announce says that this host is alive, until ctx ends, or until it could not say
	// so any more.
	Announce(ctx context.Context, key string, value []byte) error
	// Describe names the store for people.
	Describe() string
}

// errChanged ends a Watch of a store that does not say what has changed.
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
