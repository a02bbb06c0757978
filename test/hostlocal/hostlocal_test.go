package hostlocal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

const (
	hostLocalDual = `[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00::/64"}]]`
	hostLocalOne  = `[[{"subnet":"10.1.0.0/24"}]]`
)

func TestHostLocalInEveryVersion(t *testing.T) {
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		h := newHostLocal(t, hostLocalDual)
		h.version = version
		a := h.call("ADD", "c1")
		if a.code != 0 {
			t.Errorf("%s: ADD: %s", version, a.msg)
		}
		if version >= "0.3.0" && !slices.Equal(a.addresses, []string{"10.1.0.2", "fd00::2"}) {
			t.Errorf("%s: ADD: got %v", version, a.addresses)
		}
		if version >= "0.4.0" {
			h.must("CHECK", "c1")
			for given, code := range map[string]int{`"10.1.0.2/24"`: 0, `"10.1.0.3/24"`: 103} {
				member := ""
				if version == "0.4.0" {
					member = `"version":"4",`
				}
				prev := fmt.Sprintf(`,"prevResult":{"cniVersion":%q,"ips":[{%s"address":%s},{%s"address":"fd00::2/64"}]}`, version, member, given, strings.ReplaceAll(member, "4", "6"))
				if a := h.callWith("CHECK", "c1", h.config(prev)); a.code != code {
					t.Errorf("%s: CHECK with %s: got %d %s, want code %d", version, given, a.code, a.msg, code)
				}
			}
		}
		for range 2 {
			h.must("DEL", "c1")
		}
		if a := h.call("CHECK", "c1"); version >= "0.4.0" && a.code != 103 {
			t.Errorf("%s: CHECK after DEL: got %d %s, want code 103", version, a.code, a.msg)
		}
		if left := h.leases(); len(left) > 0 {
			t.Errorf("%s: after DEL: %v", version, left)
		}
	}
}

// A DEL must release whatever became of the namespace and of the configuration.
func TestHostLocalDelAlwaysReleases(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, netns := range []string{"", "/nonexistent", plain} {
		h := newHostLocal(t, hostLocalDual)
		h.must("ADD", "c1")
		h.netns = netns
		h.must("DEL", "c1")
		if left := h.leases(); len(left) > 0 {
			t.Errorf("netns %q: left %v", netns, left)
		}
	}
	for _, ranges := range []string{`[[{"subnet":"10.9.0.0/24"}]]`, `[[{"subnet":"10.9.0.7/24"}]]`, `"none"`, `[]`, `[[]]`} {
		h := newHostLocal(t, hostLocalDual)
		h.must("ADD", "c1")
		h.ranges = ranges
		h.must("DEL", "c1")
		if left := h.leases(); len(left) > 0 {
			t.Errorf("ranges %s: left %v", ranges, left)
		}
	}
}

func TestHostLocalRefusesWithoutEffect(t *testing.T) {
	h := newHostLocal(t, hostLocalOne)
	tests := []struct {
		name, config, args string
		code               int
		want               string
	}{
		{"broken JSON", `{"name":`, "", 6, "network configuration"},
		{"gateway outside", `{"cniVersion":"1.1.0","name":"` + hostLocalNetwork + `","ipam":{"dataDir":"` + h.data + `","ranges":[[{"subnet":"10.2.0.0/24","gateway":"10.1.0.1"}]]}}`, "", 7, "ipam.ranges[0][0].gateway: 10.1.0.1 is outside 10.2.0.0/24"},
		{"requested in no range", h.config(""), "IP=10.7.0.1", 7, "10.7.0.1 is in no range"},
		{"requested is the gateway", h.config(""), "IP=10.1.0.1/24", 7, "10.1.0.1 is the gateway"},
		{"resolv.conf missing", strings.Replace(h.config(""), `"ranges"`, `"resolvConf":"/nonexistent","ranges"`, 1), "", 7, "ipam.resolvConf"},
		{"a name that is a path", strings.Replace(h.config(""), `"net`, `"../net`, 1), "", 7, "../net"},
	}
	for _, test := range tests {
		a := h.callWith("ADD", "c1", test.config, "CNI_ARGS="+test.args)
		if a.code != test.code || !strings.Contains(a.msg, test.want) {
			t.Errorf("%s: got %d %q, want %d %q", test.name, a.code, a.msg, test.code, test.want)
		}
	}
	if entries, err := os.ReadDir(h.data); err != nil || len(entries) > 0 {
		t.Errorf("the data directory: got %v, %v, want nothing", entries, err)
	}
	h.must("DEL", "c1")
	h.must("STATUS", "")
	h.must("GC", "")
	if entries, err := os.ReadDir(h.data); err != nil || len(entries) > 0 {
		t.Errorf("the data directory after DEL, STATUS and GC: got %v, %v, want nothing", entries, err)
	}
}

