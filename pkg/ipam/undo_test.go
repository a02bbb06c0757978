package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// granted is a lease, and how it is taken back.
type granted struct {
	Grant
	cni.Undo
}

func (p pool) grant(id string, sets []Set) *granted {
	p.t.Helper()
	var g granted
	var err error
	if g.Grant, err = p.store.Lease(want(sets, id), &g.Undo); err != nil {
		p.t.Fatal(err)
	}
	return &g
}

// undo is what becomes of the lease where the ADD fails later.
func (p pool) undo(g *granted) {
	p.t.Helper()
	later := errors.New("a later step")
	err := later
	if g.OnError(&err); err.Error() != later.Error() {
		p.t.Error(err)
	}
}

// Several ADDs of one attachment run at once, of which some fail, in any order. If all fail,
// the last one's undo releases the leases; if one succeeds, they stay.
func TestUndoOfManyAtOnce(t *testing.T) {
	sets := testSets(t, "10.1.0.0/24", "fd00::/120")
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s, dir := testStore(t)
		p := from(t, s, sets)
		before := rnd.IntN(2) == 0 // the attachment exists before
		if before {
			p.lease("a")
		}
		succeeded := before
		var open []*granted
		steps := ""
		for n := 2 + rnd.IntN(6); n > 0 || len(open) > 0; {
			if n > 0 && (len(open) == 0 || rnd.IntN(2) == 0) {
				open = append(open, p.grant("a", sets))
				n--
				steps += " add"
				continue
			}
			i := rnd.IntN(len(open))
			if rnd.IntN(4) == 0 {
				succeeded = true
				steps += fmt.Sprint(" ok", i)
			} else {
				p.undo(open[i])
				steps += fmt.Sprint(" undo", i)
			}
			open = slices.Delete(open, i, i+1)
		}
		held, err := s.Held(testOwner("a"))
		if err != nil || (len(held) == 2) != succeeded || len(held) == 1 {
			t.Fatalf("seed %d, before %v,%s: got %v, %v", seed, before, steps, held, err)
		}
		if !succeeded {
			if records, err := filepath.Glob(filepath.Join(dir, indexDir, recordPrefix+"*")); err != nil || len(records) > 0 {
				t.Errorf("records left: %v, %v", records, err)
			}
		}
		mustBeSound(t, s)
	}
}

// An ADD with other ranges moves the leases; its undo moves them back.
func TestUndoOfOtherRanges(t *testing.T) {
	s, dir := testStore(t)
	first, other := testSets(t, "10.1.0.0/28", "fd00::/120"), testSets(t, "10.1.0.0/28", "10.2.0.0/28")
	p := from(t, s, first)
	p.lease("a")
	want := files(t, dir)
	g := p.grant("a", other)
	if got := files(t, dir); got["10.2.0.2"] == "" || got["fd00::2"] != "" {
		t.Fatalf("moved: got %v", got)
	}
	p.undo(g)
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	mustBeSound(t, s)
}

// The undo of an ADD does not release what was leased after a DEL.
func TestUndoAfterDel(t *testing.T) {
	s, _ := testStore(t)
	sets := testSets(t, "10.1.0.0/28")
	p := from(t, s, sets)
	slow, slower := p.grant("a", sets), p.grant("a", sets)
	if err := s.Release(testOwner("a")); err != nil {
		t.Fatal(err)
	}
	p.undo(slow)
	later := p.lease("a")
	p.undo(slower)
	if held, err := s.Held(testOwner("a")); err != nil || !slices.Equal(held, later) {
		t.Errorf("got %v, %v, want %v", held, err, later)
	}
	mustBeSound(t, s)
}

// If an ADD of ours finds a lease of host-local, its undo keeps that.
func TestUndoSparesTheReferencesLease(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/10.1.0.9", "a\r\neth0")
	p := from(t, s, sets)
	g := p.grant("a", sets)
	p.undo(g)
	// it has no stamp, and must not count as a lease of an earlier boot
	if info, err := os.Stat(dir + "/10.1.0.9"); err != nil || time.Since(info.ModTime()) > time.Hour {
		t.Errorf("got %v, %v, want the lease to be of today", info.ModTime(), err)
	}
	if got := files(t, dir); got["10.1.0.9"] != "a\r\neth0" || g.Addresses[0] != addrs("10.1.0.9")[0] {
		t.Errorf("got %v, after %v", got, g.Addresses)
	}
	mustBeSound(t, s)
}

