package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// naive is the model that the real allocator is compared with: it tries one address after
// the other.
type naive struct {
	set    Set
	taken  map[netip.Addr]string // whose
	cursor netip.Addr
}

func (n *naive) next() netip.Addr {
	var all []netip.Addr
	at := -1
	for _, r := range n.set {
		for a := r.First; r.Contains(a); a = a.Next() {
			if a == n.cursor {
				at = len(all)
			}
			all = append(all, a)
		}
	}
	for i := range all {
		a := all[(at+1+i)%len(all)]
		r, _ := n.set.rangeOf(a)
		if r.Leasable(a) && n.taken[a] == "" {
			return a
		}
	}
	return netip.Addr{}
}

func (n *naive) release(id string) {
	for a, who := range n.taken {
		if who == id {
			delete(n.taken, a)
		}
	}
}

func (n *naive) of(id string) netip.Addr {
	for a, who := range n.taken {
		if who == id {
			return a
		}
	}
	return netip.Addr{}
}

// TestAgainstNaiveModel runs random sequences of ADD, repeated ADD, ADD of a requested
// address, DEL, and changes that others make in the directory, and compares every answer and
// the directory with the naive model.
func TestAgainstNaiveModel(t *testing.T) {
	configs := []string{
		`{"ipam":{"ranges":[[{"subnet":"10.1.0.0/27"}]]}}`,
		`{"ipam":{"ranges":[[{"subnet":"10.1.0.0/26","rangeStart":"10.1.0.40","exclude":["10.1.0.44/30"]},{"subnet":"10.0.0.0/8","rangeStart":"10.0.255.250","rangeEnd":"10.1.0.5","gateway":"10.1.0.0"}]]}}`,
		`{"ipam":{"ranges":[[{"subnet":"fd00::/120","rangeStart":"fd00::f4"},{"subnet":"fd00::1:0/112","rangeEnd":"fd00::1:5"}]]}}`,
		`{"ipam":{"ranges":[[{"subnet":"10.9.0.0/31"},{"subnet":"10.9.1.0/32"},{"subnet":"10.9.2.0/29","gateway":"10.9.2.4"}]]}}`,
	}
	for seed := range uint64(12) {
		c, err := parse(configs[seed%uint64(len(configs))], "")
		if err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { playModel(t, c.Sets, seed) })
	}
}

// player runs each operation on the store and on the model.
type player struct {
	*testing.T
	store *Store
	dir   string
	naive *naive
	rnd   *rand.Rand
}

