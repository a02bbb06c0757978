// Package rawfile reads and writes small regular files by their system calls alone. What
// package os opens it offers to Go's poller, and asks and sets flags for that, which is
// six calls a file that can never be polled: most of what an ADD has to do with files.
// Write replaces what is there but not by a rename; Replace does, for who needs the whole of
// a file or the former one.
//
// State, and lists of networks, are found by name, and anything may have got there: nothing
// here waits for the other end of a FIFO, asks a device, or takes gigabytes into memory. It
// is ErrUnfit instead.
package rawfile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Limit is the most bytes that a file may have: several times the record of an attachment
// that maps every port of the host.
const Limit = 64 << 20

// ErrUnfit says that what stands at a path is none of our files.
var ErrUnfit = errors.New("not a regular file of at most 64 MiB")

// Read gives all of the regular file at path. The error is an *fs.PathError, with ErrUnfit in
// it for anything else.
func Read(path string) ([]byte, error) {
	fd, size, err := openRegular(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()          // only read from
	data := make([]byte, 0, max(int(size)+1, 512)) // one more, so that it is not filled
	for {
		if len(data) > Limit { // it has grown meanwhile
			return nil, &fs.PathError{Op: "read", Path: path, Err: ErrUnfit}
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
		n, err := unix.Read(fd, data[len(data):cap(data)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return data, nil
		}
		if data = data[:len(data)+n]; len(data) < cap(data) {
			return data, nil // a regular file gives all that fits
		}
	}
}

// Open opens the regular file at path to read from, or to lock. The error is as Read's.
func Open(path string) (*os.File, error) {
	fd, _, err := openRegular(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Write makes the file at path hold data, which is not more than Read takes. What stands
// there and is no regular file, a symbolic link among them, is removed first: path is a name
// of ours. Where it fails the file may hold a part.
func Write(path string, data []byte, mode uint32) error {
	if len(data) > Limit {
		return &fs.PathError{Op: "write", Path: path, Err: ErrUnfit}
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_NOFOLLOW
	fd, _, err := openRegular(path, flags, mode)
	if errors.Is(err, ErrUnfit) && os.Remove(path) == nil {
		fd, _, err = openRegular(path, flags, mode)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	for len(data) > 0 && err == nil {
		var n int
		n, err = unix.Write(fd, data)
		if errors.Is(err, unix.EINTR) {
			n, err = 0, nil
		}
		data = data[max(n, 0):]
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// Replace makes the file at path hold data, all of it or, after a kill, what it held before.
// It is written as fresh, in the same directory, and renamed.
func Replace(path, fresh string, data []byte, mode uint32) error {
	err := Write(fresh, data, mode)
	if err == nil {
		if err = unix.Rename(fresh, path); err == nil {
			return nil
		}
		err = &os.LinkError{Op: "rename", Old: fresh, New: path, Err: err}
	}
	if left := os.Remove(fresh); !errors.Is(left, fs.ErrNotExist) {
		err = errors.Join(err, left)
	}
	return err
}

// Names are those of all that is in the directory at path, in no order. The error is an
// *fs.PathError.
func Names(path string) ([]string, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // only read from
	return names(fd, path)
}

func names(fd int, path string) ([]string, error) {
	var names []string
	for buffer := make([]byte, 8192); ; {
		n, err := unix.ReadDirent(fd, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

// Links are all that is in the directory at path, in no order, with what the symbolic
// links among it lead to; "" stands for what is none. The error is an *fs.PathError.
func Links(path string) (all []Link, err error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // only read from
	names, err := names(fd, path)
	for _, name := range names {
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, name, target)
		if err != nil {
			n = 0
		}
		all = append(all, Link{name, string(target[:n])})
	}
	return all, err
}

// Link is a name in a directory.
type Link struct{ Name, Target string }

func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// openRegular opens a regular file of a size that Limit allows, which it gives. The error is
// ErrUnfit for anything else. O_NONBLOCK keeps a FIFO from waiting for its other end, and is nothing to a regular
// file (open(2)).
func openRegular(path string, flags int, mode uint32) (fd int, size int64, err error) {
	var stat unix.Stat_t
	if fd, err = open(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY, mode); err != nil {
		// a directory to write to, a socket, a device where there may be none: errors of several kinds
		look := unix.Stat
		if flags&unix.O_NOFOLLOW != 0 {
			look = unix.Lstat
		}
		if errors.Is(err, unix.ELOOP) || look(path, &stat) == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG {
			err = ErrUnfit
		}
		return -1, 0, err
	}
	err = unix.Fstat(fd, &stat)
	if err == nil && (stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Size > Limit) {
		err = ErrUnfit
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return -1, 0, err
	}
	return fd, stat.Size, nil
}
