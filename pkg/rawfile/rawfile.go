// Package rawfile reads and writes small regular files by direct system calls. Package os
// registers each file with Go's poller, which takes six more system calls although a regular
// file cannot be polled: most of the system calls that an ADD makes for files. Write is not
// atomic: a caller that needs either the old or the new file uses Replace.
//
// State and network lists are found by name, and anything may be there: nothing here waits
// for the other end of a FIFO, reads a device, or takes gigabytes into memory. The error is
// ErrUnfit instead.
package rawfile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// limit is the most bytes that a file may have: several times the record of an attachment
// that maps every port of the host.
const limit = 64 << 20

// ErrUnfit says that there is something at a path that is none of our files.
var ErrUnfit = errors.New("not a regular file of at most 64 MiB")

// Read is the content of the regular file at path. The error is an *fs.PathError, which wraps
// ErrUnfit for anything else.
func Read(path string) ([]byte, error) {
	fd, size, err := openRegular(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()          // opened for reading only
	data := make([]byte, 0, max(int(size)+1, 512)) // one more, so that it is not filled
	for {
		if len(data) > limit { // it has grown meanwhile
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
			return data, nil // a short read of a regular file means its end
		}
	}
}

// Open opens the regular file at path to read from it, or to lock it. The error is as Read's.
func Open(path string) (*os.File, error) {
	fd, _, err := openRegular(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Write replaces the content of the file at path, which it creates if need be, by no more
// than Read takes. Anything that is no regular file, such as a symbolic link, is removed
// first: the name is one of ours. After an error the file may have a part of the data.
func Write(path string, data []byte, mode uint32) error {
	if len(data) > limit {
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

// Replace replaces the file at path, which is text: after an error, or a kill, it is the former
// one. The content is written to fresh, in the same directory, which is then renamed. If the file
// system has no room for that, the former file is written over, as far as its room goes: so DEL
// can shorten a record on a full /run, where containers have to be deleted.
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
	if (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) && writeOver(path, data) == nil {
		return nil
	}
	return err
}

// writeOver puts text over that of the file at path, if it has the room. Until the file is cut
// off, line feeds fill what the new text is shorter by: one write of no more than a page is done
// or not, whatever kills us (generic_perform_write, mm/filemap.c).
func writeOver(path string, data []byte) error {
	fd, size, err := openRegular(path, unix.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	if err = unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, int64(max(len(data), 1))); err == nil {
		filled := append(slices.Clip(data), bytes.Repeat([]byte("\n"), max(int(size)-len(data), 0))...)
		var n int
		if n, err = unix.Pwrite(fd, filled, 0); err == nil && n < len(filled) {
			err = io.ErrShortWrite
		}
		if err == nil {
			err = unix.Ftruncate(fd, int64(len(data)))
		}
	}
	return errors.Join(err, unix.Close(fd))
}

// Names are the names in the directory at path, in no order. The error is an *fs.PathError.
func Names(path string) ([]string, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only
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

// Links are the entries of the directory at path, in no order, with the targets of symbolic
// links; Target is "" for other files. The error is an *fs.PathError.
func Links(path string) (all []Link, err error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only
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

// CheckRoom is an error unless files can be made in the directory at path or, where there is
// none yet, in the nearest one above it, where it would be made. The error is an *fs.PathError
// of that; it wraps ENOSPC for a full file system. It writes nothing.
func CheckRoom(path string) error {
	err := unix.Access(path, unix.W_OK|unix.X_OK)
	for errors.Is(err, unix.ENOENT) && path != filepath.Dir(path) {
		path = filepath.Dir(path)
		err = unix.Access(path, unix.W_OK|unix.X_OK)
	}
	var on unix.Statfs_t
	if err == nil {
		err = unix.Statfs(path, &on)
	}
	if err == nil && !hasRoom(on, os.Geteuid() == 0) {
		err = unix.ENOSPC
	}
	if err != nil {
		return &fs.PathError{Op: "write to", Path: path, Err: err}
	}
	return nil
}

// hasRoom says whether the file system has a free block and a free inode. It may reserve blocks
// for root (mke2fs(8), -m), and a file system without a fixed number of inodes shows none.
func hasRoom(on unix.Statfs_t, root bool) bool {
	blocks := on.Bavail
	if root {
		blocks = on.Bfree
	}
	return blocks > 0 && (on.Files == 0 || on.Ffree > 0)
}

func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// openRegular opens a regular file of a size that limit allows, which it gives. The error is
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
	if err == nil && (stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Size > limit) {
		err = ErrUnfit
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return -1, 0, err
	}
	return fd, stat.Size, nil
}