func TestHostLocalStatusAndGC(t *testing.T) {
	h := newHostLocal(t, `[[{"subnet":"10.1.0.0/30"}]],"statusWhenFull":"unavailable"`)
	h.must("STATUS", "")
	h.must("ADD", "c1")
	before := hostLocalTimes(t, h.data)
	if a := h.call("STATUS", ""); a.code != 50 || !strings.Contains(a.msg, "1 of 1 in 10.1.0.0/30") {
		t.Errorf("full: got %d %q, want code 50 and the numbers", a.code, a.msg)
	}
	if diff := cmp.Diff(before, hostLocalTimes(t, h.data)); diff != "" {
		t.Errorf("STATUS writes (-before +after):\n%s", diff)
	}
	if a := h.call("ADD", "c2"); a.code != 101 {
		t.Errorf("ADD: got %d %q, want code 101", a.code, a.msg)
	}
	h.must("GC", "") // no list: c1 lives
	if a := h.call("STATUS", ""); a.code != 50 {
		t.Errorf("after GC without a list: got %d %q, want code 50", a.code, a.msg)
	}
	if a := h.callWith("GC", "", h.config(`,"cni.dev/valid-attachments":[]`)); a.code != 0 {
		t.Errorf("GC: %s", a.msg)
	}
	h.must("STATUS", "")
	h.must("ADD", "c2")
}

// hostLocalTimes is when each file was last changed in any way.
func hostLocalTimes(t *testing.T, root string) map[string]string {
	t.Helper()
	times := map[string]string{}
	err := filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		var stat unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &stat)
		}
		times[path] = fmt.Sprint(stat.Ctim, stat.Size)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return times
}

// Both programs work on one directory in turns: neither gives away what the
// other has leased, and each releases what the other wrote.
func TestHostLocalInTurnsWithTheReference(t *testing.T) {
	h := newHostLocal(t, `[[{"subnet":"10.1.0.0/26"}],[{"subnet":"fd00::/120"}]]`)
	programs := []hostLocal{h, h.reference()}
	owner := map[string]string{}
	held := map[string][]string{}
	for step := range 240 {
		who := programs[step*7%5%2]
		id := fmt.Sprint("c", step*step%37)
		if held[id] != nil {
			who.must("DEL", id)
			for _, a := range held[id] {
				delete(owner, a)
			}
			delete(held, id)
			continue
		}
		got := who.must("ADD", id)
		for _, a := range got {
			if owner[a] != "" {
				t.Fatalf("step %d: %s leased to %s and %s", step, a, owner[a], id)
			}
			owner[a] = id
		}
		held[id] = got
		want := map[string]string{}
		for a, id := range owner {
			want[a] = id + "\r\neth0"
		}
		have := h.leases()
		maps.DeleteFunc(have, func(name, _ string) bool { return strings.HasPrefix(name, "owner.") })
		if diff := cmp.Diff(want, have); diff != "" {
			t.Fatalf("step %d (-want +got):\n%s", step, diff)
		}
	}
	for id := range held {
		h.must("CHECK", id)
		h.must("DEL", id)
	}
	if left := h.leases(); len(left) > 0 {
		t.Errorf("at the end: %v", left)
	}
}

