package ipam

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

func TestParseLease(t *testing.T) {
	long := strings.Repeat("x", 200)
	tests := []struct {
		name, data  string
		id, ifname  string
		wantGarbage bool
		wantOdd     bool
	}{
		{name: "host-local's", data: "c1\r\neth0", id: "c1", ifname: "eth0"},
		{name: "before 0.8", data: "c1", id: "c1"},
		{name: "white space around it", data: " c1\r\neth0\n", id: "c1", ifname: "eth0"},
		{name: "long id", data: long + "\r\neth0", id: long, ifname: "eth0"},
		{name: "empty", data: "", wantGarbage: true},
		{name: "blank", data: "\r\n", wantGarbage: true},
		{name: "zeros after a power loss", data: "\x00\x00\x00\x00", wantGarbage: true},
		{name: "zeros at the end", data: "c1\r\net\x00\x00", wantGarbage: true},
		{name: "a sentence", data: "reserved for the printer", wantOdd: true},
		{name: "two lines", data: "a\nb", wantOdd: true},
		{name: "a path", data: "../../etc/passwd\r\neth0", wantOdd: true},
		{name: "no utf-8", data: "\xff\xfe", wantOdd: true},
		{name: "too long", data: strings.Repeat("x", leaseMax), wantOdd: true},
	}
	for _, test := range tests {
		o, kind := parseLease("net", []byte(test.data))
		want := cni.Owner{Network: "net", ContainerID: test.id, IfName: test.ifname}
		if o != want || (kind == leaseGarbage) != test.wantGarbage || (kind == leaseOdd) != test.wantOdd {
			t.Errorf("%s: got %v, kind %d, want %v", test.name, o, kind, want)
		}
	}
}

func TestParseLeaseName(t *testing.T) {
	for name, want := range map[string]bool{
		"10.1.0.5": true, "fd00::5": true, "::1": true, "255.255.255.255": true,
		"": false, "lock": false, "last_reserved_ip.0": false, ".trestle": false, "10.1.0.05": false, "10.1.0": false,
		"10.1.0.5~": false, "FD00::5": false, "fd00:0::5": false, "fe80::1%eth0": false, "::ffff:10.1.0.5": false, "ebtables": false,
	} {
		if a, got := parseLeaseName(name); got != want {
			t.Errorf("%q: got %v (%s), want %v", name, got, a, want)
		}
	}
}

func TestRecordSurvivesItsFile(t *testing.T) {
	o := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
	r := ownerRecord{
		ContainerID: o.ContainerID, IfName: o.IfName, Addresses: addrs("10.1.0.5", "fd00::5"),
		Stamp: record.Stamp{
			NetNS: record.NetNS{Path: "/run/netns/a b", Dev: 4, Ino: 4026532177, Handle: "f1:1412"},
			Boot:  "boot", Machine: "m", Time: time.Unix(1795257727, 0).UTC(),
		},
	}
	got, ok := decodeRecord("net", recordName(o), r.encode(), cni.UnmarshalOnce)
	if !ok || !got.equal(r) {
		t.Errorf("got %+v, %v, want %+v", got, ok, r)
	}
	padded := append(r.encode(), "\n\n\n"...)
	if _, ok := decodeRecord("net", recordName(o), padded, cni.UnmarshalOnce); !ok {
		t.Error("line breaks at the end, as rewrite leaves them, are refused")
	}
	if _, ok := decodeRecord("net", recordName(cni.Owner{Network: "net", ContainerID: "c2", IfName: "eth0"}), r.encode(), cni.UnmarshalOnce); ok {
		t.Error("a record under another owner's name is accepted")
	}
}

