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

// Store keeps the values from before an ADD: in a record of the attachment (pkg/record) and
// in the reference plugin's file, <dataDir>/<containerID>_<ifname>.json, in its format with
// one more key. So the DEL of either plugin restores what the ADD of the other changed. Ours
// reads the record or, if that was lost, the file.
type Store struct {
	records record.Store
	dataDir string
}

// OpenStore is the store with the files in dataDir. It reads and creates nothing yet.
func OpenStore(records record.Store, dataDir string) Store { return Store{records, dataDir} }

// place is the place of our records in the store. Releases before pkg/record had links there,
// named by the owner's hash, to files outside defaultDataDir.
const place = "tuning"

// tuned is the value of a record.
type tuned struct {
	Before, Made Settings
	FormerNetNS  formerNetNS `json:"Sandbox,omitzero"`
	File         string      // the path of the reference plugin's file
}

// saved is what the record and the file of one attachment say.
type saved struct {
	Owner cni.Owner
	Stamp record.Stamp
	// FormerNetNS was written by releases before Stamp.
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

// netns is the attachment's namespace.
func (r saved) netns() record.NetNS {
	if old := r.FormerNetNS; old.Inode != 0 {
		return record.NetNS{Path: old.Path, Dev: old.Device, Ino: old.Inode}
	}
	return r.Stamp.NetNS
}

// isAbout says whether that is the attachment's namespace.
func (r saved) isAbout(found record.NetNS) bool {
	if r.FormerNetNS.Inode != 0 {
		found.Handle = "" // earlier releases wrote none
	}
	return r.netns().Same(found)
}

// dead says whether the namespace is proved gone. Without a stamp, it counts as gone if it is
// not at its path any more.
func (r saved) dead(prober *record.Prober) (bool, error) {
	if r.FormerNetNS.Inode != 0 {
		return !r.isAbout(record.Identify(r.FormerNetNS.Path)), nil
	}
	life, err := prober.Life(r.Stamp)
	return life == record.Dead, err
}

// fromReference says whether the reference plugin wrote it.
func (r saved) fromReference() bool { return r.Owner == cni.Owner{} }

// file is the JSON of the reference plugin's file.
type file struct {
	MAC      string `json:"mac,omitempty"`
	Promisc  *bool  `json:"promisc,omitempty"`
	MTU      int    `json:"mtu,omitempty"`
	AllMulti *bool  `json:"allmulti,omitempty"`
	TxQLen   *int   `json:"txQLen,omitempty"`
	// Trestle is our key, with all that we save; the reference plugin ignores it.
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

func (f file) toSaved() saved {
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

// merge saves r together with what is already saved of this attachment in the same namespace,
// by an earlier ADD that no DEL has followed, or by another tuning plugin of the list. DEL
// restores what was before the first of them. merge returns the earlier record, nil if there
// is none.
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
		for _, made := range found.Made { // several of one name, since a killed ADD leaves either value in the kernel
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

// save writes record and file under the lock of the records.
func (s Store) save(r saved) error { return s.records.Locked(func() error { return s.write(r) }) }

func (s Store) write(r saved) error {
	err := record.Write(s.records, place, record.Record[tuned]{
		Owner: r.Owner, Stamp: r.Stamp, Value: tuned{Before: r.Before, Made: r.Made, FormerNetNS: r.FormerNetNS, File: r.file},
	})
	if err != nil {
		return err
	}
	if err := writeFile(r); err != nil {
		return cni.IOErrorf("record the former settings: %w", err)
	}
	return nil
}

// unfinishedSuffix ends the name of a file until it is complete and renamed, so that a killed
// ADD does not lose the file that it replaces.
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

// readFile reads a file; complete is false if there is none, or a truncated one, whose ADD was
// killed before it changed anything.
func readFile(path string) (r saved, complete bool, err error) {
	data, err := rawfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rawfile.ErrUnfit) {
		return saved{}, false, nil
	}
	if err != nil {
		return saved{}, false, cni.IOErrorf("read the record of former settings: %w", err)
	}
	var f file
	if json.Unmarshal(data, &f) != nil {
		return saved{}, false, nil
	}
	r = f.toSaved()
	r.file = path
	return r, true, nil
}

// isAbandoned says whether a file is empty or unfinished, and so old that nobody is writing
// it.
func isAbandoned(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && (info.Size() == 0 || isUnfinished(path)) && time.Since(info.ModTime()) > time.Minute
}

func isUnfinished(path string) bool { return strings.HasSuffix(path, unfinishedSuffix) }

// find is what is saved of the owner: in the record, or else in a file, of an earlier release
// or of the reference plugin, or ours if the record was lost. A truncated file means that
// nothing is to be restored.
func (s Store) find(o cni.Owner) (r saved, there bool, err error) {
	rec, there, err := record.Read[tuned](s.records, place, o)
	if err != nil || there {
		return savedOf(rec), there, err
	}
	paths := []string{s.path(o), filepath.Join(defaultDataDir, fileName(o))}
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
			errs = append(errs, cni.IOErrorf("remove the record of former settings: %w", err))
		}
	}
	return errors.Join(errs...)
}

// list is all that we have saved. It writes records for files without one, which are of an
// earlier release or whose record was lost, and removes what a killed ADD or an earlier
// release left: empty and unfinished files, and links.
func (s Store) list() (all []saved, err error) {
	err = s.records.Locked(func() error {
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

// takeOver writes a record for a file that has none.
func (s Store) takeOver(path string) (taken []saved, err error) {
	r, known, err := readFile(path)
	if err != nil {
		return nil, err
	}
	known = known && !isUnfinished(path)
	target, linkErr := os.Readlink(path) // a link in the place of the records
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

// paths are the paths of all files that may be ours, and of links to such files.
func (s Store) paths() ([]string, error) {
	var paths []string
	links := s.records.Dir(place)
	for _, dir := range []string{s.dataDir, defaultDataDir, links} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, cni.IOErrorf("list the records of former settings: %w", err)
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
