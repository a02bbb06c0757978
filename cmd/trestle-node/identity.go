package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// identity is this host's id. In etcd it is random, made once and kept on disk: an address
// may change, and two hosts may have the same name. A list of hosts, the administrator's or
// Kubernetes', knows hosts by their names.
func identity(s settings) (string, error) {
	if s.Etcd == nil {
		return s.Name, nil
	}
	data, err := rawfile.Read(idPath)
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

// wireGuardKey is the private key of this host's WireGuard device: made once and kept on disk,
// since the other hosts know this one by its key. It is made with any backend, so that all
// hosts have published a key when the backend becomes wireguard.
func wireGuardKey() (wgtypes.Key, error) {
	key, err := readWireGuardKey()
	if errors.Is(err, fs.ErrNotExist) {
		return newWireGuardKey()
	}
	if err != nil {
		return key, err
	}
	if err := os.Chmod(keyPath, 0o600); err != nil {
		return key, fmt.Errorf("keep the WireGuard key from others: %w", err)
	}
	return key, nil
}

func readWireGuardKey() (wgtypes.Key, error) {
	data, err := rawfile.Read(keyPath)
	if err != nil {
		return wgtypes.Key{}, err
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(data)))
	if err != nil {
		return key, fmt.Errorf("%s is no WireGuard key; move it away, and this host makes another, which the others hear of: %w", keyPath, err)
	}
	return key, nil
}

func newWireGuardKey() (wgtypes.Key, error) {
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return key, err
	}
	if err := cluster.WriteFile(keyPath, []byte(key.String()+"\n"), 0o600); err != nil {
		return key, fmt.Errorf("keep this host's WireGuard key: %w", err)
	}
	return key, nil
}

func newNonce() string { return strings.ToLower(rand.Text()) }
