package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// dir is an open directory. Names in it are single path elements, and no operation follows a
// symbolic link there: whoever may write to the directory must not be able to make us write
// somewhere else. System calls are made directly, since os.File would register each small
// file with Go's poller.
type dir struct {
	fd   int
	path string
}

// openDir opens the directory at path, following symbolic links.
func openDir(path string) (dir, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return dir{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return dir{fd, path}, nil
}

func (d dir) close() { _ = unix.Close(d.fd) } // nothing was written through it

func (d dir) failed(op, name string, err error) error {
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w (a link is not followed here; remove it)", err)
	}
	return &os.PathError{Op: op, Path: d.path + "/" + name, Err: err}
}

// open opens a file in d. O_NONBLOCK keeps a FIFO in its place from blocking us for ever.
func (d dir) open(name string, flags int) (int, error) {
	fd, err := unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, d.failed("open", name, err)
	}
	return fd, nil
}

func (d dir) sub(name string) (dir, error) {
	fd, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	return dir{fd, d.path + "/" + name}, err
}

// makeSub opens the directory name in d, making it if it is missing.
func (d dir) makeSub(name string) (dir, error) {
	sub, err := d.sub(name)
	if !errors.Is(err, unix.ENOENT) {
		return sub, err
	}
	if err := unix.Mkdirat(d.fd, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return dir{}, d.failed("mkdir", name, err)
	}
	return d.sub(name)
}

// read reads a file into buf, as far as that has room, and returns what it read.
func (d dir) read(name string, buf []byte) ([]byte, error) {
	fd, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return d.readFrom(fd, name, buf)
}

// readStat is read, and also returns the file's status.
func (d dir) readStat(name string, buf []byte) (data []byte, stat unix.Stat_t, err error) {
	fd, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, stat, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, stat, d.failed("stat", name, err)
	}
	data, err = d.readFrom(fd, name, buf)
	return data, stat, err
}

func (d dir) readFrom(fd int, name string, buf []byte) ([]byte, error) {
	n, err := unix.Read(fd, buf)
	if err != nil && !errors.Is(err, unix.EAGAIN) { // EAGAIN: a FIFO without data
		return nil, d.failed("read", name, err)
	}
	return buf[:max(n, 0)], nil
}

// create creates a file with the content; after an error there is none. If the name is taken,
// it fails with EEXIST.
func (d dir) create(name string, data []byte) error {
	fd, err := d.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	if err := d.fill(fd, name, data); err != nil {
		return errors.Join(err, d.remove(name))
	}
	return nil
}

// overwrite writes data to the beginning of a file, which it creates if it does not exist. It
// never truncates: on ext4 that costs fifty times as much as writing in place
// (fs/ext4/namei.c, auto_da_alloc).
func (d dir) overwrite(name string, data []byte) error {
	fd, err := d.open(name, unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	return d.fill(fd, name, data)
}

// fill writes data to fd and closes it.
func (d dir) fill(fd int, name string, data []byte) error {
	n, err := unix.Write(fd, data)
	if err == nil && n < len(data) {
		err = unix.ENOSPC
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err != nil {
		return d.failed("write", name, err)
	}
	return nil
}

// rewrite replaces the content of an existing file by one write(2), so that after a kill it
// has either the old or the new one. If the old one was longer, line breaks fill the rest.
func (d dir) rewrite(name string, data []byte) error {
	fd, err := d.open(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return errors.Join(d.failed("stat", name, err), unix.Close(fd))
	}
	if rest := int(stat.Size) - len(data); rest > 0 {
		data = append(slices.Clip(data), bytes.Repeat([]byte("\n"), rest)...)
	}
	return d.fill(fd, name, data)
}

// remove removes a file, or an empty directory in its place. It is no error if there is none.
func (d dir) remove(name string) error {
	err := unix.Unlinkat(d.fd, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return d.failed("remove", name, err)
	}
	return nil
}

// setTime sets the modification time of a file in d ("." for d itself), in seconds since
// 1970. It does nothing for a negative time, which is that of a record without one.
func (d dir) setTime(name string, sec int64) error {
	if sec < 0 {
		return nil
	}
	modified, err := unix.TimeToTimespec(time.Unix(sec, 0))
	if err != nil { // on a 32-bit system, after 2038
		return d.failed("set time of", name, err)
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, modified}
	if err := unix.UtimesNanoAt(d.fd, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d.failed("set time of", name, err)
	}
	return nil
}

func (d dir) stat() (unix.Stat_t, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(d.fd, &stat); err != nil {
		return stat, d.failed("stat", ".", err)
	}
	return stat, nil
}

// names lists d, in no order.
func (d dir) names() ([]string, error) {
	fd, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, d.failed("list", ".", err)
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// makeDirs opens path, after creating it and its parents if need be.
func makeDirs(path string) (dir, error) {
	d, err := openDir(path)
	if !errors.Is(err, unix.ENOENT) {
		return d, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return dir{}, fmt.Errorf("make the data directory: %w", err)
	}
	return openDir(path)
}
