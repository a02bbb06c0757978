package ipam

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

const testNetwork = "net"

// testSets parses ranges as those of a configuration, each a set of its own.
func testSets(t *testing.T, subnets ...string) []Set {
	t.Helper()
	var sets []string
	for _, s := range subnets {
		sets = append(sets, `[{"subnet":"`+s+`"}]`)
	}
	c, err := ParseConfig(&cni.Request{Version: "1.1.0", Stdin: []byte(`{"ipam":{"ranges":[` + strings.Join(sets, ",") + `]}}`)})
	if err != nil {
		t.Fatal(err)
	}
	return c.Sets
}

func testOwner(id string) cni.Owner {
	return cni.Owner{Network: testNetwork, ContainerID: id, IfName: "eth0"}
}

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// store is a Store in a directory of its own, with the network's directory.
func testStore(t *testing.T) (*Store, string) {
	t.Helper()
	data := t.TempDir()
	return NewStore(data, testNetwork, time.Second), filepath.Join(data, testNetwork)
}

// pool leases addresses of the sets.
type pool struct {
	t     *testing.T
	store *Store
	sets  []Set
}

func from(t *testing.T, s *Store, sets []Set) pool { return pool{t, s, sets} }

// lease leases to the container with that id, in our own namespace.
func (p pool) lease(id string, requested ...netip.Addr) []netip.Addr {
	p.t.Helper()
	return p.must(want(p.sets, id, requested...))
}

// leaseIn leases to the container with that id, in the given namespace.
func (p pool) leaseIn(id, netns string) []netip.Addr {
	p.t.Helper()
	return p.must(Want{Owner: testOwner(id), NetNS: netns, Sets: p.sets})
}

func (p pool) must(w Want) []netip.Addr {
	p.t.Helper()
	got, err := p.store.Lease(w, &cni.Undo{})
	if err != nil {
		p.t.Fatalf("lease to %s: %v", w.Owner, err)
	}
	return got.Addresses
}

func want(sets []Set, id string, requested ...netip.Addr) Want {
	w := Want{Owner: testOwner(id), NetNS: "/proc/self/ns/net", Sets: sets, Requested: make([]netip.Addr, len(sets))}
	copy(w.Requested, requested)
	return w
}

// files are the files of the directory, with contents, except index and lock.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != lockName {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[e.Name()] = string(data)
		}
	}
	return all
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// mustBeSound fails if Verify finds anything.
func mustBeSound(t *testing.T, s *Store) {
	t.Helper()
	problems, err := s.Verify()
	if err != nil || len(problems) > 0 {
		t.Errorf("verify: got %v, %v, want nothing", problems, err)
	}
}

func TestLeaseAndRelease(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/24", "fd00::/64")
	if got, want := from(t, s, sets).lease("a"), addrs("10.1.0.2", "fd00::2"); !slices.Equal(got, want) {
		t.Errorf("first lease: got %v, want %v", got, want)
	}
	from(t, s, sets).lease("b")
	want := map[string]string{
		"10.1.0.2": "a\r\neth0", "fd00::2": "a\r\neth0", "10.1.0.3": "b\r\neth0", "fd00::3": "b\r\neth0",
		"last_reserved_ip.0": "10.1.0.3", "last_reserved_ip.1": "fd00::3",
	}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("after two ADDs (-want +got):\n%s", diff)
	}
	for range 2 { // the second time there is nothing to release
		if err := s.Release(testOwner("a")); err != nil {
			t.Fatal(err)
		}
	}
	delete(want, "10.1.0.2")
	delete(want, "fd00::2")
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("after DEL (-want +got):\n%s", diff)
	}
	if got, want := from(t, s, sets).lease("c"), addrs("10.1.0.4", "fd00::4"); !slices.Equal(got, want) {
		t.Errorf("a released address comes back last: got %v, want %v", got, want)
	}
	mustBeSound(t, s)
}

func TestLeaseAllOrNothing(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/24", "fd00::/127") // the second has one address
	from(t, s, sets).lease("a")
	before := files(t, dir)
	_, err := s.Lease(want(sets, "b"), &cni.Undo{})
	if code := cni.CodeOf(err); code != cni.CodeExhausted {
		t.Fatalf("got %v (code %d), want code %d", err, code, cni.CodeExhausted)
	}
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("a failed ADD changed the leases (-before +after):\n%s", diff)
	}
	mustBeSound(t, s)
}

func TestHostLocalLeases(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/29")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/10.1.0.2", "theirs\r\neth0")
	write(t, dir+"/10.1.0.3", "old")
	write(t, dir+"/10.1.0.4", "") // truncated
	write(t, dir+"/10.1.0.5", "reserved by hand\n")
	if got, want := from(t, s, sets).lease("a"), addrs("10.1.0.4"); !slices.Equal(got, want) {
		t.Errorf("avoid what is taken: got %v, want %v", got, want)
	}
	write(t, dir+"/10.1.0.6", "later\r\neth0")
	for _, id := range []string{"theirs", "old", "later"} {
		held, err := s.Held(testOwner(id))
		if err != nil || len(held) != 1 {
			t.Errorf("leases of %s: got %v, %v, want one", id, held, err)
		}
		if err := s.Release(testOwner(id)); err != nil {
			t.Error(err)
		}
	}
	want := map[string]string{"10.1.0.4": "a\r\neth0", "10.1.0.5": "reserved by hand\n", "last_reserved_ip.0": "10.1.0.4"}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("after releasing (-want +got):\n%s", diff)
	}
}

func TestIndexNoticesAnyChange(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/30") // one address to lease
	from(t, s, sets).lease("a")
	for range 50 { // so fast that several are within one tick of the kernel's clock
		if err := os.Remove(dir + "/10.1.0.2"); err != nil {
			t.Fatal(err)
		}
		if held, err := s.Held(testOwner("a")); err != nil || len(held) != 0 {
			t.Fatalf("removed by hand: got %v, %v, want nothing", held, err)
		}
		write(t, dir+"/10.1.0.2", "b\r\neth0")
		if held, err := s.Held(testOwner("b")); err != nil || len(held) != 1 {
			t.Fatalf("written by host-local: got %v, %v, want one address", held, err)
		}
		if err := s.Release(testOwner("b")); err != nil {
			t.Fatal(err)
		}
		from(t, s, sets).lease("a")
	}
}

func TestLockIsBounded(t *testing.T) {
	data := t.TempDir()
	s := NewStore(data, testNetwork, 20*time.Millisecond)
	sets := testSets(t, "10.1.0.0/24")
	from(t, s, sets).lease("a")
	d, err := openDir(filepath.Join(data, testNetwork))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	held, err := takeLock(d, time.Second, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Lease(want(sets, "b"), &cni.Undo{})
	if code := cni.CodeOf(err); code != cni.CodeTryAgain || !strings.Contains(err.Error(), "process ") {
		t.Errorf("got %v (code %d), want code %d and the holder's pid", err, code, cni.CodeTryAgain)
	}
	if err := unix.Close(held); err != nil {
		t.Fatal(err)
	}
	s = NewStore(data, testNetwork, time.Minute)
	from(t, s, sets).lease("b") // the thread that gave up waiting holds no lock, as soon as it has run
	if _, err := os.Stat(filepath.Join(data, testNetwork, "10.1.0.3")); errors.Is(err, os.ErrNotExist) {
		t.Error("no lease was written")
	}
}
