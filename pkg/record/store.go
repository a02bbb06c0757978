// Package record stores in /run what each attachment has on the host: one file for each
// attachment and place ("firewall", "tuning" …). In Store.Locked a caller writes the
// record, makes what it tells of, and on DEL removes the record last. So whatever a killed
// process leaves, the next DEL, GC or restore finds.
//
//	/run/trestle/lock                          held while records and the kernel are changed
//	/run/trestle/<place>/<network>/<owner>     a Record; <owner> is the hash of its owner
//	/run/trestle/<place>.shared/<share>/<owner> -> the Record of one who needs <share>
//
// Start at Write, Read and Remove; Store.Others tells whether a share has another user,
// Prober.Life whether the attachment of a record is alive. To debug: the files are JSON,
// and each names its owner; one that was edited needs its last key, crc32, removed.
//
// A truncated or damaged record counts as none, as does anything that is no regular file, and a link
// without its record is void: Sweep removes them. They do not affect other attachments.
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

// DefaultDir is the directory of records. It is on a file system that a reboot empties, as
// it empties the kernel of what the records tell of.
const DefaultDir = "/run/trestle"

// Version is the version of the records that this release writes. Plugins read a later one
// as far as they understand it; the command trestle then refuses to change anything.
const Version = 1

// Store is a directory of records.
type Store struct{ dir string }

// Open is the store in dir. It reads and makes nothing yet.
func Open(dir string) Store { return Store{dir} }

// Dir is the path of something in the store's directory: a place, or what is no record.
func (s Store) Dir(name string) string { return filepath.Join(s.dir, name) }

// Status is an error of code 50 if no record could be written, so that an ADD would fail.
func (s Store) Status() error {
	if err := rawfile.CheckRoom(s.dir); err != nil {
		return cni.UnavailableErrorf("records of attachments: %w; make it writable, with room", err)
	}
	return nil
}

// Locked calls do while all others are excluded who change records, or what those tell of. Callers
// take about a millisecond; the error of a wait that took too long names the holder.
func (s Store) Locked(do func() error) error {
	lock, err := flock.Create(s.Dir("lock"), flock.Exclusive, flock.DefaultWait)
	if err != nil {
		return err
	}
	return errors.Join(do(), lock.Unlock())
}

// Record is what an attachment has in one place.
type Record[T any] struct {
	Version int
	Stamp   Stamp // proves the attachment dead or alive
	Owner   cni.Owner
	// Shares name what the attachment needs and others may need, too; each becomes the
	// name of a directory.
	Shares []string `json:",omitempty"`
	Value  T
}

func (s Store) share(place, share string) string {
	return filepath.Join(s.dir, place+".shared", strings.ReplaceAll(share, "/", "_"))
}

// key is the name of an owner's files.
func key(o cni.Owner) string { return o.Hash(32) }

// Path is the path of the owner's record; callers make links to it.
func (s Store) Path(place string, o cni.Owner) string {
	return filepath.Join(s.dir, place, o.Network, key(o))
}

// Write writes the record atomically (rawfile.Replace), and links from its Shares. If the process
// is killed meanwhile, the former record is still there.
func Write[T any](s Store, place string, r Record[T]) error {
	r.Version = Version
	data, err := cni.MarshalOnce(r)
	if err != nil {
		return err
	}
	data = AddSum(data)
	if err := s.makeDir(filepath.Join(place, r.Owner.Network)); err != nil {
		return err
	}
	path := s.Path(place, r.Owner)
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

// freshFile is the file that a record is written to before it is renamed to path.
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

// makeDir makes a directory in the store's, and that one if it is missing, for root alone.
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

// Has says whether the owner's file exists, in one system call; it may be truncated.
func (s Store) Has(place string, o cni.Owner) (bool, error) {
	path := s.Path(place, o)
	err := unix.Access(path, unix.F_OK)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look for a record: %w", &fs.PathError{Op: "access", Path: path, Err: err})
	}
	return true, nil
}

// Read is the owner's record; there is false if the file is missing, truncated or damaged.
func Read[T any](s Store, place string, o cni.Owner) (r Record[T], there bool, err error) {
	r, there, err = At[T](s.Path(place, o))
	return r, there && r.Owner == o, err
}

// At is the record at a path, or at the end of a link, whoever is its owner; there is false
// if the file is missing, truncated or damaged.
func At[T any](path string) (r Record[T], there bool, err error) {
	return at[T](path, cni.UnmarshalOnce)
}

// at is At by a function that decodes: UnmarshalOnce for one record, the library for many.
func at[T any](path string, unmarshal func([]byte, any) error) (r Record[T], there bool, err error) {
	data, err := rawfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rawfile.ErrUnfit) {
		return r, false, nil
	}
	if err != nil {
		return r, false, cni.IOErrorf("read a record: %w", err)
	}
	r, there = decode[T](data, unmarshal)
	return r, there, nil
}

