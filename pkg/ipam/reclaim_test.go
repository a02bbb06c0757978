package ipam

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// newNetNS makes a network namespace that only a process keeps alive, until end is called, and
// returns a path to it.
func newNetNS(t *testing.T) (path string, end func()) {
	t.Helper()
	holder := exec.Command("sleep", "600")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatalf("make a network namespace (needs root): %v", err)
	}
	end = sync.OnceFunc(func() {
		if err := holder.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = holder.Wait() // the error is that it was killed
	})
	t.Cleanup(end)
	return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), end
}

// provesEnd says whether the kernel can prove that the namespace has gone, once it has. Before
// 5.14 it cannot: it gives no cookie of a namespace.
func provesEnd(netns string) bool {
	known := record.Identify(netns)
	return known.Handle+known.ID != ""
}

func needProof(t *testing.T, netns string) {
	t.Helper()
	if !provesEnd(netns) {
		t.Skip("this kernel, of before 5.14, gives no cookie of a namespace, and so no proof but a boot")
	}
}

func editRecords(t *testing.T, dir string, edit func(*ownerRecord)) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, indexDir, recordPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var r ownerRecord
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		edit(&r)
		write(t, name, string(r.encode()))
	}
}

func TestReclaim(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28")
	living, _ := newNetNS(t)
	dying, end := newNetNS(t)
	from(t, s, sets).leaseIn("living", living)
	from(t, s, sets).leaseIn("dying", dying)
	from(t, s, sets).leaseIn("pathless", "/nonexistent")
	write(t, dir+"/10.1.0.9", "theirs\r\neth0")
	if err := s.Repair(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.reclaimDead(); n != 0 || err != nil {
		t.Errorf("while all live: got %d, %v, want 0", n, err)
	}
	gone := 1
	want := map[string]string{"10.1.0.2": "living\r\neth0", "10.1.0.4": "pathless\r\neth0", "10.1.0.9": "theirs\r\neth0", "last_reserved_ip.0": "10.1.0.4"}
	if !provesEnd(dying) {
		gone, want["10.1.0.3"] = 0, "dying\r\neth0"
	}
	end()
	if n, err := s.reclaimDead(); n != gone || err != nil {
		t.Errorf("after one namespace is gone: got %d, %v, want %d", n, err, gone)
	}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	mustBeSound(t, s)
}

// A namespace whose path is gone may still be alive.
func TestReclaimSparesWhatIsInUse(t *testing.T) {
	netns, _ := newNetNS(t)
	s, dir := testStore(t)
	from(t, s, testSets(t, "10.1.0.0/28")).leaseIn("a", netns)
	editRecords(t, dir, func(r *ownerRecord) { r.NetNS.Path = "/gone" })
	if n, err := s.reclaimDead(); n != 0 || err != nil {
		t.Errorf("path gone, namespace in use: got %d, %v, want 0", n, err)
	}
}

func TestAddAgain(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28", "fd00::/120")
	first, end := newNetNS(t)
	second, _ := newNetNS(t)
	got := from(t, s, sets).leaseIn("a", first)
	if again := from(t, s, sets).leaseIn("a", first); !slices.Equal(again, got) {
		t.Errorf("in the same namespace: got %v, want %v", again, got)
	}
	_, err := s.Lease(Want{Owner: testOwner("a"), NetNS: second, Sets: sets}, &cni.Undo{})
	if cni.CodeOf(err) != cni.CodeConflict || !strings.Contains(err.Error(), first) {
		t.Errorf("in another one while the first lives: got %v, want code 102 and the path", err)
	}
	needProof(t, first)
	end()
	if again := from(t, s, sets).leaseIn("a", second); !slices.Equal(again, got) {
		t.Errorf("in another one after the first: got %v, want %v", again, got)
	}
	if err := os.Remove(filepath.Join(dir, "fd00::2")); err != nil { // as after a kill between the two leases
		t.Fatal(err)
	}
	if again := from(t, s, sets).leaseIn("a", second); again[0] != got[0] || again[1] != netip.MustParseAddr("fd00::3") {
		t.Errorf("with half a lease: got %v, want %s and the next one", again, got[0])
	}
	if narrow := from(t, s, testSets(t, "10.2.0.0/28")).leaseIn("a", second); !slices.Equal(narrow, addrs("10.2.0.2")) {
		t.Errorf("with other ranges: got %v, want 10.2.0.2", narrow)
	}
	want := map[string]string{"10.2.0.2": "a\r\neth0", "last_reserved_ip.0": "10.2.0.2", "last_reserved_ip.1": "fd00::3"}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("the former leases go (-want +got):\n%s", diff)
	}
	mustBeSound(t, s)
}

