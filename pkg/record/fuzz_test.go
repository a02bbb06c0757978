package record

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// FuzzRead: whatever is in a record's file, it is read as a record of its owner, or as none.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"Owner":{"Network":"net","ContainerID":"c1","IfName":"eth0"},"Stamp":{"boot":"b","time":"2001-02-03T04:05:06Z"},"Shares":["br0"],"Value":{"Bridge":"br0"}}`))
	f.Add([]byte(`{"Owner":null,"Shares":[null],"Value":[]}`))
	f.Add([]byte{})
	type rules struct{ Bridge string }
	owner := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
	f.Fuzz(func(t *testing.T, data []byte) {
		store := Open(t.TempDir())
		path := store.Path("place", owner)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := List[rules](store, "place", owner.Network); err != nil {
			t.Errorf("list: %v", err)
		}
		r, there, err := Read[rules](store, "place", owner)
		if err != nil {
			t.Fatal(err)
		}
		if there && r.Owner != owner {
			t.Errorf("got the record of %s, want that of %s", r.Owner, owner)
		}
		if _, err := new(Prober).Life(r.Stamp); err != nil {
			t.Errorf("stamp: %v", err)
		}
	})
}

// FuzzIDAnswer: no answer, however malformed, is read beyond its end.
func FuzzIDAnswer(f *testing.F) {
	f.Add(idMessage(16, attribute(1, 7)))
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, data []byte) { _, _, _ = parseIDAnswer(data) }) // it must not panic
}
