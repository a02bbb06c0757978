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
	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Store keeps what was before an ADD: a record of the attachment's (pkg/record) and,
// beside it, the reference plugin's own file, <dataDir>/<containerID>_<ifname>.json, in
// its own format with one more key, so that the DEL of either plugin restores what the
// ADD of the other changed. DEL goes by the record or, where that was lost, by the file.
type Store struct {
	records record.Store
	dataDir string
}

// OpenStore gives the records, whose files are in dataDir. Nothing is touched yet.
func OpenStore(records record.Store, dataDir string) Store { return Store{records, dataDir} }

// place is that of our records in the store. Releases before them had links there, to
// files that are not in DefaultDataDir, by the hash of their owner.
const place = "tuning"

// tuned is what a record holds.
type tuned struct {
	Before, Made Settings
	FormerNetNS  formerNetNS `json:"Sandbox,omitzero"`
	File         string      // that goes with it
}

// saved is what is kept of one attachment.
type saved struct {
	Owner cni.Owner
	Stamp record.Stamp
	// FormerNetNS is what releases wrote that had no stamps.
	FormerNetNS formerNetNS `json:"Sandbox,omitzero"`
	Before      Settings
	Made        Settings
	file        string
}

func savedOf(r record.Record[tuned]) saved {
	return saved{r.Owner, r.Stamp, r.Value.FormerNetNS, r.Value.Before, r.Value.Made, r.Value.File}
}

