// Package rawfile reads and writes small files by direct system calls. Package os registers
// each file with Go's poller, which takes six more system calls although a regular file cannot
// be polled: most of the system calls that an ADD makes for files. Write is not atomic: a caller
// that needs either the old or the new file writes another one and renames it (pkg/record).
package rawfile

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Read is the content of the regular file at path. The error is an *fs.PathError.
func Read(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only
	data := make([]byte, 0, 1024)
	for {
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

// Write replaces the content of the file at path, which it creates if need be. It does not
// follow a symbolic link. After an error the file may have a part of the data.
func Write(path string, data []byte, mode uint32) error {
	fd, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, mode)
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

func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
