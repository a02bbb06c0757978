package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The first thread of the process never ends, so it must not be one that enters a namespace.
func TestMain(m *testing.M) {
	runtime.LockOSThread()
	os.Exit(m.Run())
}

// onThread runs do on a thread that ends afterwards, with the namespaces that it has entered.
func onThread(t *testing.T, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// newNetNS makes a network namespace that lives as long as the file is open.
func newNetNS(t *testing.T) (file *os.File, path string) {
	t.Helper()
	onThread(t, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (needs root): %w", err)
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { _ = file.Close() }) // the test may have closed it already
	return file, fmt.Sprintf("/proc/self/fd/%d", file.Fd())
}

func start(t *testing.T, cmd *exec.Cmd) (end func()) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill() // if it still runs
		_ = cmd.Wait()         // the error is that it was killed
	}
}

// socketIn opens a socket in the namespace.
func socketIn(t *testing.T, netns *os.File) (fd int) {
	t.Helper()
	onThread(t, func() (err error) {
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	return fd
}

// holders are the ways in which a namespace stays alive without its path. Each returns a
// function that ends that.
var holders = map[string]func(t *testing.T, netns *os.File) (release func()){
	"a process": func(t *testing.T, netns *os.File) (release func()) {
		onThread(t, func() error {
			if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			release = start(t, exec.Command("sh", "-c", "echo; exec sleep 60"))
			return nil
		})
		return release
	},
	"a thread": func(t *testing.T, netns *os.File) func() {
		in, leave := make(chan error), make(chan bool)
		go func() {
			runtime.LockOSThread()
			in <- unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET)
			<-leave
		}()
		if err := <-in; err != nil {
			t.Fatal(err)
		}
		return func() { close(leave) }
	},
	"a descriptor of another process": func(t *testing.T, netns *os.File) func() {
		cmd := exec.Command("sh", "-c", "echo; exec sleep 60")
		cmd.ExtraFiles = []*os.File{netns}
		return start(t, cmd)
	},
	"a process of another pid namespace": func(t *testing.T, netns *os.File) func() {
		cmd := exec.Command("sh", "-c", "echo; exec sleep 60")
		cmd.ExtraFiles = []*os.File{netns}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
		return start(t, cmd)
	},
	"a mount in another mount namespace": func(t *testing.T, netns *os.File) func() {
		point := filepath.Join(t.TempDir(), "netns")
		if err := os.WriteFile(point, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", `mount --bind /proc/self/fd/3 "$0" && exec 3<&- && echo && exec sleep 60`, point)
		cmd.ExtraFiles = []*os.File{netns}
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		return start(t, cmd)
	},
	"a socket": func(t *testing.T, netns *os.File) func() {
		fd := socketIn(t, netns)
		return func() { _ = unix.Close(fd) }
	},
	"a socket in flight": func(t *testing.T, netns *os.File) func() {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd := socketIn(t, netns)
		if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd) // the message in the socket still refers to it
		return func() {
			_ = unix.Close(pair[0])
			_ = unix.Close(pair[1])
		}
	},
}

// proofs are the ways to prove a namespace dead, by what records have on each kernel.
var proofs = map[string]func(t *testing.T, path string) NetNS{
	"by its handle": func(t *testing.T, path string) NetNS {
		if !handlesProve() {
			t.Skip("this kernel gives no handles of namespaces, or they prove nothing")
		}
		n := look(path)
		if n.Handle == "" {
			t.Fatal("the namespace has no handle")
		}
		return n
	},
	"by its id": func(t *testing.T, path string) NetNS {
		needIDs(t)
		n := look(path)
		n.Handle, n.ID = "", assignID(path)
		if n.ID == "" {
			t.Fatal("the namespace was given no id")
		}
		return n
	},
}

// needIDs skips a test if the kernel is too old for NetNS.ID.
func needIDs(t *testing.T) {
	t.Helper()
	s, err := openIDs()
	if errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("this kernel, of before 5.14, gives no cookie of a namespace, and so no proof but a boot")
	}
	if err != nil {
		t.Fatal(err)
	}
	s.close()
}

