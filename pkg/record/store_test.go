package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
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