type formerNetNS struct {
	Path   string `json:"netns"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// netns is the namespace that the record is about.
func (r saved) netns() record.NetNS {
	if old := r.FormerNetNS; old.Inode != 0 {
		return record.NetNS{Path: old.Path, Dev: old.Device, Ino: old.Inode}
	}
	return r.Stamp.NetNS
}

// isAbout says whether the record is about that namespace.
func (r saved) isAbout(found record.NetNS) bool {
	if r.FormerNetNS.Inode != 0 {
		found.Handle = "" // which those releases did not write
	}
	return r.netns().Same(found)
}

// dead says whether it is proved that the namespace is gone. An old record has no
// proof but that there is no such namespace at its path any more.
func (r saved) dead(prober *record.Prober) (bool, error) {
	if r.FormerNetNS.Inode != 0 {
		return !r.isAbout(record.Identify(r.FormerNetNS.Path)), nil
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
		before = append(before, setting{macAddress, f.MAC})
	}
	if f.Promisc != nil {
		before = append(before, setting{promisc, onOff(*f.Promisc)})
	}
	if f.MTU != 0 {
		before = append(before, setting{mtu, strconv.Itoa(f.MTU)})
	}
	if f.AllMulti != nil {
		before = append(before, setting{allMulti, onOff(*f.AllMulti)})
	}
	if f.TxQLen != nil {
		before = append(before, setting{txQLen, strconv.Itoa(*f.TxQLen)})
	}
	return saved{Before: before}
}

func fileName(o cni.Owner) string { return o.ContainerID + "_" + o.IfName + ".json" }

func (s Store) link(o cni.Owner) string { return filepath.Join(s.records.Dir(place), o.Hash(32)) }

func (s Store) path(o cni.Owner) string { return filepath.Join(s.dataDir, fileName(o)) }

// merge records r beside what is recorded already of this attachment, in the same
// namespace: by an earlier ADD that no DEL has followed, or by another tuning entry
// of the list. What was before the first of them is what the DEL restores. It
// returns the earlier record, nil where there is none.
func (s Store) merge(r saved) (*saved, error) {
	r.file = s.path(r.Owner)
	found, known, err := readFile(r.file)
	if err != nil {
		return nil, err
	}
	if other := found.Owner; known && !found.fromReference() && other.ContainerID != r.Owner.ContainerID {
		return nil, cni.ConflictErrorf("%s is the record of container %s, interface %s; a dataDir of its own keeps this network apart",
			r.file, other.ContainerID, other.IfName)
	}
	if found, known, err = s.find(r.Owner); err != nil {
		return nil, err
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
	if err := s.save(r); err != nil || earlier == nil || earlier.file == r.file {
		return earlier, err
	}
	return earlier, drop(earlier.file)
}

// save writes record and file.
func (s Store) save(r saved) error { return s.locked(func() error { return s.write(r) }) }

// locked runs do as the only one who changes records.
func (s Store) locked(do func() error) error {
	lock, err := s.records.Lock()
	if err != nil {
		return err
	}
	return errors.Join(do(), lock.Unlock())
}

func (s Store) write(r saved) error {
	err := record.Write(s.records, place, record.Record[tuned]{
		Owner: r.Owner, Stamp: r.Stamp, Value: tuned{Before: r.Before, Made: r.Made, FormerNetNS: r.FormerNetNS, File: r.file},
	})
	if err != nil {
		return err
	}
	if err := writeFile(r); err != nil {
		return cni.IOErrorf("record what is tuned: %w", err)
	}
	return nil
}

// unfinishedSuffix is that of a record before it takes its place: the one that it
// replaces must not be lost where the ADD is killed.
const unfinishedSuffix = ".unfinished"

func writeFile(r saved) error {
	content, err := r.toFile()
	if err != nil {
		return err
	}
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.file), 0o755); err != nil {
		return err
	}
	return rawfile.Replace(r.file, r.file+unfinishedSuffix, data, 0o600)
}

// readFile reports whether there is a whole file at path. A truncated one is of an
// ADD that was killed before it made anything.
func readFile(path string) (r saved, whole bool, err error) {
	data, err := rawfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rawfile.ErrUnfit) {
		return saved{}, false, nil
	}
	if err != nil {
		return saved{}, false, cni.IOErrorf("read the record of what is tuned: %w", err)
	}
	var f file
	if json.Unmarshal(data, &f) != nil {
		return saved{}, false, nil
	}
	r = f.toRecord()
	r.file = path
	return r, true, nil
}

// isAbandoned says whether a file is empty or unfinished, and nobody can be about
// to write it.
func isAbandoned(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && (info.Size() == 0 || isUnfinished(path)) && time.Since(info.ModTime()) > time.Minute
}

func isUnfinished(path string) bool { return strings.HasSuffix(path, unfinishedSuffix) }

// find is what is kept of the owner: by the record, by the file of an earlier release or
// of a record that was lost, or by the reference plugin's. A truncated file says that nothing
// is to be restored.
func (s Store) find(o cni.Owner) (r saved, there bool, err error) {
	rec, there, err := record.Read[tuned](s.records, place, o)
	if err != nil || there {
		return savedOf(rec), there, err
	}
	paths := []string{s.path(o), filepath.Join(DefaultDataDir, fileName(o))}
	if elsewhere, err := os.Readlink(s.link(o)); err == nil {
		paths = append(paths, elsewhere)
	}
	for _, path := range slices.Compact(paths) {
		r, known, err := readFile(path)
		if err != nil {
			return saved{}, false, err
		}
		if r.Owner == o || r.fromReference() && (known || isFile(path)) {
			r.file = path
			return r, true, nil
		}
	}
	return saved{}, false, nil
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

// list is all that is kept of ours. Files that have no record, of an earlier release or
// because it was lost, get one; what tells of none goes: links that lead nowhere, and
// files that a killed ADD left empty.
func (s Store) list() (all []saved, err error) {
	err = s.locked(func() error {
		records, err := record.Sweep[tuned](s.records, place, "")
		if err != nil {
			return err
		}
		files := map[string]bool{}
		for _, r := range records {
			all, files[r.Value.File] = append(all, savedOf(r)), true
		}
		paths, err := s.paths()
		for _, path := range paths {
			if files[path] || err != nil {
				continue
			}
			var taken []saved
			taken, err = s.takeOver(path)
			all = append(all, taken...)
		}
		return err
	})
	return all, err
}

// takeOver makes a record of a file that has none.
func (s Store) takeOver(path string) (taken []saved, err error) {
	r, known, err := readFile(path)
	if err != nil {
		return nil, err
	}
	known = known && !isUnfinished(path)
	target, linkErr := os.Readlink(path) // in the directory of records
	if linkErr == nil {
		r.file = target
	}
	if known && !r.fromReference() {
		_, there, err := record.Read[tuned](s.records, place, r.Owner)
		if err == nil && !there {
			taken, err = []saved{r}, s.write(r)
		}
		if err != nil {
			return nil, err
		}
	}
	if linkErr == nil || !known && isAbandoned(path) {
		return taken, drop(path)
	}
	return taken, nil
}

// paths are those of all files that may be ours, and of links to them.
func (s Store) paths() ([]string, error) {
	var paths []string
	links := s.records.Dir(place)
	for _, dir := range []string{s.dataDir, DefaultDataDir, links} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, cni.IOErrorf("list the records of what is tuned: %w", err)
		}
		for _, entry := range entries {
			isLink := dir == links && entry.Type() == fs.ModeSymlink
			if isLink || dir != links && (strings.HasSuffix(entry.Name(), ".json") || isUnfinished(entry.Name())) {
				paths = append(paths, filepath.Join(dir, entry.Name()))
			}
		}
	}
	return paths, nil
}