// waitFor gives the kernel time to free a namespace.
func waitFor(t *testing.T, s Stamp, want Life) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		got, err := new(Prober).Life(s)
		if err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
}

func TestDeadOnlyWhenNothingHoldsTheNamespace(t *testing.T) {
	for proof, netnsOf := range proofs {
		for holder, hold := range holders {
			t.Run(proof+"/"+holder, func(t *testing.T) {
				file, path := newNetNS(t)
				s, err := NewStamp("")
				if err != nil {
					t.Fatal(err)
				}
				s.NetNS = netnsOf(t, path)
				waitFor(t, s, Alive)
				s.NetNS.Path = "/nonexistent"
				release := hold(t, file)
				if err := file.Close(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(50 * time.Millisecond) // long enough to be freed, if nothing held it
				waitFor(t, s, Alive)
				release()
				waitFor(t, s, Dead)
			})
		}
	}
}

// The kernel reuses a number that it has chosen itself, so that such a number proves only
// death.
func TestNumbersOfTheKernel(t *testing.T) {
	needIDs(t)
	file, path := newNetNS(t)
	s, err := NewStamp("")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := openIDs()
	if err != nil {
		t.Fatal(err)
	}
	defer ids.close()
	target := attribute(unix.NETNSA_FD, uint32(file.Fd()))
	number, err := ids.ask(append(
		idMessage(unix.RTM_NEWNSID, append(attribute(unix.NETNSA_NSID, 0xffffffff), target...)), // -1: the kernel chooses
		idMessage(unix.RTM_GETNSID, target)...))
	if err != nil || number < 0 || number >= firstChosen {
		t.Fatalf("got %d, %v, want a small number", number, err)
	}
	s.NetNS = look(path)
	s.NetNS.ID, s.NetNS.Handle, s.NetNS.Path = assignID(path), "", "/nonexistent"
	if want := fmt.Sprintf("%d:%d", ids.cookie, number); s.NetNS.ID != want {
		t.Errorf("got id %s, want the one that it has, %s", s.NetNS.ID, want)
	}
	waitFor(t, s, Unknown)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, Dead)
}

// TestSame: one namespace has one inode number, and where the kernel gives handles and ids, one
// of each; what is not known, or counts elsewhere, tells nothing apart.
func TestSame(t *testing.T) {
	n := NetNS{Path: "/run/netns/a", Dev: 4, Ino: 4026532177, ID: "7:1048577"}
	for name, test := range map[string]struct {
		change func(*NetNS)
		want   bool
	}{
		"another path":                {func(n *NetNS) { n.Path = "/proc/1/ns/net" }, true},
		"another inode number":        {func(n *NetNS) { n.Ino++ }, false},
		"another device":              {func(n *NetNS) { n.Dev++ }, false},
		"another handle":              {func(n *NetNS) { n.Handle = "f1:8310" }, false},
		"another id":                  {func(n *NetNS) { n.ID = "7:1048578" }, false},
		"no id":                       {func(n *NetNS) { n.ID = "" }, true},
		"an id that counts elsewhere": {func(n *NetNS) { n.ID = "8:1048578" }, true},
		"no namespace":                {func(n *NetNS) { *n = NetNS{Path: n.Path} }, false},
	} {
		other := n
		test.change(&other)
		if n.Same(other) != test.want || other.Same(n) != test.want {
			t.Errorf("%s: got %t and %t, want %t", name, n.Same(other), other.Same(n), test.want)
		}
	}
}

// TestInodeNumberOfALaterNamespace: the next namespace has the inode number of one that has
// ended, and may have its path as well. On kernels without handles the id tells them apart.
func TestInodeNumberOfALaterNamespace(t *testing.T) {
	needIDs(t)
	file, path := newNetNS(t)
	s, err := NewStamp("")
	if err != nil {
		t.Fatal(err)
	}
	s.NetNS = look(path)
	s.NetNS.ID, s.NetNS.Path = assignID(path), "/nonexistent"
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, Dead)
	_, path = newNetNS(t)
	later := look(path)
	s.NetNS.Path, s.NetNS.Dev, s.NetNS.Ino = path, later.Dev, later.Ino
	waitFor(t, s, Dead)
	later.ID = assignID(path)
	if s.NetNS.Same(later) {
		t.Errorf("%v counts as %v", later, s.NetNS)
	}
}

