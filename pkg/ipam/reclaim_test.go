package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// newNetNS makes a network namespace that lives until end is called, held by a
// process alone, and returns a path to it.
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
		_ = holder.Wait() // it was killed, and says so
	})
	t.Cleanup(end)
	return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), end
}

// withoutHandle makes every record look as on a kernel before 6.18.
func withoutHandle(t *testing.T, dir string) {
	t.Helper()
	editRecords(t, dir, func(r *record) { r.NetNS.Handle = "" })
}

func editRecords(t *testing.T, dir string, edit func(*record)) {
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
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		edit(&r)
		write(t, name, string(r.encode()))
	}
}

func TestReclaim(t *testing.T) {
	for _, kernel := range []string{"with handles", "without handles"} {
		t.Run(kernel, func(t *testing.T) {
			provable := kernel == "with handles" || seesAllProcesses()
			if kernel == "with handles" && !givesHandles(t) {
				t.Skip("this kernel gives no handles of namespaces")
			}
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
			if kernel == "without handles" {
				withoutHandle(t, dir)
			}
			if n, err := s.Reclaim(); n != 0 || err != nil {
				t.Errorf("while all live: got %d, %v, want 0", n, err)
			}
			end()
			n, err := s.Reclaim()
			if !provable {
				if n != 0 || err != nil {
					t.Errorf("without a proof: got %d, %v, want 0", n, err)
				}
				return
			}
			if n != 1 || err != nil {
				t.Errorf("after one namespace is gone: got %d, %v, want 1", n, err)
			}
			want := map[string]string{"10.1.0.2": "living\r\neth0", "10.1.0.4": "pathless\r\neth0", "10.1.0.9": "theirs\r\neth0", "last_reserved_ip.0": "10.1.0.4"}
			if diff := cmp.Diff(want, files(t, dir)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			mustBeSound(t, s)
		})
	}
}

// givesHandles says whether the kernel gives handles of namespaces, as it does
// since 6.18; from there on it is an error if we have none.
func givesHandles(t *testing.T) bool {
	t.Helper()
	gives := identifyNetNS("/proc/self/ns/net").Handle != ""
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if !gives && (major > 6 || major == 6 && minor >= 18) {
		t.Fatalf("no handle of a namespace on Linux %d.%d", major, minor)
	}
	return gives
}

// seesAllProcesses says whether we may look into every process, which root may
// not everywhere.
func seesAllProcesses() bool {
	_, err := netNSInUse("/proc")
	return err == nil
}

// A namespace whose path is gone may live on.
func TestReclaimSparesWhatIsInUse(t *testing.T) {
	netns, _ := newNetNS(t)
	s, dir := testStore(t)
	from(t, s, testSets(t, "10.1.0.0/28")).leaseIn("a", netns)
	for _, kernel := range []string{"with handles", "without handles"} {
		editRecords(t, dir, func(r *record) {
			r.NetNS.Path = "/gone"
			if kernel == "without handles" {
				r.NetNS.Handle = ""
			}
		})
		if n, err := s.Reclaim(); n != 0 || err != nil {
			t.Errorf("%s, path gone, namespace in use: got %d, %v, want 0", kernel, n, err)
		}
	}
}

// fakeProc is a /proc with the given links and files.
func fakeProc(t *testing.T, links, texts map[string]string) string {
	t.Helper()
	proc := t.TempDir()
	links["self/ns/pid"] = "pid:[4026531836]"
	for name, target := range links {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range texts {
		write(t, filepath.Join(proc, name), text)
	}
	return proc
}

func TestNetNSInUse(t *testing.T) {
	proc := fakeProc(t, map[string]string{
		"1/ns/mnt": "mnt:[1]", "1/task/1/ns/net": "net:[101]", "1/fd/0": "/dev/null", "1/fd/7": "net:[102]",
		"20/ns/mnt": "mnt:[2]", "20/task/20/ns/net": "net:[101]", "20/task/21/ns/net": "net:[103]",
		"30/ns/mnt": "mnt:[2]", "30/task/30/ns/net": "net:[101]",
		"irq/ns/mnt": "mnt:[3]",
	}, map[string]string{
		"1/mountinfo":  "22 1 0:4 net:[104] /run/netns/a rw - nsfs nsfs rw\n23 1 0:5 / /sys rw - sysfs sysfs rw\n",
		"20/mountinfo": "22 1 0:4 net:[105] /run/netns/b rw - nsfs nsfs rw\n",
		"30/mountinfo": "the same mounts as process 20 has, not read again: net:[106]\n",
	})
	got, err := netNSInUse(proc)
	want := map[uint64]bool{101: true, 102: true, 103: true, 104: true, 105: true}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}

func TestNetNSInUseOwnsUpToWhatItCannotSee(t *testing.T) {
	nested := fakeProc(t, map[string]string{}, nil)
	if err := errors.Join(os.Remove(nested+"/self/ns/pid"), os.Symlink("pid:[4026532999]", nested+"/self/ns/pid")); err != nil {
		t.Fatal(err)
	}
	if got, err := netNSInUse(nested); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("in a pid namespace: got %v, %v, want an error", got, err)
	}
	forbidden := fakeProc(t, map[string]string{"1/ns/mnt": "mnt:[1]"}, map[string]string{"1/task": "not a directory: as if it could not be listed"})
	if got, err := netNSInUse(forbidden); err == nil {
		t.Errorf("a process that cannot be looked into: got %v, want an error", got)
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
	_, err := s.Lease(Want{Owner: testOwner("a"), NetNS: second, Sets: sets})
	if cni.CodeOf(err) != cni.CodeConflict || !strings.Contains(err.Error(), first) {
		t.Errorf("in another one while the first lives: got %v, want code 102 and the path", err)
	}
	end()
	if again := from(t, s, sets).leaseIn("a", second); !slices.Equal(again, got) {
		t.Errorf("in another one after the first: got %v, want %v", again, got)
	}
	if err := os.Remove(filepath.Join(dir, "fd00::2")); err != nil { // as a kill between the two claims leaves it
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
	_, err := s.Lease(want(sets, "late"))
	if cni.CodeOf(err) != cni.CodeExhausted || !strings.Contains(err.Error(), "5 of 5 in 10.1.0.0/29") {
		t.Errorf("full: got %v, want code 101 and the numbers", err)
	}
	if err := s.Ready(sets); cni.CodeOf(err) != cni.CodeUnavailable || !strings.Contains(err.Error(), "5 of 5") {
		t.Errorf("STATUS of a full pool: got %v, want code 50 and the numbers", err)
	}
	end()
	if err := s.Ready(sets); err != nil {
		t.Errorf("STATUS of a pool of the dead: got %v, want none", err)
	}
	use, err := s.Usage(sets)
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
	if _, err := s.Lease(want(sets, "new", a)); cni.CodeOf(err) != cni.CodeConflict || !strings.Contains(err.Error(), "net/old/eth0") {
		t.Errorf("while its holder lives: got %v, want code 102 and the holder", err)
	}
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
		want  []string // who stays
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
			if diff := cmp.Diff(test.want, left); diff != "" {
				t.Errorf("who stays (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(dir + "/10.1.0.10"); err != nil {
				t.Errorf("a file that is no lease: %v", err)
			}
		})
	}
}

// What ended in an earlier boot, as seen at the first use in this one.
func TestEarlierBoot(t *testing.T) {
	s, dir := testStore(t)
	sets := testSets(t, "10.1.0.0/28")
	netns, _ := newNetNS(t)
	for _, id := range []string{"a", "torn", "rewritten"} {
		from(t, s, sets).leaseIn(id, netns)
	}
	editRecords(t, dir, func(r *record) { r.Boot = "an-earlier-one" })
	write(t, filepath.Join(dir, indexDir, recordName(testOwner("torn"))), "")
	write(t, filepath.Join(dir, indexDir, headerName), `{"format":1,"boot":"an-earlier-one"}`)
	if err := os.Remove(dir + "/10.1.0.4"); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/10.1.0.4", "rewritten\r\neth0") // by host-local, meanwhile
	write(t, dir+"/10.1.0.5", "theirs\r\neth0")
	from(t, s, sets).lease("new")
	want := map[string]string{"10.1.0.4": "rewritten\r\neth0", "10.1.0.5": "theirs\r\neth0", "10.1.0.6": "new\r\neth0", "last_reserved_ip.0": "10.1.0.6"}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	mustBeSound(t, s)
}

// Our record tells nothing of what host-local wrote for the same owner later.
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
	if n, err := s.Reclaim(); n != 0 || err != nil {
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
	end()
	leases, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range leases {
		got = append(got, fmt.Sprint(l.Address, " ", l.Owner, " ", l.NetNS == netns, " ", l.Dead))
	}
	want := []string{"10.1.0.2 net/a/eth0 true true", "10.1.0.9 net/theirs/eth0 false false", "fd00::2 net/a/eth0 true true"}
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
	write(t, filepath.Join(dir, indexDir, recordName(testOwner("x"))), string(record{ContainerID: "x", IfName: "eth0"}.encode()))
	write(t, filepath.Join(dir, indexDir, blockPrefix+"10.1.0.0"), "")
	write(t, dir+"/10.1.0.7", "\x00\x00")
	problems, err := s.Verify()
	if err != nil || len(problems) < 3 {
		t.Errorf("got %v, %v, want the torn record, the stray record, the torn lease", problems, err)
	}
	if err := s.Repair(); err != nil {
		t.Fatal(err)
	}
	mustBeSound(t, s)
}