func TestCursor(t *testing.T) {
	d, err := openDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if got := readCursor(d, 0); got.IsValid() {
		t.Errorf("none: got %s", got)
	}
	for _, text := range []string{"10.1.0.205", "10.1.0.9", "fd00:1:2:3:4:5:6:7", "::1"} {
		if err := writeCursor(d, 0, netip.MustParseAddr(text)); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(d.path + "/last_reserved_ip.0")
		if err != nil || string(data) != text { // host-local parses the whole file
			t.Errorf("got %q, %v, want %q", data, err, text)
		}
		if got := readCursor(d, 0); got.String() != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
	for name, data := range map[string]string{"empty": "", "truncated": "10.1.", "zeros": "\x00\x00", "text": "none"} {
		write(t, d.path+"/last_reserved_ip.1", data)
		if got := readCursor(d, 1); got.IsValid() {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// Whatever is in place of one of our files: no panic, no address leased twice, and nothing
// outside the directory is changed.
func TestThingsInTheWay(t *testing.T) {
	index := func(name string) string { return filepath.Join(indexDir, name) }
	names := []string{
		"10.1.0.2", "10.1.0.3", "last_reserved_ip.0", indexDir, index(headerName), index(blockPrefix + "10.1.0.0"),
		index(recordName(testOwner("a"))), index(recordName(testOwner("b"))), lockName,
	}
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, "untouched")
	put := map[string]func(path string) error{
		"a directory":       func(path string) error { return os.Mkdir(path, 0o755) },
		"a full directory":  func(path string) error { return os.MkdirAll(path+"/x", 0o755) },
		"a link to a file":  func(path string) error { return os.Symlink(outside, path) },
		"a link to nowhere": func(path string) error { return os.Symlink("/nonexistent/x", path) },
		"a link to a dir":   func(path string) error { return os.Symlink(filepath.Dir(outside), path) },
		"a fifo":            func(path string) error { return unix.Mkfifo(path, 0o600) },
		"an empty file":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"garbage":           func(path string) error { return os.WriteFile(path, []byte("\x01garbage\r\n\xff"), 0o600) },
	}
	for what, place := range put {
		for _, name := range names {
			t.Run(what+" at "+name, func(t *testing.T) {
				s, dir := testStore(t)
				sets := testSets(t, "10.1.0.0/29")
				from(t, s, sets).lease("a")
				path := filepath.Join(dir, name)
				if err := errors.Join(os.RemoveAll(path), place(path)); err != nil {
					t.Fatal(err)
				}
				seen := map[netip.Addr]string{}
				for _, id := range []string{"b", "c"} {
					grant, err := s.Lease(want(sets, id), &cni.Undo{})
					got := grant.Addresses
					if err != nil {
						continue // refusing is right, too
					}
					if seen[got[0]] != "" {
						t.Errorf("%s leased to %s and %s", got[0], seen[got[0]], id)
					}
					seen[got[0]] = id
				}
				for _, id := range []string{"a", "b", "c"} {
					if err := s.Release(testOwner(id)); err != nil && cni.CodeOf(err) != cni.CodeIO {
						t.Errorf("release %s: %v", id, err)
					}
				}
				if data, err := os.ReadFile(outside); err != nil || string(data) != "untouched" {
					t.Errorf("the file outside: got %q, %v", data, err)
				}
				if entries, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(entries) != 1 {
					t.Errorf("beside the file outside: got %v, %v", entries, err)
				}
			})
		}
	}
}

// The network's directory must not be a symbolic link, by which somebody could make us write
// somewhere else.
func TestNetworkDirectoryIsNoLink(t *testing.T) {
	data, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(data, testNetwork)); err != nil {
		t.Fatal(err)
	}
	s := NewStore(data, testNetwork, time.Second)
	if _, err := s.Lease(want(testSets(t, "10.1.0.0/29"), "a"), &cni.Undo{}); cni.CodeOf(err) != cni.CodeIO {
		t.Errorf("got %v, want code 5", err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("where the link leads: got %v, %v, want nothing", entries, err)
	}
}

// TestRecordWithABitFlipped: a damaged record is none, or has lost nothing.
func TestRecordWithABitFlipped(t *testing.T) {
	o := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
	stamp, err := record.NewStamp("")
	if err != nil {
		t.Fatal(err)
	}
	r := ownerRecord{ContainerID: "c1", IfName: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")}, Take: 7, Again: 1, Stamp: stamp}
	for i := range r.encode() {
		for bit := range 8 {
			data := r.encode()
			data[i] ^= 1 << bit
			if got, ok := decodeRecord("net", recordName(o), data, cni.UnmarshalOnce); ok && !got.equal(r) {
				t.Errorf("got %+v of %s", got, data)
			}
		}
	}
}