// TestPathTo: a namespace with a mount or a process is found by its number; one that only a
// descriptor holds is not.
func TestPathTo(t *testing.T) {
	needIDs(t)
	held, heldPath := newNetNS(t)
	mounted := filepath.Join(t.TempDir(), "a b")
	if err := os.WriteFile(mounted, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	process := exec.Command("unshare", "--net", "sh", "-c", "echo; read forever")
	stdin, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer start(t, process)()
	defer func() { _ = stdin.Close() }() // the process has ended
	other, otherPath := newNetNS(t)
	if err := unix.Mount(otherPath, mounted, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) }) // if it fails, so does the removal of TempDir
	of := fmt.Sprintf("/proc/%d/ns/net", process.Process.Pid)
	mountHidden(t, of)
	for path, want := range map[string]string{heldPath: "", otherPath: mounted, of: of} {
		_, number, _ := strings.Cut(assignID(path), ":")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%s has no number: %v", path, err)
		}
		if got := PathTo(n); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if err := errors.Join(held.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
}

// mountHidden mounts the namespace, and hides that by another mount.
func mountHidden(t *testing.T, path string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "hidden")
	err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mount(path, file, "", unix.MS_BIND, ""), unix.Mount("none", dir, "tmpfs", 0, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Unmount(dir, unix.MNT_DETACH), unix.Unmount(file, unix.MNT_DETACH) }) // likewise
}

// TestEnding: a process that was killed, or is exiting, does not count as keeping a namespace.
func TestEnding(t *testing.T) {
	const fields = "1 4712 4712 0 -1 %d 118 0 0 0 0 0 0 0 20 0 1 0 4000272 0 0 18446744073709551615 0 0 0 0 0 %d 0 6 0 1 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 9\n"
	for _, test := range []struct {
		name, begin   string
		flags, signal int
		want          bool
	}{
		{"runs", "4712 (sleep) S ", 4194304, 0, false},
		{"has SIGTERM, which it may ignore", "4712 (sleep) S ", 4194304, 1 << 14, false},
		{"killed", "4712 (sleep) D ", 4194304, 1 << 8, true},
		{"exits", "4712 (sleep) R ", 4194308, 0, true},
		{"has any name", "4712 (a) S 4 (b) R ", 4194308, 0, true},
	} {
		if got := ends(test.begin + fmt.Sprintf(fields, test.flags, test.signal)); got != test.want {
			t.Errorf("%s: got %t, want %t", test.name, got, test.want)
		}
	}
	if ends("4712 (cut") || isEnding(strconv.Itoa(os.Getpid())) || isEnding("") {
		t.Error("got that what cannot be read, or runs, or is no process, ends")
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if !isEnding(strconv.Itoa(gone.Process.Pid)) {
		t.Error("got that a process that has gone does not end")
	}
}

// A stamp of another boot or machine, or with a handle or number that is not the namespace's,
// proves nothing.
func TestUnknown(t *testing.T) {
	needIDs(t)
	file, path := newNetNS(t)
	s, err := NewStamp(path)
	if err != nil {
		t.Fatal(err)
	}
	byID := s
	byID.NetNS.Handle, byID.NetNS.ID = "", assignID(path)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, byID, Dead)
	for name, change := range map[string]func(*Stamp){
		"no boot id":                          func(s *Stamp) { s.Boot = "" },
		"another boot, of another machine":    func(s *Stamp) { s.Boot, s.Machine, s.Time = "b", "m", time.Unix(1e9, 0) },
		"another boot, since ours began":      func(s *Stamp) { s.Boot, s.Time = "b", time.Now() },
		"another boot, at an unknown time":    func(s *Stamp) { s.Boot, s.Time = "b", time.Time{} },
		"another boot, no machine has a name": func(s *Stamp) { s.Boot, s.Machine, s.Time = "b", noMachine, time.Unix(1e9, 0) },
		"no namespace":                        func(s *Stamp) { s.NetNS = NetNS{Path: path} },
		"neither handle nor id":               func(s *Stamp) { s.NetNS.ID = "" },
		"an id in another namespace":          func(s *Stamp) { s.NetNS.ID = "1" + s.NetNS.ID },
		"an id that cannot be read":           func(s *Stamp) { s.NetNS.ID = "x" },
		"a handle that cannot be read":        func(s *Stamp) { s.NetNS.ID, s.NetNS.Handle = "", "f1:zz" },
	} {
		changed := byID
		change(&changed)
		if got, err := new(Prober).Life(changed); got != Unknown || err != nil {
			t.Errorf("%s: got %d, %v, want nothing proved", name, got, err)
		}
	}
}