func TestFullPoolTakesFromTheDead(t *testing.T) {
	s, _ := testStore(t)
	sets := testSets(t, "10.1.0.0/29") // five addresses
	netns, end := newNetNS(t)
	for i := range 5 {
		from(t, s, sets).leaseIn(fmt.Sprint("c", i), netns)
	}
	_, err := s.Lease(want(sets, "late"), &cni.Undo{})
	if cni.CodeOf(err) != cni.CodeExhausted || !strings.Contains(err.Error(), "no IP addresses available in range set: 10.1.0.1-10.1.0.6; ") || !strings.Contains(err.Error(), "5 of 5 in 10.1.0.0/29") {
		t.Errorf("full: got %v, want code 101 and the numbers", err)
	}
	if err := s.Available(sets); cni.CodeOf(err) != cni.CodeUnavailable || !strings.Contains(err.Error(), "5 of 5") {
		t.Errorf("STATUS of a full pool: got %v, want code 50 and the numbers", err)
	}
	needProof(t, netns)
	end()
	if err := s.Available(sets); err != nil {
		t.Errorf("STATUS of a pool of the dead: got %v, want none", err)
	}
	use, err := s.usage(sets)
	if err != nil || use[0].Used != 5 || use[0].Dead != 5 || use[0].Size != 5 {
		t.Errorf("usage: got %+v, %v, want 5 used, 5 dead of 5", use, err)
	}
	if got := from(t, s, sets).lease("late"); !slices.Equal(got, addrs("10.1.0.2")) {
		t.Errorf("after the dead: got %v, want 10.1.0.2", got)
	}
	mustBeSound(t, s)
}

func TestRequestedOfTheDead(t *testing.T) {
	s, _ := testStore(t)
	sets := testSets(t, "10.1.0.0/24")
	netns, end := newNetNS(t)
	a := from(t, s, sets).leaseIn("old", netns)[0]
	if _, err := s.Lease(want(sets, "new", a), &cni.Undo{}); cni.CodeOf(err) != cni.CodeConflict || !strings.Contains(err.Error(), "net/old/eth0") {
		t.Errorf("while its holder lives: got %v, want code 102 and the holder", err)
	}
	needProof(t, netns)
	end()
	if got := from(t, s, sets).lease("new", a); got[0] != a {
		t.Errorf("after its holder: got %v, want %s", got, a)
	}
	mustBeSound(t, s)
}

