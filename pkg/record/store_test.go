package record

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// CHECK lists records without the lock: what another process is about to write stays,
// until somebody who has the lock clears up.
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