func TestOutlived(t *testing.T) {
	began := time.Now()
	host := Host{Boot: "now", Machine: "m", Began: began}
	before := began.Add(-time.Hour)
	for _, test := range []struct {
		name string
		s    Stamp
		want bool
	}{
		{"an earlier boot", Stamp{Boot: "b", Machine: "m", Time: before}, true},
		{"this boot", Stamp{Boot: "now", Machine: "m", Time: before}, false},
		{"another machine", Stamp{Boot: "b", Machine: "other", Time: before}, false},
		{"another boot that goes on beside ours", Stamp{Boot: "b", Machine: "m", Time: began.Add(time.Second)}, false},
		{"of a release that knew no machines", Stamp{Boot: "b", Time: before}, true},
		{"of such a release, beside ours", Stamp{Boot: "b", Time: began.Add(time.Second)}, false},
		{"nobody", Stamp{Time: before}, false},
	} {
		if got := host.Outlived(test.s); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	host.Began = time.Time{}
	if host.Outlived(Stamp{Boot: "b", Machine: "m", Time: before}) {
		t.Error("when our boot began is not known, and yet there is an earlier one")
	}
}

func TestThisHost(t *testing.T) {
	host, err := ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	up := time.Since(host.Began)
	var info unix.Sysinfo_t // afterwards: it tells whole seconds
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	if len(host.Boot) != 36 || up < 0 || up > time.Duration(info.Uptime+1)*time.Second {
		t.Errorf("got %+v, want a UUID, and a beginning at most %d s ago", host, info.Uptime)
	}
	again, err := ThisHost()
	if err != nil || again.Machine != host.Machine || host.Machine == "" {
		t.Errorf("machine: got %q, then %q, %v", host.Machine, again.Machine, err)
	}
}

func TestMakeMachineID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lib", "machine-id")
	first, err := makeMachineID(path)
	if err != nil || len(first) < 20 {
		t.Fatalf("got %q, %v", first, err)
	}
	second, err := makeMachineID(path)
	if err != nil || second != first {
		t.Errorf("who comes second: got %q, %v, want %q", second, err, first)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v, want the one file", left, err)
	}
}

// Identify does not take other files for a namespace, even those that have a handle, like
// /dev/null.
func TestLookAtSomethingElse(t *testing.T) {
	for _, path := range []string{"", "/nonexistent", "/dev/null", "/", "/proc/self/status"} {
		if n := Identify(path); n.known() || n.Path != path || n.Handle != "" || n.ID != "" {
			t.Errorf("%q: got %+v", path, n)
		}
	}
}

// Records of the releases before this package can be read, since a node is upgraded while it
// has leases.
func TestReadsEarlierRecords(t *testing.T) {
	const text = `{"netns":{"path":"/run/netns/a","dev":4,"ino":4026532177,"handle":"f1:8310"},"boot":"b","time":"2026-01-02T03:04:05Z"}`
	var got Stamp
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := Stamp{
		NetNS: NetNS{Path: "/run/netns/a", Dev: 4, Ino: 4026532177, Handle: "f1:8310"},
		Boot:  "b", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	if !got.Equal(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	again, err := json.Marshal(got)
	if err != nil || !strings.Contains(string(again), `"boot":"b"`) {
		t.Errorf("written again: %s, %v", again, err)
	}
}
