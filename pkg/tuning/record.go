package tuning

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// DefaultIndexDir holds a symbolic link for each owner whose record is not in
// DefaultDataDir, so that it is found when the configuration has changed.
const DefaultIndexDir = "/run/trestle/tuning"

// Store keeps a record of what was before an ADD. It is the reference plugin's
// own file, <dataDir>/<containerID>_<ifname>.json, in its own format with one
// more key, so that the DEL of either plugin restores what the ADD of the other
// changed.
type Store struct{ dataDir, index string }

// OpenStore gives the records in dataDir. Nothing is touched yet.
func OpenStore(dataDir, index string) Store { return Store{dataDir, index} }

// record is what is known of one attachment.
type record struct {
	Owner   cni.Owner
	Sandbox Sandbox
	Before  Settings
	Made    Settings
}

// byReference says whether the reference plugin wrote it.
func (r record) byReference() bool { return r.Owner == cni.Owner{} }

// file is a record as it is written.
type file struct {
	MAC      string `json:"mac,omitempty"`
	Promisc  *bool  `json:"promisc,omitempty"`
	MTU      int    `json:"mtu,omitempty"`
	AllMulti *bool  `json:"allmulti,omitempty"`
	TxQLen   *int   `json:"txQLen,omitempty"`
	// Trestle is the whole record; the reference plugin knows no such key.
	Trestle *record `json:"trestle,omitempty"`
}

func (r record) toFile() (file, error) {
	f := file{Trestle: &r}
	var err error
	for _, s := range r.Before {
		isOn := s.Value == on
		switch s.Name {
		case macAddress:
			f.MAC = s.Value
		case promisc:
			f.Promisc = &isOn
		case mtu:
			f.MTU, err = strconv.Atoi(s.Value)
		case allMulti:
			f.AllMulti = &isOn
		case txQLen:
			var length int
			length, err = strconv.Atoi(s.Value)
			f.TxQLen = &length
		}
		if err != nil {
			return file{}, err
		}
	}
	return f, nil
}

func (f file) toRecord() record {
	if f.Trestle != nil {
		return *f.Trestle
	}
	var before Settings
	if f.MAC != "" {
		before = append(before, Setting{macAddress, f.MAC})
	}
	if f.Promisc != nil {
		before = append(before, Setting{promisc, onOff(*f.Promisc)})
	}
	if f.MTU != 0 {
		before = append(before, Setting{mtu, strconv.Itoa(f.MTU)})
	}
	if f.AllMulti != nil {
		before = append(before, Setting{allMulti, onOff(*f.AllMulti)})
	}
	if f.TxQLen != nil {
		before = append(before, Setting{txQLen, strconv.Itoa(*f.TxQLen)})
	}
	return record{Before: before}
}

func fileName(o cni.Owner) string { return o.ContainerID + "_" + o.IfName + ".json" }

func (s Store) link(o cni.Owner) string { return filepath.Join(s.index, o.Hash(32)) }

// write records r for the owner. Of an earlier ADD in the same namespace, which
// no DEL has followed, the values from before that one are kept.
func (s Store) write(o cni.Owner, r record) error {
	path := filepath.Join(s.dataDir, fileName(o))
	r.Owner = o
	earlier, known, err := readRecord(path)
	if err != nil {
		return err
	}
	if other := earlier.Owner; known && !earlier.byReference() && other.ContainerID != o.ContainerID {
		return cni.ConflictErrorf("%s is the record of container %s, interface %s; a dataDir of its own keeps this network apart",
			path, other.ContainerID, other.IfName)
	}
	if known && earlier.Owner == o && earlier.Sandbox.same(r.Sandbox) {
		for i, setting := range r.Before {
			if value, ok := earlier.Before.value(setting.Name); ok {
				r.Before[i].Value = value
			}
		}
	}
	if err := s.writeFile(path, r); err != nil {
		return cni.IOErrorf("record what is tuned: %w", err)
	}
	return nil
}

func (s Store) writeFile(path string, r record) error {
	content, err := r.toFile()
	if err != nil {
		return err
	}
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dataDir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	if filepath.Clean(s.dataDir) == DefaultDataDir {
		return nil
	}
	if err := os.MkdirAll(s.index, 0o755); err != nil {
		return err
	}
	err = os.Symlink(path, s.link(r.Owner))
	if errors.Is(err, fs.ErrExist) {
		if err = os.Remove(s.link(r.Owner)); err == nil {
			err = os.Symlink(path, s.link(r.Owner))
		}
	}
	return err
}

// readRecord reports whether there is a whole record at path. A torn one is of an
// ADD that was killed before it made anything.
func readRecord(path string) (r record, whole bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, cni.IOErrorf("read the record of what is tuned: %w", err)
	}
	var f file
	if json.Unmarshal(data, &f) != nil {
		return record{}, false, nil
	}
	return f.toRecord(), true, nil
}

// isAbandoned says whether a file is empty and nobody can be about to write it.
func isAbandoned(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == 0 && time.Since(info.ModTime()) > time.Minute
}

// find is the owner's record and its path, which is empty where there is none. A
// torn one says that nothing is to be restored.
func (s Store) find(o cni.Owner) (string, record, error) {
	paths := []string{filepath.Join(s.dataDir, fileName(o)), filepath.Join(DefaultDataDir, fileName(o))}
	if elsewhere, err := os.Readlink(s.link(o)); err == nil {
		paths = append(paths, elsewhere)
	}
	for _, path := range slices.Compact(paths) {
		r, known, err := readRecord(path)
		if err != nil {
			return "", record{}, err
		}
		if r.Owner == o || r.byReference() && (known || isFile(path)) {
			return path, r, nil
		}
	}
	return "", record{}, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func drop(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, cni.IOErrorf("forget what was tuned: %w", err))
		}
	}
	return errors.Join(errs...)
}

// list is all records of ours, wherever a configuration put them. What tells of
// none goes: links to those that a DEL of the reference plugin removed, and files
// that a killed ADD left empty.
func (s Store) list() ([]record, error) {
	var paths []string
	for _, dir := range []string{s.dataDir, DefaultDataDir, s.index} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, cni.IOErrorf("list the records of what is tuned: %w", err)
		}
		for _, entry := range entries {
			if dir == s.index || strings.HasSuffix(entry.Name(), ".json") {
				paths = append(paths, filepath.Join(dir, entry.Name())) // a link is followed
			}
		}
	}
	var records []record
	for _, path := range paths {
		r, known, err := readRecord(path)
		if err != nil {
			return nil, err
		}
		same := func(other record) bool { return other.Owner == r.Owner }
		switch {
		case !known && (filepath.Dir(path) == s.index || isAbandoned(path)):
			if err := drop(path); err != nil {
				return nil, err
			}
		case known && !r.byReference() && !slices.ContainsFunc(records, same):
			records = append(records, r)
		}
	}
	return records, nil
}