// decode reads a record; ok is false if it is truncated or damaged.
func decode[T any](data []byte, unmarshal func([]byte, any) error) (r Record[T], ok bool) {
	if !IsIntact(data) || unmarshal(data, &r) != nil {
		return Record[T]{}, false
	}
	return r, true
}

// Remove removes the owner's record and the links from its shares. It is idempotent, and DEL
// calls it also without a record, since it removes what a killed Write left, too.
func (s Store) Remove(place string, o cni.Owner, shares []string) error {
	var errs []error
	for _, share := range shares {
		dir := s.share(place, share)
		errs = append(errs, remove(filepath.Join(dir, key(o))), removeDir(dir))
	}
	path := s.Path(place, o)
	return errors.Join(append(errs, remove(freshFile(path)), remove(path))...)
}

// Others says whether anybody but the owner has a share. It reads no more of the directory
// than that takes, and removes the links without a record that it meets.
func (s Store) Others(place, share string, o cni.Owner) (bool, error) {
	dir, err := os.OpenFile(s.share(place, share), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look who shares: %w", err)
	}
	defer func() { _ = dir.Close() }() // opened for reading only
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

// leadsNowhere says whether the error of stat(2) means that the link's target does not
// exist, rather than that it could not be looked at.
func leadsNowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// List is the records of a network, or of all networks if network is empty. It changes
// nothing and needs no lock: CHECK lists while others write.
func List[T any](s Store, place, network string) ([]Record[T], error) {
	all, _, err := list[T](s, place, network)
	return all, err
}

// LatestVersion tells which release of the plugins writes records now: the highest Version
// of the latest record of each place and network; 0 if there is none. Other files, as
// earlier releases had them, and records that cannot be read are skipped.
func (s Store) LatestVersion() (int, error) {
	places, err := names(s.dir)
	latest, errs := 0, []error{err}
	for _, place := range places {
		networks, err := names(filepath.Join(s.dir, place))
		errs = append(errs, err)
		for _, network := range networks {
			path, err := lastWritten(filepath.Join(s.dir, place, network))
			errs = append(errs, err)
			r, there, err := At[json.RawMessage](path)
			if err == nil && there && filepath.Base(path) == key(r.Owner) {
				latest = max(latest, r.Version)
			}
		}
	}
	return latest, errors.Join(errs...)
}

// lastWritten is the path of the directory's latest file.
func lastWritten(dir string) (string, error) {
	files, err := names(dir)
	last, path := int64(0), ""
	for _, name := range files {
		var stat unix.Stat_t
		if unix.Lstat(dir+"/"+name, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
			continue // removed meanwhile, or the link of a share
		}
		if at := stat.Mtim.Nano(); at > last {
			last, path = at, dir+"/"+name
		}
	}
	return path, err
}

// Sweep is List, and removes what belongs to nobody: files without a complete record, which
// a kill or a full disk left, and links without a record. The caller holds the lock.
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

// list returns the records, and as void the paths of files without a complete one.
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
			case !r.complete || name != key(r.record.Owner):
				void = append(void, filepath.Join(dir, name))
			default:
				all = append(all, r.record)
			}
		}
	}
	return all, void, errors.Join(errs...)
}

// found is the content of a file.
type found[T any] struct {
	record   Record[T]
	complete bool
	err      error
}

// readAll reads the files of a directory on all CPUs: with a thousand attachments, that is
// most of the work of a GC.
func readAll[T any](dir string, files []string) ([]found[T], error) {
	const perWorker = 64 // fewer files are not worth a thread
	all := make([]found[T], len(files))
	workers := min(runtime.GOMAXPROCS(0), 1+len(files)/perWorker)
	errs := make([]error, workers)
	read := func(w int) {
		errs[w] = cni.Catch(func() error {
			for i := w * len(files) / workers; i < (w+1)*len(files)/workers; i++ {
				all[i].record, all[i].complete, all[i].err = at[T](dir+"/"+files[i], json.Unmarshal)
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

// remove removes a file, or an empty directory in its place.
func remove(path string) error {
	err := unix.Unlink(path)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Rmdir(path)
	}
	return removed(path, err)
}

// removeDir removes an empty directory.
func removeDir(path string) error { return removed(path, unix.Rmdir(path)) }

// removed makes the error of a removal: none if there was nothing, or if a directory is not
// empty. (os.Remove is not used, since it tries both unlink and rmdir.)
func removed(path string, err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return cni.IOErrorf("remove a record: %w", &fs.PathError{Op: "remove", Path: path, Err: err})
}