func TestGC(t *testing.T) {
	tests := []struct {
		name  string
		stdin string
		want  []string // the leases that stay
	}{
		{"a list", `{"cni.dev/valid-attachments":[{"containerID":"living","ifname":"eth0"},{"containerID":"old","ifname":"net1"}]}`, []string{"living", "old"}},
		{"libcni's name", `{"cni.dev/attachments":[{"containerID":"dying","ifname":"eth0"}]}`, []string{"dying"}},
		{"another interface", `{"cni.dev/valid-attachments":[{"containerID":"living","ifname":"eth1"}]}`, nil},
		{"an empty list", `{"cni.dev/valid-attachments":[]}`, nil},
		{"no list", `{}`, []string{"living", "old", "theirs"}},
		{"null", `{"cni.dev/valid-attachments":null}`, []string{"living", "old", "theirs"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, dir := testStore(t)
			sets := testSets(t, "10.1.0.0/28")
			living, _ := newNetNS(t)
			dying, end := newNetNS(t)
			from(t, s, sets).leaseIn("living", living)
			from(t, s, sets).leaseIn("dying", dying)
			write(t, dir+"/10.1.0.8", "theirs\r\neth0")
			write(t, dir+"/10.1.0.9", "old")
			write(t, dir+"/10.1.0.10", "by hand, for ever")
			want := test.want
			if slices.Contains(want, "theirs") && !provesEnd(dying) { // without a list only the dead go
				want = append([]string{"dying"}, want...)
			}
			end()
			valid, err := (&cni.Request{Owner: cni.Owner{Network: testNetwork}, Stdin: []byte(test.stdin)}).Valid()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.GC(valid); err != nil {
				t.Fatal(err)
			}
			var left []string
			leases, err := s.Leases()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range leases {
				if l.Owner.ContainerID != "" {
					left = append(left, l.Owner.ContainerID)
				}
			}
			slices.Sort(left)
			if diff := cmp.Diff(want, left); diff != "" {
				t.Errorf("who stays (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(dir + "/10.1.0.10"); err != nil {
				t.Errorf("a file that is no lease: %v", err)
			}
		})
	}
}

// another changes every record to one of another boot, long ago.
func another(t *testing.T, dir, machine string) {
	t.Helper()
	made := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	editRecords(t, dir, func(r *ownerRecord) {
		r.Boot, r.Machine, r.Time = "another", machine, made
		for _, a := range r.Addresses {
			if err := os.Chtimes(filepath.Join(dir, a.String()), made, made); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Leases of an earlier boot are removed at the first use in this one.
func TestEarlierBoot(t *testing.T) {
	host, err := record.ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	earlier := map[string]string{"10.1.0.4": "rewritten\r\neth0", "10.1.0.5": "theirs\r\neth0", "10.1.0.6": "new\r\neth0", "last_reserved_ip.0": "10.1.0.6"}
	others := maps.Clone(earlier)
	others["10.1.0.2"], others["10.1.0.3"] = "a\r\neth0", "truncated\r\neth0"
	for _, test := range []struct {
		name, machine string
		want          map[string]string
	}{
		{"of this machine", host.Machine, earlier},
		{"written by a release that knew no machines", "", earlier},
		{"of a machine that shares the directory", "another", others},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, dir := testStore(t)
			sets := testSets(t, "10.1.0.0/28")
			netns, _ := newNetNS(t)
			for _, id := range []string{"a", "truncated", "rewritten"} {
				from(t, s, sets).leaseIn(id, netns)
			}
			another(t, dir, test.machine)
			write(t, filepath.Join(dir, indexDir, recordName(testOwner("truncated"))), "")
			write(t, filepath.Join(dir, indexDir, headerName), fmt.Sprintf(`{"format":1,"boot":"another","machine":%q}`, test.machine))
			if err := os.Remove(dir + "/10.1.0.4"); err != nil {
				t.Fatal(err)
			}
			write(t, dir+"/10.1.0.4", "rewritten\r\neth0") // by host-local, meanwhile
			write(t, dir+"/10.1.0.5", "theirs\r\neth0")
			from(t, s, sets).lease("new")
			if diff := cmp.Diff(test.want, files(t, dir)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			mustBeSound(t, s)
		})
	}
}

// Our record proves nothing about a lease that host-local has written later for the same
// owner.
func TestRecordIsTiedToItsLease(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28")
	netns, end := newNetNS(t)
	from(t, s, sets).leaseIn("a", netns)
	if err := os.Remove(dir + "/10.1.0.2"); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/10.1.0.2", "a\r\neth0")
	end()
	if n, err := s.reclaimDead(); n != 0 || err != nil {
		t.Errorf("got %d, %v, want 0: the lease is another's now", n, err)
	}
	if err := s.Release(testOwner("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/10.1.0.2"); err == nil {
		t.Error("its owner can still release it, and did not")
	}
}

func TestLeasesAndRelease(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28", "fd00::/120")
	netns, end := newNetNS(t)
	from(t, s, sets).leaseIn("a", netns)
	write(t, dir+"/10.1.0.9", "theirs\r\neth0")
	dead := provesEnd(netns)
	end()
	leases, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range leases {
		got = append(got, fmt.Sprint(l.Address, " ", l.Owner, " ", l.NetNS == netns, " ", l.Dead))
	}
	want := []string{fmt.Sprint("10.1.0.2 net/a/eth0 true ", dead), "10.1.0.9 net/theirs/eth0 false false", fmt.Sprint("fd00::2 net/a/eth0 true ", dead)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	for address, owner := range map[string]string{"10.1.0.2": "a", "10.1.0.9": "theirs", "10.1.0.3": ""} {
		o, err := s.ReleaseAddress(netip.MustParseAddr(address))
		if err != nil || o.ContainerID != owner {
			t.Errorf("release %s: got %v, %v, want %q", address, o, err, owner)
		}
	}
	held, err := s.Held(testOwner("a"))
	if err != nil || !slices.Equal(held, addrs("fd00::2")) {
		t.Errorf("the other address of a: got %v, %v, want fd00::2", held, err)
	}
	mustBeSound(t, s)
}

func TestVerify(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28")
	from(t, s, sets).lease("a")
	from(t, s, sets).lease("b")
	write(t, filepath.Join(dir, indexDir, recordName(testOwner("a"))), "{")
	write(t, filepath.Join(dir, indexDir, recordName(testOwner("x"))), string(ownerRecord{ContainerID: "x", IfName: "eth0"}.encode()))
	write(t, filepath.Join(dir, indexDir, blockPrefix+"10.1.0.0"), "")
	write(t, dir+"/10.1.0.7", "\x00\x00")
	problems, err := s.Verify()
	if err != nil || len(problems) < 3 {
		t.Errorf("got %v, %v, want the damaged record, the stray record, the truncated lease", problems, err)
	}
	if err := s.Repair(); err != nil {
		t.Fatal(err)
	}
	mustBeSound(t, s)
}

// TestVerdictIsRemembered: what was proved of a record holds when it is read again, in whatever
// zone its time was written, and is looked up without encoding the record, of which a host may
// have tens of thousands.
func TestVerdictIsRemembered(t *testing.T) {
	dead := newLivenessProber()
	read := func() (r ownerRecord) {
		if err := json.Unmarshal([]byte(`{"containerID":"c1","ifname":"eth0","boot":"b","time":"2026-01-02T03:04:05+02:00"}`), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if _, err := dead.of(read()); err == nil {
		t.Error("got a verdict about a record of which nothing was asked")
	}
	dead.probe(read())
	again := read()
	if _, err := dead.of(again); err != nil {
		t.Errorf("got %v, want the verdict", err)
	}
	if allocated := testing.AllocsPerRun(10, func() { _, _ = dead.of(again) }); allocated > 0 {
		t.Errorf("looking it up took %v pieces of memory, want none", allocated)
	}
}
