package record

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/pkg/cni"
)

type ports struct {
	Host    string
	Numbers []uint16
}

func someRecord(t *testing.T) Record[ports] {
	t.Helper()
	stamp, err := NewStamp("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return Record[ports]{
		Stamp: stamp, Owner: cni.Owner{Network: "n", ContainerID: "c1", IfName: "eth0"}, Shares: []string{"tcp/8080"},
		Value: ports{`192.0.2.1,"crc32":7}`, []uint16{8080, 53}},
	}
}

// TestRecordWithABitFlipped: a damaged record counts as none, or has lost nothing.
func TestRecordWithABitFlipped(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	written := someRecord(t)
	if err := Write(s, "place", written); err != nil {
		t.Fatal(err)
	}
	path := s.Path("place", written.Owner)
	want, there, err := At[ports](path)
	if err != nil || !there || cmp.Diff(written.Value, want.Value) != "" || want.Owner != written.Owner {
		t.Fatalf("got %+v, %v, %v, want %+v", want, there, err, written)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			got, ok := decode[ports](data, cni.UnmarshalOnce)
			data[i] ^= 1 << bit
			if ok && cmp.Diff(want, got) != "" {
				t.Errorf("bit %d of byte %d: got %+v", bit, i, got)
			}
			if ok {
				kept++
			}
		}
	}
	if most := 8 * len("crc32"); kept > most {
		t.Errorf("got %d damaged records that count, want those at most in which the checksum has lost its name, %d", kept, most)
	}
	for i := range data {
		if got, ok := decode[ports](data[:i], cni.UnmarshalOnce); ok {
			t.Errorf("cut after %d bytes: got %+v", i, got)
		}
	}
}

// TestRecordWithoutASum: records of releases without checksums count, theirs ignore ours, and a
// key that this release does not know is under the checksum.
func TestRecordWithoutASum(t *testing.T) {
	t.Parallel()
	r := someRecord(t)
	former, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := decode[ports](former, cni.UnmarshalOnce); !ok || cmp.Diff(r, got) != "" {
		t.Errorf("without a checksum: got %v, %s", ok, cmp.Diff(r, got))
	}
	var read Record[ports]
	if err := json.Unmarshal(AddSum(former), &read); err != nil || cmp.Diff(r, read) != "" {
		t.Errorf("read without a look at the checksum: got %v, %s", err, cmp.Diff(r, read))
	}
	later := AddSum([]byte(`{"Later":[1,2],"Value":{"Host":"192.0.2.1","Way":"x"}}`))
	if got, ok := decode[ports](later, cni.UnmarshalOnce); !ok || got.Value.Host != "192.0.2.1" {
		t.Errorf("of a later release: got %+v, %v", got, ok)
	}
}
