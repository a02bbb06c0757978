// Package record keeps who has what, in /run: one file for each attachment and
// place, written before what it tells of is made and removed after that is gone. So
// whatever a kill leaves, the next DEL, GC or restore finds.
//
//	/run/trestle/lock                          held by whoever looks and changes
//	/run/trestle/<place>/<network>/<owner>     a Record; <owner> is the hash of its name
//	/run/trestle/<place>.shared/<share>/<owner> -> the Record of one who needs <share>
//
// Start at Read, Write and Remove; Store.Others tells whether a share has another
// user. To debug: the files are JSON, and each names its owner.
//
// A record that is truncated, or of another boot or machine (see Stamp), is none, and so is
// what is no regular file; a link that leads to no record is void. Neither harms anybody else.
package record

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// DefaultDir is where records live: they are worthless after a reboot, as what they
// tell of in the kernel is.
const DefaultDir = "/run/trestle"

// Version is that of records as this release writes them. One with a higher version
// is read as far as it is understood by plugins; the command trestle changes nothing then.
const Version = 1

// Store is a directory of records.
type Store struct{ dir string }

// Open gives the records in dir. Nothing is touched yet.
func Open(dir string) Store { return Store{dir} }

// Dir is the path of a directory of the store's that holds what is no record.
func (s Store) Dir(name string) string { return filepath.Join(s.dir, name) }

// Lock keeps all others from changing what records tell of. It is held for about a
// millisecond; who waits too long is told who has it.
func (s Store) Lock() (*flock.Lock, error) {
	return flock.Create(s.Dir("lock"), flock.Exclusive, flock.DefaultWait)
}

// Record is what an attachment has in one place.
type Record[T any] struct {
	Version int
	Stamp   Stamp // whose life it depends on
	Owner   cni.Owner
	// Shares name what the attachment needs and others may need too; they are made
	// names of directories.
	Shares []string `json:",omitempty"`
	Value  T
}

// place is a kind of record: "ports", "firewall" ….
func (s Store) file(place string, o cni.Owner) string {
	return filepath.Join(s.dir, place, o.Network, key(o))
}

func (s Store) share(place, share string) string {
	return filepath.Join(s.dir, place+".shared", strings.ReplaceAll(share, "/", "_"))
}

// key is the name of an owner's files.
func key(o cni.Owner) string { return o.Hash(32) }

// Path is where the owner's record is, for links to it.
func (s Store) Path(place string, o cni.Owner) string { return s.file(place, o) }

// Write puts the record into place: the whole of it or, after a kill, the former.
func Write[T any](s Store, place string, r Record[T]) error {
	r.Version = Version
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := s.file(place, r.Owner)
	if err := s.makeDir(filepath.Join(place, r.Owner.Network)); err != nil {
		return err
	}
	if err := rawfile.Replace(path, freshFile(path), data, 0o600); err != nil {
		return cni.IOErrorf("write a record: %w", err)
	}
	for _, share := range r.Shares {
		if err := s.link(place, share, r.Owner); err != nil {
			return err
		}
	}
	return nil
}

// freshFile is where a record is written before it takes its place.
func freshFile(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
}

func (s Store) link(place, share string, o cni.Owner) error {
	dir := s.share(place, share)
	if err := s.makeDir(filepath.Join(place+".shared", filepath.Base(dir))); err != nil {
		return err
	}
	err := os.Symlink(filepath.Join("..", "..", place, o.Network, key(o)), filepath.Join(dir, key(o)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return cni.IOErrorf("record a share: %w", err)
	}
	return nil
}

// makeDir makes a directory below the store's, and the store's, for root alone.
func (s Store) makeDir(name string) error {
	err := os.Mkdir(s.Dir(name), 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(s.Dir(name), 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return cni.IOErrorf("make a directory of records: %w", err)
	}
	return nil
}

// Has says whether there is a file of the owner's, by one system call; it may be truncated.
func (s Store) Has(place string, o cni.Owner) (bool, error) {
	err := unix.Access(s.file(place, o), unix.F_OK)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look for a record: %w", &fs.PathError{Op: "access", Path: s.file(place, o), Err: err})
	}
	return true, nil
}

// Read gives the owner's record; there is none where the file is missing or truncated.
func Read[T any](s Store, place string, o cni.Owner) (r Record[T], there bool, err error) {
	r, there, err = readFile[T](s.file(place, o))
	return r, there && r.Owner == o, err
}

// At gives the record that a path or a link leads to.
func At[T any](path string) (r Record[T], there bool, err error) { return readFile[T](path) }

func readFile[T any](path string) (r Record[T], whole bool, err error) {
	data, err := rawfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rawfile.ErrUnfit) {
		return r, false, nil
	}
	if err != nil {
		return r, false, cni.IOErrorf("read a record: %w", err)
	}
	if json.Unmarshal(data, &r) != nil {
		return Record[T]{}, false, nil
	}
	return r, true, nil
}

// Remove forgets the owner, who had shares. It may be called again, and a DEL calls it
// also where there is no record: what a Write was killed over goes, too.
func (s Store) Remove(place string, o cni.Owner, shares []string) error {
	var errs []error
	for _, share := range shares {
		dir := s.share(place, share)
		errs = append(errs, remove(filepath.Join(dir, key(o))), removeDir(dir))
	}
	return errors.Join(append(errs, remove(freshFile(s.file(place, o))), remove(s.file(place, o)))...)
}

