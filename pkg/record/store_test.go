package record

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// List, which CHECK calls without the lock, does not remove the file that another process is
// writing; Sweep, under the lock, does.
func TestListChangesNothing(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	whole := Record[int]{Owner: cni.Owner{Network: "n", ContainerID: "c", IfName: "eth0"}, Value: 1}
	if err := Write(s, "place", whole); err != nil {
		t.Fatal(err)
	}
	path := s.Path("place", whole.Owner)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	others := map[string][]byte{freshFile(path): data, filepath.Join(filepath.Dir(path), "truncated"): data[:5], filepath.Join(filepath.Dir(path), "copy"): data}
	for name, content := range others {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, sweep := range []bool{false, true} {
		list := List[int]
		if sweep {
			list = Sweep[int]
		}
		all, err := list(s, "place", "")
		if err != nil || len(all) != 1 || all[0].Owner != whole.Owner {
			t.Errorf("got %v, %v, want the one record", all, err)
		}
		for name := range others {
			if _, err := os.Lstat(name); os.IsNotExist(err) != sweep {
				t.Errorf("swept %v: %s: got %v", sweep, name, err)
			}
		}
	}
}

// A link that cannot be looked at counts as a user of the share; only one that leads nowhere
// is void.
func TestOthersWhoCannotBeLookedAt(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	o := cni.Owner{Network: "n", ContainerID: "c", IfName: "eth0"}
	dir := s.share("place", "share")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for target, void := range map[string]bool{"nowhere": true, strings.Repeat("n", 300): false} { // more than NAME_MAX
		link := filepath.Join(dir, "other")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		shared, err := s.Others("place", "share", o)
		if shared || (err == nil) != void {
			t.Errorf("%.9s…: got %v, %v, want an error: %v", target, shared, err, !void)
		}
		if _, err := os.Lstat(link); os.IsNotExist(err) != void {
			t.Errorf("%.9s…: got %v of the link, want it gone: %v", target, err, void)
		}
		_ = os.Remove(link) // the next one's name
	}
}

// TestNoRecords: whatever else stands among records is none, waits for nobody, and goes with
// a sweep; it is in the way of no record.
func TestNoRecords(t *testing.T) {
	t.Parallel()
	for what, put := range map[string]func(path string) error{
		"a FIFO":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"a gigabyte":  func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30)) },
	} {
		t.Run(what, func(t *testing.T) {
			s := Open(t.TempDir())
			kept := Record[int]{Owner: cni.Owner{Network: "n", ContainerID: "c", IfName: "eth0"}, Value: 1}
			lost := Record[int]{Owner: cni.Owner{Network: "n", ContainerID: "lost", IfName: "eth0"}, Value: 2}
			path := s.Path("place", lost.Owner)
			if err := errors.Join(Write(s, "place", kept), put(path), put(freshFile(path))); err != nil {
				t.Fatal(err)
			}
			if _, there, err := Read[int](s, "place", lost.Owner); there || err != nil {
				t.Errorf("read: got %v, %v, want none", there, err)
			}
			if _, err := s.LatestVersion(); err != nil {
				t.Errorf("latest version: got %v", err)
			}
			for _, list := range []func(Store, string, string) ([]Record[int], error){List[int], Sweep[int]} {
				if all, err := list(s, "place", ""); err != nil || len(all) != 1 || all[0].Owner != kept.Owner {
					t.Errorf("got %v, %v, want the one record", all, err)
				}
			}
			if names, err := rawfile.Names(filepath.Dir(path)); err != nil || len(names) != 1 {
				t.Errorf("swept: got %v, %v, want the one record", names, err)
			}
			if err := errors.Join(put(path), put(freshFile(path))); err != nil {
				t.Fatal(err)
			}
			if what == "a directory" { // a file takes the place of anything else
				_ = os.Remove(path)
			}
			if err := Write(s, "place", lost); err != nil {
				t.Errorf("write: got %v", err)
			}
			if got, there, err := Read[int](s, "place", lost.Owner); !there || err != nil || got.Value != 2 {
				t.Errorf("got %v, %v, %v, want what was written", got, there, err)
			}
		})
	}
}

// TestOthersWhereThereIsNoDirectory: nobody shares what is no directory of links.
func TestOthersWhereThereIsNoDirectory(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	dir := s.share("place", "share")
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o700), unix.Mkfifo(dir, 0o600)); err != nil {
		t.Fatal(err)
	}
	if shared, err := s.Others("place", "share", cni.Owner{}); shared || err != nil {
		t.Errorf("got %v, %v, want nobody", shared, err)
	}
}
