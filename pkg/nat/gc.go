package nat

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// GC releases every owner in network that valid does not keep. Where the
// runtime sent no list, nothing is known to be dead, and nothing is released.
func (h *Host) GC(network string, valid cni.Valid) error {
	if !valid.Known {
		return nil
	}
	var errs []error
	for _, backend := range []Backend{NFTables, IPTables} {
		owners, err := h.records(backend).owners(network)
		errs = append(errs, err)
		for _, owner := range owners {
			if !valid.Keeps(owner) {
				errs = append(errs, h.Release(owner))
			}
		}
	}
	return errors.Join(errs...)
}

// owners are those with a record in network.
func (r records) owners(network string) ([]cni.Owner, error) {
	users, err := filesIn(r.users(network))
	if err != nil {
		return nil, err
	}
	ports, err := filesIn(r.ports(network))
	if err != nil {
		return nil, err
	}
	var owners []cni.Owner
	var errs []error
	for _, file := range append(users, ports...) {
		var record ownerRecord
		whole, err := read(file, &record)
		if err == nil && !whole {
			err = drop(file) // of an ADD that was killed before it made anything
		}
		errs = append(errs, err)
		if whole {
			owners = append(owners, record.Owner)
		}
	}
	return owners, errors.Join(errs...)
}

// filesIn are the paths of dir's entries; none where there is no dir.
func filesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, cni.IOErrorf("list NAT records: %w", err)
	}
	var paths []string
	for _, entry := range entries {
		paths = append(paths, filepath.Join(dir, entry.Name()))
	}
	return paths, nil
}
