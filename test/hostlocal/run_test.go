package hostlocal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

// hostLocalPrograms are our host-local and the reference's, from where `make` has
// put them, or built for this run.
var hostLocalPrograms = sync.OnceValues(func() (map[string]string, error) {
	programs, temp := map[string]string{}, ""
	for _, p := range []struct{ name, variable, source string }{
		{"ours", "TRESTLE_BIN", "github.com/trestle-cni/trestle/plugins"},
		{"reference", "TRESTLE_PEERS", "github.com/containernetworking/plugins/plugins/ipam/host-local"},
	} {
		if dir := os.Getenv(p.variable); dir != "" {
			programs[p.name] = filepath.Join(dir, "host-local")
			continue
		}
		if temp == "" {
			var err error
			if temp, err = os.MkdirTemp("", "trestle-host-local"); err != nil {
				return nil, err
			}
		}
		programs[p.name] = filepath.Join(temp, p.name, "host-local")
		build := exec.Command("go", "build", "-buildvcs=false", "-o", programs[p.name], p.source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", p.source, err, out)
		}
	}
	return programs, nil
})

// hostLocal is a data directory and what is called on it.
type hostLocal struct {
	t       *testing.T
	data    string
	ranges  string // JSON
	version string
	program string
	netns   string
	prefix  []string // a command that runs the program, like strace
}

// newHostLocal has its leases on a tmpfs where there is one.
func newHostLocal(t *testing.T, ranges string) hostLocal {
	t.Helper()
	programs, err := hostLocalPrograms()
	if err != nil {
		t.Fatal(err)
	}
	h := hostLocal{t: t, ranges: ranges, version: "1.1.0", program: programs["ours"], netns: hostLocalNetNS(t)}
	return h.elsewhere()
}

// elsewhere is the same with a data directory of its own.
func (h hostLocal) elsewhere() hostLocal {
	h.t.Helper()
	data, err := os.MkdirTemp("/dev/shm", "trestle-host-local")
	if err != nil {
		data = h.t.TempDir()
	}
	h.t.Cleanup(func() {
		if err := os.RemoveAll(data); err != nil {
			h.t.Error(err)
		}
		host.ForgetDataDir(data)
	})
	h.data = data
	return h
}

// hostLocalNetNS is a namespace that lives as long as the test, and its path. A
// descriptor of ours holds it: a process that dies with its parent dies with the thread
// that started it, and some tests throw threads away.
func hostLocalNetNS(t *testing.T) string {
	t.Helper()
	var file *os.File
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the function
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			file, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make a network namespace (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())
}

func (h hostLocal) reference() hostLocal {
	programs, err := hostLocalPrograms()
	if err != nil {
		h.t.Fatal(err)
	}
	h.program = programs["reference"]
	return h
}

// hostLocalNetwork is this program's own. Calls are made on no Host: those of a program that
// runs beside this one would find by its name what is in our directories (a DEL, or GC).
var hostLocalNetwork = fmt.Sprint("net", os.Getpid())

func (h hostLocal) dir() string { return filepath.Join(h.data, hostLocalNetwork) }

func (h hostLocal) config(extra string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":%q,"type":"bridge","ipam":{"type":"host-local","dataDir":%q,"ranges":%s}%s}`, h.version, hostLocalNetwork, h.data, h.ranges, extra)
}

// answer is what a call came to.
type hostLocalAnswer struct {
	addresses []string // without prefix lengths
	code      int      // of the error object; 0 where there is none
	msg       string
	killed    bool
	stderr    string
}

func (h hostLocal) call(verb, id string) hostLocalAnswer { return h.callWith(verb, id, h.config("")) }

func (h hostLocal) callWith(verb, id, config string, env ...string) hostLocalAnswer {
	h.t.Helper()
	args := append(append([]string{}, h.prefix...), h.program)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append([]string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=" + h.netns, "CNI_PATH=/nowhere",
		"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1",
	}, env...)
	cmd.Stdin = strings.NewReader(config)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	a := hostLocalAnswer{stderr: stderr.String()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		a.killed = true
		return a
	}
	var answer struct {
		IPs []struct {
			Address string `json:"address"`
		} `json:"ips"`
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	}
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
			h.t.Errorf("%s %s: answer %q: %v", verb, id, stdout.String(), err)
		}
	}
	a.code, a.msg = answer.Code, answer.Msg
	for _, ip := range answer.IPs {
		address, _, _ := strings.Cut(ip.Address, "/")
		a.addresses = append(a.addresses, address)
	}
	if (err == nil) != (a.code == 0) {
		h.t.Errorf("%s %s: exit status %v with answer %q, %s", verb, id, err, stdout.String(), stderr.String())
	}
	return a
}

// must is a call that may not fail.
func (h hostLocal) must(verb, id string) []string {
	h.t.Helper()
	a := h.call(verb, id)
	if a.code != 0 || a.killed {
		h.t.Fatalf("%s %s: %s (code %d) %s", verb, id, a.msg, a.code, a.stderr)
	}
	return a.addresses
}

// leases is the leases' files with their contents, and the records of owners.
func (h hostLocal) leases() map[string]string {
	h.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(h.dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		switch {
		case strings.HasPrefix(name, "owner."):
			all[name] = "a record"
		case strings.ContainsAny(name[:1], "0123456789abcdef") && !strings.Contains(path, ".trestle"):
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[name] = string(data)
		case strings.HasPrefix(name, "used."), strings.HasPrefix(name, "last_reserved_ip."), name == "index", name == "lock":
		default:
			all[name] = "a stray file"
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	return all
}

// inMountNS runs fn on a thread with mounts of its own, which are gone with it.
// Programs started there are in it too.
func inMountNS(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so that the thread ends with the function
		if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			t.Errorf("make a mount namespace (needs root): %v", err)
			return
		}
		fn()
	}()
	<-done
}