// Others says whether anybody beside the owner has a share, by no more of the
// directory than tells. Links that lead to no record go.
func (s Store) Others(place, share string, o cni.Owner) (bool, error) {
	dir, err := os.OpenFile(s.share(place, share), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look who shares: %w", err)
	}
	defer func() { _ = dir.Close() }() // only read from
	for {
		names, err := dir.Readdirnames(2)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, cni.IOErrorf("look who shares: %w", err)
		}
		for _, name := range names {
			if name == key(o) {
				continue
			}
			path := filepath.Join(dir.Name(), name)
			if _, err := os.Stat(path); err == nil {
				return true, nil
			} else if !leadsNowhere(err) {
				return false, cni.IOErrorf("look who shares: %w", err)
			}
			if err := remove(path); err != nil {
				return false, err
			}
		}
	}
}

// leadsNowhere says whether the error of stat(2) is that of a link to nothing, rather than
// of a look that failed.
func leadsNowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// List gives the records of a network, or of all where network is empty. It changes
// nothing: CHECK lists while others write.
func List[T any](s Store, place, network string) ([]Record[T], error) {
	all, _, err := list[T](s, place, network)
	return all, err
}

// LatestVersion is the highest Version of the records that were written last, one of each
// place and network: that of the plugins at work. 0 where there is none. Earlier releases
// had other directories and files beside, which are no records, and what cannot be read
// says nothing.
func (s Store) LatestVersion() (int, error) {
	places, err := names(s.dir)
	latest, errs := 0, []error{err}
	for _, place := range places {
		networks, err := names(filepath.Join(s.dir, place))
		errs = append(errs, err)
		for _, network := range networks {
			path, err := lastWritten(filepath.Join(s.dir, place, network))
			errs = append(errs, err)
			r, whole, err := readFile[json.RawMessage](path)
			if err == nil && whole && filepath.Base(path) == key(r.Owner) {
				latest = max(latest, r.Version)
			}
		}
	}
	return latest, errors.Join(errs...)
}

// lastWritten is the path of the directory's file that was written last.
func lastWritten(dir string) (string, error) {
	files, err := names(dir)
	last, path := int64(0), ""
	for _, name := range files {
		var stat unix.Stat_t
		if unix.Lstat(dir+"/"+name, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
			continue // it went meanwhile, or is a link of a share
		}
		if at := stat.Mtim.Nano(); at > last {
			last, path = at, dir+"/"+name
		}
	}
	return path, err
}

// Sweep is List, and removes what tells of nobody: files that hold no record, which a
// kill or a full disk left, and links of shares that lead to none. Who calls it holds
// the lock.
func Sweep[T any](s Store, place, network string) ([]Record[T], error) {
	all, void, err := list[T](s, place, network)
	errs := []error{err}
	for _, path := range void {
		errs = append(errs, remove(path))
	}
	shares := s.Dir(place + ".shared")
	dirs, err := names(shares)
	errs = append(errs, err)
	for _, dir := range dirs {
		links, err := names(filepath.Join(shares, dir))
		errs = append(errs, err)
		for _, link := range links {
			path := filepath.Join(shares, dir, link)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, remove(path))
			}
		}
		errs = append(errs, removeDir(filepath.Join(shares, dir)))
	}
	return all, errors.Join(errs...)
}

// list also gives the paths of files that hold no record.
func list[T any](s Store, place, network string) (all []Record[T], void []string, err error) {
	networks := []string{network}
	if network == "" {
		if networks, err = names(filepath.Join(s.dir, place)); err != nil {
			return nil, nil, err
		}
	}
	var errs []error
	for _, network := range networks {
		dir := filepath.Join(s.dir, place, network)
		files, err := names(dir)
		errs = append(errs, err)
		found, err := readAll[T](dir, files)
		errs, all = append(errs, err), slices.Grow(all, len(files))
		for i, name := range files {
			switch r := found[i]; {
			case r.err != nil:
				errs = append(errs, r.err)
			case !r.whole || name != key(r.record.Owner):
				void = append(void, filepath.Join(dir, name))
			default:
				all = append(all, r.record)
			}
		}
	}
	return all, void, errors.Join(errs...)
}

// found is what is in a file.
type found[T any] struct {
	record Record[T]
	whole  bool
	err    error
}

// readAll reads the files of a directory, a share of them by each CPU: it is most of what
// GC does beside a thousand attachments.
func readAll[T any](dir string, files []string) ([]found[T], error) {
	const worthwhile = 64 // for a thread more
	all := make([]found[T], len(files))
	workers := min(runtime.GOMAXPROCS(0), 1+len(files)/worthwhile)
	errs := make([]error, workers)
	read := func(w int) {
		errs[w] = cni.Catch(func() error {
			for i := w * len(files) / workers; i < (w+1)*len(files)/workers; i++ {
				all[i].record, all[i].whole, all[i].err = readFile[T](dir + "/" + files[i])
			}
			return nil
		})
	}
	var wait sync.WaitGroup
	for w := range workers - 1 {
		wait.Go(func() { read(w) })
	}
	read(workers - 1)
	wait.Wait()
	return all, errors.Join(errs...)
}

func names(dir string) ([]string, error) {
	all, err := rawfile.Names(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, cni.IOErrorf("list records: %w", err)
	}
	slices.Sort(all)
	return all, nil
}

// remove removes a file, or what lies in its place.
func remove(path string) error {
	err := unix.Unlink(path)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Rmdir(path)
	}
	return removed(path, err)
}

// removeDir removes an empty directory.
func removeDir(path string) error { return removed(path, unix.Rmdir(path)) }

// removed: what is gone already, and a directory that still holds something, is left
// unchanged. (os.Remove tries both kinds, since it is told of neither.)
func removed(path string, err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return cni.IOErrorf("remove a record: %w", &fs.PathError{Op: "remove", Path: path, Err: err})
}
