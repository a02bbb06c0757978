package firewall

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

// records is the directory of who has what. A record is written before what it
// tells of is made, and goes after that is gone:
//
//	<dir>/owners/<network>/<owner>       an owner's Rules
//	<dir>/users/<place>/<part>/<owner>   an owner who uses the part
//
// Every call costs the same however many others have records: a file is named by
// its owner's hash, and of a directory no more is read than tells whether there
// are other entries.
type records struct{ dir string }

// recorded is an owner's file.
type recorded struct {
	Owner cni.Owner
	Rules Rules
}

func (r records) owners(network string) string { return filepath.Join(r.dir, "owners", network) }

func (r records) owner(o cni.Owner) string { return filepath.Join(r.owners(o.Network), o.Hash(32)) }

func (r records) place(place string) string { return filepath.Join(r.dir, "users", place) }

func (r records) users(p part) string { return filepath.Join(r.place(p.place), p.String()) }

// write records what the owner is about to have: first that, then its use of
// each part, since it is by the former that a DEL finds the latter.
func (r records) write(o cni.Owner, rules Rules) error {
	data, err := json.Marshal(recorded{o, rules})
	if err != nil {
		return err
	}
	if err := writeFile(r.owner(o), data); err != nil {
		return err
	}
	for _, p := range rules.parts() {
		if err := writeFile(filepath.Join(r.users(p), o.Hash(32)), nil); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return cni.IOErrorf("write a firewall record: %w", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return cni.IOErrorf("write a firewall record: %w", err)
	}
	return nil
}

// read reports whether the file at path is a whole record. A torn one is of an
// ADD that was killed before it made anything.
func read(path string) (rec recorded, there, whole bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rec, false, false, nil
	}
	if err != nil {
		return rec, false, false, cni.IOErrorf("read a firewall record: %w", err)
	}
	return rec, true, json.Unmarshal(data, &rec) == nil, nil
}

// unshared are those of the owner's parts that nobody else uses, and the places
// in which nobody else uses anything.
func (r records) unshared(o cni.Owner, parts []part) (free []part, empty map[string]bool, err error) {
	for _, p := range parts {
		shared, err := othersIn(r.users(p), o.Hash(32))
		if err != nil {
			return nil, nil, err
		}
		if !shared {
			free = append(free, p)
		}
	}
	empty = map[string]bool{}
	for _, place := range placesOf(free) {
		var own []string
		for _, p := range inPlace(free, place) {
			own = append(own, p.String())
		}
		others, err := othersIn(r.place(place), own...)
		if err != nil {
			return nil, nil, err
		}
		empty[place] = !others
	}
	return free, empty, nil
}

// drop forgets the owner.
func (r records) drop(o cni.Owner, parts []part) error {
	var paths []string
	for _, p := range parts {
		paths = append(paths, filepath.Join(r.users(p), o.Hash(32)), r.users(p))
	}
	for _, place := range placesOf(parts) {
		paths = append(paths, r.place(place))
	}
	return remove(append(paths, r.owner(o), r.owners(o.Network), r.owners(""), r.place(""))...)
}

// remove removes files and directories; those that are gone, and directories
// that still hold something, are let be.
func remove(paths ...string) error {
	var errs []error
	for _, path := range paths {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			errs = append(errs, cni.IOErrorf("remove a firewall record: %w", err))
		}
	}
	return errors.Join(errs...)
}

// othersIn says whether dir holds an entry beside own. A directory that is not
// there holds none.
func othersIn(dir string, own ...string) (bool, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look for other firewall records: %w", err)
	}
	defer func() { _ = d.Close() }() // only read from
	names, err := d.Readdirnames(len(own) + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, cni.IOErrorf("look for other firewall records: %w", err)
	}
	return slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(own, name) }), nil
}

// inUse says whether any owner uses a part.
func (r records) inUse(p part) (bool, error) { return othersIn(r.users(p)) }

// list is the owners with a record in a network, or in all where it is empty.
// Files without one are removed.
func (r records) list(network string) ([]recorded, error) {
	pattern := network
	if network == "" {
		pattern = "*"
	}
	paths, err := filepath.Glob(filepath.Join(r.owners(pattern), "*"))
	if err != nil {
		return nil, cni.IOErrorf("list firewall records: %w", err)
	}
	var all []recorded
	var errs []error
	for _, path := range paths {
		rec, there, whole, err := read(path)
		if there && !whole && err == nil {
			err = remove(path)
		}
		errs = append(errs, err)
		if whole {
			all = append(all, rec)
		}
	}
	return all, errors.Join(errs...)
}
