package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// identity is the host's id: random, made once and kept. An address is none, since it
// changes, and a name is none, since two hosts may have one.
func identity(s settings) (string, error) {
	if s.Etcd == nil {
		return s.Name, nil // the administrator's list knows hosts by their names
	}
	data, err := os.ReadFile(idPath)
	if err == nil && len(strings.TrimSpace(string(data))) >= 16 {
		return strings.TrimSpace(string(data)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := newNonce()
	if err := cluster.WriteFile(idPath, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep this host's id: %w", err)
	}
	return id, nil
}

func newNonce() string { return strings.ToLower(rand.Text()) }
