package rawfile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unfit puts at a path what is none of our files.
func unfit(t *testing.T) map[string]func(path string) error {
	fifo := func(path string) error { return unix.Mkfifo(path, 0o600) }
	heldOpen := func(path string) error {
		if err := fifo(path); err != nil {
			return err
		}
		other, err := os.OpenFile(path, os.O_RDWR, 0) // both ends: who opens it is not kept waiting, who reads is
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = other.Close() })
		_, err = other.WriteString(`{"Version":1}`)
		return err
	}
	return map[string]func(path string) error{
		"a FIFO":             fifo,
		"a FIFO that speaks": heldOpen,
		"a link to a FIFO": func(path string) error {
			return errors.Join(fifo(path+".fifo"), os.Symlink(path+".fifo", path))
		},
		"a socket": func(path string) error {
			listener, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { _ = listener.Close() })
			}
			return err
		},
		"a directory":        func(path string) error { return os.Mkdir(path, 0o700) },
		"an endless device":  func(path string) error { return os.Symlink("/dev/zero", path) },
		"a link to itself":   func(path string) error { return os.Symlink(path, path) },
		"a gigabyte of none": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30)) },
	}
}

// within runs what may not wait for anybody.
func within(t *testing.T, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("it waits")
		return nil
	}
}

// TestUnfit: what is no regular file, or a huge one, is told from a file at once, and is
// in nobody's way.
func TestUnfit(t *testing.T) {
	t.Parallel()
	for what, put := range unfit(t) {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			var data []byte
			err := within(t, func() (err error) { data, err = Read(path); return err })
			if !errors.Is(err, ErrUnfit) || data != nil || !strings.Contains(err.Error(), path) {
				t.Errorf("read: got %d bytes, %v, want %v of %s", len(data), err, ErrUnfit, path)
			}
			err = within(t, func() error { _, err := Open(path); return err })
			if !errors.Is(err, ErrUnfit) {
				t.Errorf("open: got %v, want %v", err, ErrUnfit)
			}
			if err := within(t, func() error { return Write(path, []byte("ours"), 0o600) }); err != nil {
				t.Errorf("write: got %v", err)
			}
			if data, err := Read(path); err != nil || string(data) != "ours" {
				t.Errorf("read what was written: got %q, %v", data, err)
			}
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
				t.Errorf("got %v, %v, want a file of our own", info, err)
			}
		})
	}
}

// TestReplace: a file is the former one or the whole new one, whatever stands where it is
// written first; nothing is left beside it.
func TestReplace(t *testing.T) {
	t.Parallel()
	for what, put := range unfit(t) {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			path, fresh := filepath.Join(dir, "f"), filepath.Join(dir, ".f")
			if err := errors.Join(os.WriteFile(path, []byte("former"), 0o600), put(fresh)); err != nil {
				t.Fatal(err)
			}
			if err := within(t, func() error { return Replace(path, fresh, []byte("ours"), 0o600) }); err != nil {
				t.Errorf("got %v", err)
			}
			if data, err := Read(path); err != nil || string(data) != "ours" {
				t.Errorf("got %q, %v", data, err)
			}
			if _, err := os.Lstat(fresh); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("beside it: got %v, want nothing", err)
			}
		})
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "of-somebody-else"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, filepath.Join(dir, ".f"), []byte("ours"), 0o600); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("over a directory with something in it: got %v, want an error", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want the directory alone", entries, err)
	}
}

// TestReadAll: what is written is read, of any size up to the limit, and no more is written.
func TestReadAll(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	for _, size := range []int{0, 1, 511, 512, 513, 4096, 100_000} {
		want := strings.Repeat("x", size)
		if err := Write(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if data, err := Read(path); err != nil || string(data) != want {
			t.Errorf("%d bytes: got %d, %v", size, len(data), err)
		}
	}
	if err := Write(path, make([]byte, limit+1), 0o600); !errors.Is(err, ErrUnfit) {
		t.Errorf("more than the limit: got %v, want %v", err, ErrUnfit)
	}
	if _, err := Read(path + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestCheckRoom(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{dir: nil, filepath.Join(dir, "none", "yet"): nil, file: unix.EACCES, filepath.Join(file, "below"): unix.ENOTDIR} {
		if err := CheckRoom(path); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}

func TestHasRoom(t *testing.T) {
	for _, tt := range []struct {
		name       string
		on         unix.Statfs_t
		root, want bool
	}{
		{"room", unix.Statfs_t{Bfree: 9, Bavail: 4, Files: 8, Ffree: 1}, false, true},
		{"no inodes are counted", unix.Statfs_t{Bfree: 9, Bavail: 4}, false, true},
		{"no inode", unix.Statfs_t{Bfree: 9, Bavail: 4, Files: 8}, true, false},
		{"root's reserve is left", unix.Statfs_t{Bfree: 5}, true, true},
		{"only root's reserve is left", unix.Statfs_t{Bfree: 5}, false, false},
		{"full", unix.Statfs_t{}, true, false},
	} {
		if got := hasRoom(tt.on, tt.root); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}