// The leases of an earlier boot vanish at the first use; host-local's stay.
func TestHostLocalAfterAReboot(t *testing.T) {
	h := newHostLocal(t, hostLocalDual)
	h.must("ADD", "c1")
	h.must("ADD", "c2")
	h.age()
	h.reference().must("ADD", "theirs")
	boot := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(boot, []byte("11111111-2222-3333-4444-555555555555\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	inMountNS(t, func() {
		if err := unix.Mount(boot, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
			return
		}
		if got := h.must("ADD", "new"); !slices.Equal(got, []string{"10.1.0.5", "fd00::5"}) {
			t.Errorf("ADD: got %v, want the next addresses", got)
		}
	})
	have := h.leases()
	maps.DeleteFunc(have, func(name, _ string) bool { return strings.HasPrefix(name, "owner.") })
	want := map[string]string{"10.1.0.4": "theirs\r\neth0", "fd00::4": "theirs\r\neth0", "10.1.0.5": "new\r\neth0", "fd00::5": "new\r\neth0"}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// age makes all leases as old as if they were of a boot long ago: what was made
// since this one began, under whatever boot id, is another machine's.
func (h hostLocal) age() {
	h.t.Helper()
	long := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	for name := range h.leases() {
		path := filepath.Join(h.dir(), name)
		if strings.HasPrefix(name, "owner.") {
			h.ageRecord(filepath.Join(h.dir(), ".trestle", name), long)
			continue
		}
		if err := os.Chtimes(path, long, long); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h hostLocal) ageRecord(path string, made time.Time) {
	h.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(data, &record); err != nil {
		h.t.Fatal(err)
	}
	record["time"] = made
	if data, err = json.Marshal(record); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// Two machines that share a directory (a cluster file system, where flock works
// across them), or containers with boot ids of their own, leave each other's leases alone.
func TestHostLocalTwoMachines(t *testing.T) {
	h := newHostLocal(t, hostLocalDual)
	boot := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(boot, []byte("11111111-2222-3333-4444-555555555555\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	machine := filepath.Join(t.TempDir(), "machine-id")
	if err := os.WriteFile(machine, []byte("22222222222222222222222222222222\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	for name, over := range map[string]map[string]string{
		"another machine": {boot: "/proc/sys/kernel/random/boot_id", machine: "/etc/machine-id"},
		"a clone of it":   {boot: "/proc/sys/kernel/random/boot_id"},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.elsewhere()
			var got []string
			for i := range 3 {
				got = append(got, h.must("ADD", fmt.Sprint("a", i))...)
				if name == "another machine" {
					h.age()
				}
				inMountNS(t, func() {
					for from, to := range over {
						if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
							t.Error(err)
							return
						}
					}
					got = append(got, h.must("ADD", fmt.Sprint("b", i))...)
				})
			}
			slices.Sort(got)
			if all := slices.Compact(slices.Clone(got)); len(all) != 12 {
				t.Errorf("got %v, want 12 addresses, each once", got)
			}
			if n := len(h.leases()); n != 12+6 {
				t.Errorf("got %v, want 12 leases of 6 owners", h.leases())
			}
		})
	}
}

// Two users with root of their own (rootless containers) that share a directory: what one
// of them cannot see is not dead.
func TestHostLocalTwoUsers(t *testing.T) {
	h := newHostLocal(t, `[[{"subnet":"10.1.0.0/30"}]]`)
	for i, want := range []int{0, 101} {
		user := h.asUser(t)
		if a := user.call("ADD", fmt.Sprint("c", i)); a.code != want {
			t.Errorf("ADD of user %d: got %d %q, want code %d", i, a.code, a.msg, want)
		}
	}
	if n := len(h.leases()); n != 2 {
		t.Errorf("got %v, want one lease and its owner's record", h.leases())
	}
}

// asUser is the same called in a user namespace of its own, with its own view of the
// processes, for a network namespace that nobody else can see.
func (h hostLocal) asUser(t *testing.T) hostLocal {
	t.Helper()
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", "unshare --net sh -c 'echo ready; exec sleep 100' & wait")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and --kill-child the rest
		_ = cmd.Wait()         // killed
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("a user namespace: %q, %v", line, err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	h.prefix = []string{"nsenter", "--target", strings.TrimSpace(string(children)), "--user", "--mount", "--pid", "--preserve-credentials"}
	h.netns = "/proc/2/ns/net" // of the shell's first child
	return h
}

// On a file system that is full, or becomes so at any point of an ADD: a clear
// error and no trace, and DEL works all the same.
func TestHostLocalDiskFull(t *testing.T) {
	h := newHostLocal(t, hostLocalDual)
	inMountNS(t, func() {
		succeeded := false
		for inodes := 2; inodes < 20 && !succeeded; inodes++ {
			for _, pages := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16} {
				options := fmt.Sprintf("size=%d,nr_inodes=%d", pages*os.Getpagesize(), inodes)
				if err := unix.Mount("tmpfs", h.data, "tmpfs", 0, options); err != nil {
					t.Error(err)
					return
				}
				a := h.call("ADD", "c1")
				if a.code != 0 && a.code != 5 {
					t.Errorf("%s: got %d %q, want code 5", options, a.code, a.msg)
				}
				if left := h.leases(); a.code != 0 && len(left) > 0 {
					t.Errorf("%s: a failed ADD (%s) left %v", options, a.msg, left)
				}
				succeeded = a.code == 0
				h.must("DEL", "c1")
				if left := h.leases(); len(left) > 0 {
					t.Errorf("%s: after DEL: %v", options, left)
				}
				if err := unix.Unmount(h.data, 0); err != nil {
					t.Error(err)
					return
				}
			}
		}
		if !succeeded {
			t.Error("no size was enough")
		}
	})
}

// A disk that is full while leases of host-local are in place, and no index.
func TestHostLocalReleasesOnAFullDisk(t *testing.T) {
	h := newHostLocal(t, hostLocalOne)
	inMountNS(t, func() {
		if err := unix.Mount("tmpfs", h.data, "tmpfs", 0, "size=64k"); err != nil {
			t.Error(err)
			return
		}
		h.reference().must("ADD", "theirs")
		if err := os.WriteFile(h.data+"/filler", make([]byte, 64<<10), 0o600); err == nil {
			t.Error("the disk is not full")
		}
		if a := h.call("STATUS", ""); a.code != 50 || !strings.Contains(a.msg, "no space left") {
			t.Errorf("STATUS: got %d %q, want code 50", a.code, a.msg)
		}
		if a := h.call("ADD", "c1"); a.code != 5 {
			t.Errorf("ADD: got %d %q, want code 5", a.code, a.msg)
		}
		h.must("CHECK", "theirs")
		h.must("DEL", "theirs")
		if _, err := os.Stat(h.dir() + "/10.1.0.2"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the lease: got %v, want it gone", err)
		}
	})
}

func TestHostLocalReadOnly(t *testing.T) {
	h := newHostLocal(t, hostLocalOne)
	h.must("ADD", "c1")
	inMountNS(t, func() {
		if err := errors.Join(unix.Mount(h.data, h.data, "", unix.MS_BIND, ""), unix.Mount("", h.data, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			t.Error(err)
			return
		}
		for verb, code := range map[string]int{"ADD": 5, "STATUS": 50} {
			if a := h.call(verb, "c2"); a.code != code || !strings.Contains(a.msg, "read-only file system") ||
				!strings.Contains(a.msg, "ipam.dataDir: ") || !strings.Contains(a.msg, " "+h.data) || !strings.Contains(a.msg, "or name another directory") {
				t.Errorf("%s: got %d %q, want code %d, the key, its value and the way out", verb, a.code, a.msg, code)
			}
		}
		if a := h.call("DEL", "c1"); a.code != 5 {
			t.Errorf("DEL: got %d %q, want code 5", a.code, a.msg)
		}
		h.must("CHECK", "c1")
		h.must("DEL", "nobody")
	})
	h.must("DEL", "c1")
	if left := h.leases(); len(left) > 0 {
		t.Errorf("after DEL: %v", left)
	}
}

// The directory is removed again and again while others lease.
func TestHostLocalDirectoryRemoved(t *testing.T) {
	h := newHostLocal(t, hostLocalOne)
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.RemoveAll(h.dir()) // it is filled again meanwhile, and then stays
			}
		}
	}()
	for i := range 150 {
		for _, verb := range []string{"ADD", "CHECK", "DEL"} {
			if a := h.call(verb, fmt.Sprint("c", i)); a.code != 0 && a.code != 5 && a.code != 11 && a.code != 103 {
				t.Errorf("%s: got %d %q", verb, a.code, a.msg)
			}
		}
	}
	close(stop)
	<-done
	h.must("ADD", "last")
	h.must("DEL", "last")
}

// What a verb costs may not grow with the leases.
func TestHostLocalSyscallsDoNotGrow(t *testing.T) {
	var base map[string]int
	for _, n := range []int{0, 1000, 10000, 60000} {
		h := newHostLocal(t, `[[{"subnet":"10.1.0.0/16"}]],"statusWhenFull":"unavailable"`)
		h.fill(n)
		h.must("ADD", "first") // builds the index
		counts := map[string]int{
			"ADD": h.countSyscalls("ADD"), "CHECK": h.countSyscalls("CHECK"), "STATUS": h.countSyscalls("STATUS"),
			"DEL": h.countSyscalls("DEL"), "DEL again": h.countSyscalls("DEL"),
		}
		t.Logf("%d leases: %v", n, counts)
		host.ForgetDataDir(h.data)
		if base == nil {
			base = counts
		}
		for verb, count := range counts {
			if count*10 > base[verb]*11 || count*10 < base[verb]*9 {
				t.Errorf("%s at %d leases: got %d system calls, want %d as with none, within 10 %%", verb, n, count, base[verb])
			}
		}
	}
}

// fill writes n leases as host-local writes them.
func (h hostLocal) fill(n int) {
	h.t.Helper()
	if err := os.MkdirAll(h.dir(), 0o755); err != nil {
		h.t.Fatal(err)
	}
	for i := 2; i < n+2; i++ {
		name := fmt.Sprintf("10.1.%d.%d", i>>8, i&255)
		if err := os.WriteFile(filepath.Join(h.dir(), name), fmt.Appendf(nil, "f%d\r\neth0", i), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
}

// countSyscalls counts the system calls on files that a verb makes.
func (h hostLocal) countSyscalls(verb string) int {
	h.t.Helper()
	trace := filepath.Join(h.t.TempDir(), "trace")
	h.prefix = []string{"strace", "-f", "-qq", "-o", trace, "-e", "trace=" + strings.Join(hostLocalSyscalls, ",")}
	h.must(verb, "traced")
	text, err := os.ReadFile(trace)
	if err != nil {
		h.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "resumed>") && strings.Contains(line, "(") {
			n++
		}
	}
	return n
}

// hostLocalSyscalls are those by which a store can be touched.
var hostLocalSyscalls = []string{
	"openat", "read", "write", "pwrite64", "close", "fstat", "newfstatat", "unlinkat", "mkdirat", "utimensat", "flock",
	"ftruncate", "getdents64", "renameat", "renameat2", "linkat", "faccessat", "faccessat2", "access", "statfs",
	"name_to_handle_at", "open_by_handle_at",
}

// TestHostLocalKilledAnywhere kills ADD and DEL at each system call in turn: in
// a directory that is new, that has leases, and whose index must be rebuilt.
// Afterwards a DEL, or GC, leaves what was there before, and an ADD repeated
// gives addresses that nobody has.
func TestHostLocalKilledAnywhere(t *testing.T) {
	for _, scene := range []hostLocalScene{
		{"ADD", "new"}, {"ADD", "with leases"}, {"ADD", "stale"}, {"DEL", "with leases"}, {"DEL", "stale"},
	} {
		t.Run(scene.verb+" "+scene.before, func(t *testing.T) {
			h := newHostLocal(t, hostLocalDual)
			kills := 0
			for _, syscall := range hostLocalSyscalls {
				for n := 1; scene.kill(h.elsewhere(), syscall, n, kills); n++ {
					kills++
				}
			}
			t.Logf("killed at %d system calls", kills)
			if kills < 30 {
				t.Errorf("killed at %d system calls only: is strace at work?", kills)
			}
		})
	}
}

// Who executes host-local, and is still running, does not lose to another what it was given;
// when it was killed, whoever repeats its ADD is given the same.
func TestHostLocalGivesTheKilledOnesAgain(t *testing.T) {
	h := newHostLocal(t, hostLocalOne)
	main := exec.Command("sh", "-c", `"$0"; exec sleep 1000`, h.program)
	main.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=" + h.netns, "CNI_PATH=/nowhere", "PATH=" + os.Getenv("PATH")}
	main.Stdin = strings.NewReader(h.config(""))
	stdout, err := main.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := main.Start(); err != nil {
		t.Fatal(err)
	}
	var result map[string]any
	decodeErr := json.NewDecoder(stdout).Decode(&result)
	got := h.call("ADD", "c1")
	_ = main.Process.Kill() // it sleeps
	_ = main.Wait()         // killed
	if decodeErr != nil {
		t.Fatal(decodeErr)
	}
	if got.code != 102 || !strings.Contains(got.msg, fmt.Sprintf("asked for by process %d, which is still running", main.Process.Pid)) {
		t.Errorf("ADD beside it: got %d %q, want code 102", got.code, got.msg)
	}
	for range 2 { // by the same process, too
		if got := h.must("ADD", "c1"); !slices.Equal(got, []string{"10.1.0.2"}) {
			t.Errorf("ADD after it was killed: got %v, want 10.1.0.2", got)
		}
	}
	h.must("DEL", "c1")
}

// hostLocalScene is a verb, and what was there before it.
type hostLocalScene struct{ verb, before string }

// kill kills the verb at the nth of these system calls, recovers in one of the
// ways and compares. It says whether the verb made so many.
func (s hostLocalScene) kill(h hostLocal, syscall string, n, way int) (killed bool) {
	defer host.ForgetDataDir(h.data)
	if s.before != "new" {
		h.must("ADD", "other")
	}
	want := h.leases()
	if s.verb == "DEL" {
		h.must("ADD", "victim")
	}
	if s.before == "stale" {
		h.reference().must("ADD", "theirs")
	}
	traced := h
	traced.prefix = []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + syscall, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", syscall, n)}
	what := fmt.Sprintf("%s at %s %d", s.verb, syscall, n)
	if a := traced.call(s.verb, "victim"); !a.killed {
		if a.code != 0 {
			h.t.Errorf("%s: %s", what, a.msg)
		}
		return false
	}
	if s.before == "stale" {
		h.reference().must("DEL", "theirs")
	}
	h.recover(what, way)
	if diff := cmp.Diff(want, h.leases()); diff != "" {
		h.t.Errorf("%s, recovered in way %d (-want +got):\n%s", what, way%3, diff)
	}
	return true
}

// recover does what a runtime does after a crash.
func (h hostLocal) recover(what string, way int) {
	switch way % 3 {
	case 0:
		h.must("DEL", "victim")
	case 1:
		if a := h.callWith("GC", "", h.config(`,"cni.dev/valid-attachments":[{"containerID":"other","ifname":"eth0"}]`)); a.code != 0 {
			h.t.Errorf("%s: GC: %s", what, a.msg)
		}
	case 2:
		got := h.must("ADD", "victim")
		if others := h.must("ADD", "another"); len(got) != 2 || got[0] == others[0] || got[1] == others[1] {
			h.t.Errorf("%s: ADD again gives %v, another %v", what, got, others)
		}
		h.must("DEL", "another")
		h.must("DEL", "victim")
	}
}

// TestHostLocalCrowd has 64 callers lease and release at random, 200 times each,
// in one pool.
func TestHostLocalCrowd(t *testing.T) {
	const callers, turns = 64, 200
	h := newHostLocal(t, `[[{"subnet":"10.1.0.0/20"}]]`)
	held := make([]map[string]string, callers) // by caller: address by id
	var group sync.WaitGroup
	for caller := range callers {
		held[caller] = map[string]string{}
		group.Add(1)
		go func() {
			defer group.Done()
			rnd := rand.New(rand.NewPCG(uint64(caller), 7))
			for turn := range turns {
				mine := held[caller]
				if len(mine) > 0 && rnd.IntN(2) == 0 {
					for id := range mine {
						h.must("DEL", id)
						delete(mine, id)
						break
					}
					continue
				}
				id := fmt.Sprintf("c%d-%d", caller, turn)
				if got := h.call("ADD", id); len(got.addresses) == 1 {
					mine[id] = got.addresses[0]
				} else {
					t.Errorf("ADD %s: %d %s", id, got.code, got.msg)
				}
			}
		}()
	}
	group.Wait()
	want := map[string]string{}
	for _, mine := range held {
		for id, address := range mine {
			if other, taken := want[address]; taken {
				t.Errorf("%s leased to %s and %q", address, id, other)
			}
			want[address] = id + "\r\neth0"
		}
	}
	have := h.leases()
	records := 0
	maps.DeleteFunc(have, func(name, _ string) bool {
		isRecord := strings.HasPrefix(name, "owner.")
		if isRecord {
			records++
		}
		return isRecord
	})
	if diff := cmp.Diff(want, have); diff != "" || records != len(want) {
		t.Errorf("%d records for %d leases (-want +got):\n%s", records, len(want), diff)
	}
	for _, mine := range held {
		for id := range mine {
			h.must("DEL", id)
		}
	}
	if left := h.leases(); len(left) > 0 {
		t.Errorf("at the end: %v", left)
	}
}