// A lease whose record is lost is found by its file.
func TestReleaseWithoutRecord(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28", "fd00::/120")
	for _, id := range []string{"a", "b"} {
		from(t, s, sets).lease(id)
	}
	records, err := filepath.Glob(filepath.Join(dir, indexDir, recordPrefix+"*"))
	if err != nil || len(records) != 2 {
		t.Fatal(records, err)
	}
	if err := errors.Join(os.Remove(records[0]), os.Remove(records[1])); err != nil {
		t.Fatal(err)
	}
	if again := from(t, s, sets).lease("b"); !slices.Equal(again, addrs("10.1.0.3", "fd00::3")) {
		t.Errorf("ADD again: got %v", again)
	}
	for _, id := range []string{"a", "b"} {
		if err := s.Release(testOwner(id)); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	want := map[string]string{"last_reserved_ip.0": "10.1.0.3", "last_reserved_ip.1": "fd00::3"}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	mustBeSound(t, s)
}

// host-local before 0.8 wrote no interface name. If a lease is rewritten in place to that
// format, the directory's time does not change, and the index stays valid.
func TestReleaseRewrittenLease(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28")
	from(t, s, sets).lease("a")
	from(t, s, sets).lease("b")
	write(t, dir+"/10.1.0.2", "a")
	write(t, dir+"/10.1.0.3", "other")
	if held, err := s.Held(testOwner("a")); err != nil || !slices.Equal(held, addrs("10.1.0.2")) {
		t.Errorf("held: got %v, %v", held, err)
	}
	for _, id := range []string{"a", "b"} {
		if err := s.Release(testOwner(id)); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	want := map[string]string{"10.1.0.3": "other", "last_reserved_ip.0": "10.1.0.3"}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := s.Release(testOwner("other")); err != nil {
		t.Error(err)
	}
	delete(want, "10.1.0.3")
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Leases in another data directory than the configured one are found.
func TestElsewhere(t *testing.T) {
	home, away, theirs := t.TempDir(), t.TempDir(), t.TempDir()
	stores := map[string]*Store{}
	for _, dir := range []string{home, away, theirs} {
		stores[dir] = NewStore(dir, testNetwork, 1e9)
		stores[dir].home = home
	}
	sets := testSets(t, "10.1.0.0/28")
	write := func(dir string) {
		from(t, stores[dir], sets).lease("a")
		from(t, stores[dir], sets).lease("b")
	}
	write(home)
	write(away)
	former := &Store{network: testNetwork, wait: 1e9, home: home}
	if err := former.ReleaseElsewhere(testOwner("a")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{home, away} {
		if got := files(t, filepath.Join(dir, testNetwork)); got["10.1.0.2"] != "" || got["10.1.0.3"] == "" {
			t.Errorf("left: %v", got)
		}
	}
	if err := stores[away].ReleaseElsewhere(testOwner("b")); err != nil {
		t.Fatal(err)
	}
	if held, err := stores[away].Held(testOwner("b")); err != nil || len(held) != 1 {
		t.Errorf("its own: got %v, %v, want one address", held, err)
	}
	if held, err := stores[home].Held(testOwner("b")); err != nil || len(held) != 0 {
		t.Errorf("elsewhere: got %v, %v, want none", held, err)
	}
	if err := os.RemoveAll(filepath.Join(away, testNetwork)); err != nil {
		t.Fatal(err)
	}
	if err := former.ReleaseElsewhere(testOwner("b")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(notes(home, testNetwork)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note of a directory that is gone: %v", err)
	}
}

// Looking at a directory that only host-local uses does not create an index there.
func TestElsewhereSparesTheReferences(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, testNetwork)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/10.1.0.2", "a\r\neth0")
	former := &Store{network: testNetwork, wait: 1e9, home: home}
	if err := former.ReleaseElsewhere(testOwner("a")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want the lease alone", entries, err)
	}
}