func playModel(t *testing.T, sets []Set, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	s, dir := testStore(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &naive{set: sets[0], taken: map[netip.Addr]string{}}
	p := player{t, s, dir, n, rnd}
	for step := range 200 {
		id := fmt.Sprint("c", rnd.IntN(40))
		switch what := rnd.IntN(20); {
		case what < 10:
			p.add(id)
		case what < 12:
			p.request(id)
		case what < 16:
			if err := s.Release(testOwner(id)); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			n.release(id)
		case what < 19:
			p.hostLocal(id)
		default:
			p.damageIndex()
			if err := s.Repair(); err != nil { // rebuilds the index, as a full set or a change by another program does
				t.Fatal(err)
			}
		}
		compareModel(t, n, dir)
		if t.Failed() {
			t.Fatalf("at step %d", step)
		}
	}
	if err := s.Repair(); err != nil {
		t.Fatal(err)
	}
	mustBeSound(t, s)
}

func (p player) add(id string) {
	n := p.naive
	had := n.of(id)
	next := n.next()
	grant, err := p.store.Lease(want([]Set{n.set}, id), &cni.Undo{})
	got := grant.Addresses
	switch {
	case had.IsValid():
		if r, ok := n.set.rangeOf(had); ok && r.Leasable(had) && (err != nil || got[0] != had) {
			p.Errorf("ADD %s again: got %v, %v, want %s", id, got, err, had)
		}
	case !next.IsValid():
		if cni.CodeOf(err) != cni.CodeExhausted {
			p.Errorf("ADD %s with a full set: got %v, %v, want code 101", id, got, err)
		}
	case err != nil || got[0] != next:
		p.Errorf("ADD %s: got %v, %v, want %s", id, got, err, next)
	default:
		n.taken[next], n.cursor = id, next
	}
}

func (p player) request(id string) {
	n := p.naive
	r := n.set[p.rnd.IntN(len(n.set))]
	a := r.First
	for range p.rnd.IntN(12) {
		a = a.Next()
	}
	if !r.Leasable(a) {
		return // the configuration's parser refuses it
	}
	grant, err := p.store.Lease(want([]Set{n.set}, id, a), &cni.Undo{})
	got := grant.Addresses
	switch holder := n.taken[a]; {
	case holder != "" && holder != id:
		if cni.CodeOf(err) != cni.CodeConflict {
			p.Errorf("request %s of %s: got %v, %v, want code 102", a, holder, got, err)
		}
	case err != nil || got[0] != a:
		p.Errorf("request %s: got %v, %v", a, got, err)
	case holder == "":
		n.release(id)
		n.taken[a], n.cursor = id, a
	}
}

// hostLocal writes and removes leases, as host-local or a person does.
func (p player) hostLocal(id string) {
	n := p.naive
	if had := n.of(id); had.IsValid() {
		if err := os.Remove(filepath.Join(p.dir, had.String())); err != nil {
			p.Error(err)
		}
		delete(n.taken, had)
		return
	}
	a := n.next()
	if !a.IsValid() {
		return
	}
	switch p.rnd.IntN(4) {
	case 0: // host-local, killed before it wrote
		write(p.T, filepath.Join(p.dir, a.String()), "")
	case 1: // a process of ours, killed in an ADD
		p.killed(id, a)
	default:
		write(p.T, filepath.Join(p.dir, a.String()), id+"\r\neth0")
		write(p.T, filepath.Join(p.dir, cursorName(0)), a.String())
		n.taken[a], n.cursor = id, a
	}
}

// killed leaves what an ADD leaves if it is killed after some of its steps.
func (p player) killed(id string, a netip.Addr) {
	own := filepath.Join(p.dir, indexDir)
	if _, err := os.Stat(own); err != nil {
		return // there is no index yet
	}
	boot, err := record.BootID()
	if err != nil {
		p.Fatal(err)
	}
	r := ownerRecord{ContainerID: id, IfName: "eth0", Addresses: []netip.Addr{a}, Stamp: record.Stamp{Boot: boot, Time: time.Unix(1e9, 0).UTC()}}
	write(p.T, filepath.Join(own, recordName(testOwner(id))), string(r.encode()[:p.rnd.IntN(2)*len(r.encode())]))
	switch p.rnd.IntN(3) {
	case 0:
		write(p.T, filepath.Join(p.dir, a.String()), "")
	case 1:
		write(p.T, filepath.Join(p.dir, a.String()), id+"\r\neth0")
		p.naive.taken[a] = id
	}
}

// damageIndex truncates, removes or overwrites a file of the index.
func (p player) damageIndex() {
	names, err := filepath.Glob(filepath.Join(p.dir, indexDir, "*"))
	if err != nil || len(names) == 0 {
		return
	}
	path := names[p.rnd.IntN(len(names))]
	data, err := os.ReadFile(path)
	if err != nil {
		p.Fatal(err)
	}
	switch p.rnd.IntN(4) {
	case 0:
		data = nil
	case 1:
		data = data[:p.rnd.IntN(len(data)+1)]
	case 2:
		data = append(data, data...)
	case 3:
		if err := os.Remove(path); err != nil {
			p.Fatal(err)
		}
		return
	}
	write(p.T, path, string(data))
}

// compareModel compares the directory with the model. It ignores empty files.
func compareModel(t *testing.T, n *naive, dir string) {
	t.Helper()
	for name, data := range files(t, dir) {
		a, ok := parseLeaseName(name)
		if !ok || data == "" {
			continue
		}
		if want := n.taken[a] + "\r\neth0"; data != want {
			t.Errorf("%s: got %q, want %q", a, data, want)
		}
	}
	for a, id := range n.taken {
		if _, err := os.Stat(filepath.Join(dir, a.String())); err != nil {
			t.Errorf("lease of %s: %v", id, err)
		}
	}
}

// TestNextAgainstNaive compares the search for a free address alone, in sets
// that are nearly full.
func TestNextAgainstNaive(t *testing.T) {
	c, err := parse(`{"ipam":{"exclude":["10.0.255.253","10.1.0.2/31"],"ranges":[[{"subnet":"10.0.0.0/15","rangeStart":"10.0.255.240","rangeEnd":"10.1.0.9"},{"subnet":"10.3.0.0/28"}]]}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	set := c.Sets[0]
	rnd := rand.New(rand.NewPCG(3, 3))
	var all []netip.Addr
	for _, r := range set {
		for a := r.First; r.Contains(a); a = a.Next() {
			all = append(all, a)
		}
	}
	for range 2000 {
		n := naive{set: set, taken: map[netip.Addr]string{}, cursor: all[rnd.IntN(len(all))]}
		m := bitmap{blocks: map[netip.Addr]*block{}, complete: true}
		for _, a := range all {
			if rnd.IntN(10) > 0 {
				n.taken[a] = "x"
				if err := m.set(a); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, ok, err := set.next(n.cursor, m.block)
		if want := n.next(); err != nil || got != want || ok != want.IsValid() {
			t.Fatalf("after %s with %d of %d taken: got %v, %v, %v, want %v", n.cursor, len(n.taken), len(all), got, ok, err, want)
		}
	}
}

// Large sets must not cost more than small ones: an IPv6 /24 has only as many blocks as there
// are groups with leases.
func TestLargeRange(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "fd00::/24")
	far := netip.MustParseAddr("fd00:42:1234:5678:9abc:def0:1234:ffff")
	if got := from(t, s, sets).lease("far", far); got[0] != far {
		t.Errorf("requested: got %s, want %s", got[0], far)
	}
	if got, want := from(t, s, sets).lease("next")[0], far.Next(); got != want {
		t.Errorf("next: got %s, want %s", got, want)
	}
	blocks, err := filepath.Glob(filepath.Join(dir, indexDir, blockPrefix+"*"))
	if err != nil || len(blocks) != 2 {
		t.Errorf("blocks: got %v, %v, want two", blocks, err)
	}
	mustBeSound(t, s)
	use, err := s.usage(sets)
	if err != nil || len(use) != 1 || use[0].Used != 2 {
		t.Errorf("usage: got %v, %v, want two used", use, err)
	}
	if !slices.IsSorted([]uint64{use[0].Used, use[0].Size}) {
		t.Errorf("size: got %d", use[0].Size)
	}
}
