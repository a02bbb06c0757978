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
	"github.com/trestle-cni/trestle/pkg/record"
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

// saved is the record of one attachment.
type saved struct {
	Owner cni.Owner
	Stamp record.Stamp
	// Sandbox is what releases wrote that had no stamps.
	Sandbox oldSandbox `json:",omitzero"`
	Before  Settings
	Made    Settings
}

type oldSandbox struct {
	Path   string `json:"netns"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// netns is the namespace that the record is about.
func (r saved) netns() record.NetNS {
	if old := r.Sandbox; old.Inode != 0 {
		return record.NetNS{Path: old.Path, Dev: old.Device, Ino: old.Inode}
	}
	return r.Stamp.NetNS
}

// isAbout says whether the record is about that namespace.
func (r saved) isAbout(found record.NetNS) bool {
	if r.Sandbox.Inode != 0 {
		found.Handle = "" // which those releases did not write
	}
	return r.netns().Same(found)
}

// dead says whether it is proved that the namespace is gone. An old record has no
// proof but that there is no such namespace at its path any more.
func (r saved) dead(prober *record.Prober) (bool, error) {
	if r.Sandbox.Inode != 0 {
		return !r.isAbout(record.Identify(r.Sandbox.Path)), nil
	}
	life, err := prober.Life(r.Stamp)
	return life == record.Dead, err
}

// fromReference says whether the reference plugin wrote it.
func (r saved) fromReference() bool { return r.Owner == cni.Owner{} }

// file is a record as it is written.
type file struct {
	MAC      string `json:"mac,omitempty"`
	Promisc  *bool  `json:"promisc,omitempty"`
	MTU      int    `json:"mtu,omitempty"`
	AllMulti *bool  `json:"allmulti,omitempty"`
	TxQLen   *int   `json:"txQLen,omitempty"`
	// Trestle is the whole record; the reference plugin knows no such key.
	Trestle *saved `json:"trestle,omitempty"`
}

func (r saved) toFile() (file, error) {
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

func (f file) toRecord() saved {
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
	return saved{Before: before}
}

func fileName(o cni.Owner) string { return o.ContainerID + "_" + o.IfName + ".json" }

func (s Store) link(o cni.Owner) string { return filepath.Join(s.index, o.Hash(32)) }

func (s Store) path(o cni.Owner) string { return filepath.Join(s.dataDir, fileName(o)) }

// write records r beside what is recorded already of this attachment, in the same
// namespace: by an earlier ADD that no DEL has followed, or by another tuning entry
// of the list. What was before the first of them is what the DEL restores. It
// returns the earlier record, nil where there is none.
func (s Store) write(r saved) (*saved, error) {
	path := s.path(r.Owner)
	found, known, err := readRecord(path)
	if err != nil {
		return nil, err
	}
	if other := found.Owner; known && !found.fromReference() && other.ContainerID != r.Owner.ContainerID {
		return nil, cni.ConflictErrorf("%s is the record of container %s, interface %s; a dataDir of its own keeps this network apart",
			path, other.ContainerID, other.IfName)
	}
	var earlier *saved
	if known && found.Owner == r.Owner && found.isAbout(r.Stamp.NetNS) {
		earlier = &found
		r.Made = slices.Clone(r.Made)
		r.Before = found.Before.and(r.Before)
		for _, made := range found.Made { // of one name there may be several: killed, this ADD leaves the former one
			if !slices.Contains(r.Made, made) {
				r.Made = append(r.Made, made)
			}
		}
	}
	if err := s.writeFile(r); err != nil {
		return nil, cni.IOErrorf("record what is tuned: %w", err)
	}
	return earlier, nil
}

// unfinishedSuffix is that of a record before it takes its place: the one that it
// replaces must not be lost where the ADD is killed.
const unfinishedSuffix = ".unfinished"

func (s Store) writeFile(r saved) error {
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
	path := s.path(r.Owner)
	if err := os.WriteFile(path+unfinishedSuffix, data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+unfinishedSuffix, path); err != nil {
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
func readRecord(path string) (r saved, whole bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return saved{}, false, nil
	}
	if err != nil {
		return saved{}, false, cni.IOErrorf("read the record of what is tuned: %w", err)
	}
	var f file
	if json.Unmarshal(data, &f) != nil {
		return saved{}, false, nil
	}
	return f.toRecord(), true, nil
}

// isAbandoned says whether a file is empty or unfinished, and nobody can be about
// to write it.
func isAbandoned(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && (info.Size() == 0 || isUnfinished(path)) && time.Since(info.ModTime()) > time.Minute
}

func isUnfinished(path string) bool { return strings.HasSuffix(path, unfinishedSuffix) }

// find is the owner's record and its path, which is empty where there is none. A
// torn one says that nothing is to be restored.
func (s Store) find(o cni.Owner) (string, saved, error) {
	paths := []string{s.path(o), filepath.Join(DefaultDataDir, fileName(o))}
	if elsewhere, err := os.Readlink(s.link(o)); err == nil {
		paths = append(paths, elsewhere)
	}
	for _, path := range slices.Compact(paths) {
		r, known, err := readRecord(path)
		if err != nil {
			return "", saved{}, err
		}
		if r.Owner == o || r.fromReference() && (known || isFile(path)) {
			return path, r, nil
		}
	}
	return "", saved{}, nil
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
func (s Store) list() ([]saved, error) {
	paths, err := s.paths()
	if err != nil {
		return nil, err
	}
	var records []saved
	for _, path := range paths {
		r, known, err := readRecord(path)
		known = known && !isUnfinished(path)
		if err == nil && !known && (filepath.Dir(path) == s.index || isAbandoned(path)) {
			err = drop(path)
		}
		if err != nil {
			return nil, err
		}
		listed := slices.ContainsFunc(records, func(other saved) bool { return other.Owner == r.Owner })
		if known && !r.fromReference() && !listed {
			records = append(records, r)
		}
	}
	return records, nil
}

// paths are those of all files that may be records, and of links to them.
func (s Store) paths() ([]string, error) {
	var paths []string
	for _, dir := range []string{s.dataDir, DefaultDataDir, s.index} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, cni.IOErrorf("list the records of what is tuned: %w", err)
		}
		for _, entry := range entries {
			if dir == s.index || strings.HasSuffix(entry.Name(), ".json") || isUnfinished(entry.Name()) {
				paths = append(paths, filepath.Join(dir, entry.Name()))
			}
		}
	}
	return paths, nil
}
