package nat

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// records is the directory of what one backend has in the kernel, and for whom.
// A record is written before what it tells of is made, and goes after that is
// gone, so that a kill in between leaves nothing that a DEL would not find:
//
//	<dir>/networks/<network>/masquerade       the network's rule
//	<dir>/networks/<network>/users/<owner>    an owner whom that rule serves
//	<dir>/networks/<network>/ports/<owner>    what an owner has mapped
//	<dir>/hairpins/<subnet>/<owner>           an owner with mappings in the subnet
//	<dir>/bridges/<bridge>/<owner>            an owner that 127.0.0.1 reaches by the bridge
//
// Every call costs the same however many others have records: a file is named
// by its owner's hash, and of a directory no more is read than tells whether
// there is another entry.
type records struct{ dir string }

func (r records) network(network string) string {
	return filepath.Join(r.dir, "networks", network)
}

func (r records) masquerade(network string) string {
	return filepath.Join(r.network(network), "masquerade")
}

func (r records) users(network string) string {
	return filepath.Join(r.network(network), "users")
}

func (r records) userFile(o cni.Owner) string { return filepath.Join(r.users(o.Network), key(o)) }

// key is the name of an owner's files.
func key(o cni.Owner) string { return o.Hash(32) }

// ownerRecord is what every owner's record holds, at least.
type ownerRecord struct{ Owner cni.Owner }

// write puts v into path and makes the directories above. A kill may leave an
// empty or torn file: then what it was to tell of has not been made.
func write(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return cni.IOErrorf("write a NAT record: %w", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return cni.IOErrorf("write a NAT record: %w", err)
	}
	return nil
}

// read reports whether path holds a whole record, and reads it into v.
func read(path string, v any) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("read a NAT record: %w", err)
	}
	return json.Unmarshal(data, v) == nil, nil
}

// drop removes files and directories; those that are gone, and directories
// that still hold something, are let be.
func drop(paths ...string) error {
	var errs []error
	for _, path := range paths {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			errs = append(errs, cni.IOErrorf("remove a NAT record: %w", err))
		}
	}
	return errors.Join(errs...)
}

// othersIn says whether dir holds an entry beside own. A directory that is not
// there holds none.
func othersIn(dir, own string) (bool, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look for other NAT records: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, cni.IOErrorf("look for other NAT records: %w", err)
	}
	return slices.ContainsFunc(names, func(name string) bool { return name != own }), nil
}

// exists says whether there is a file or directory at path.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look for a NAT record: %w", err)
	}
	return true, nil
}
