package bridge

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// scheduling are the system calls of the Go runtime whose number is chance: its
// threads wait for each other, and for time to pass; and a busy machine has it start
// more of them.
var scheduling = []string{
	"nanosleep", "futex", "epoll_pwait", "sched_yield", "madvise", "mmap", "getpid", "tgkill", "rt_sigreturn", "restart_syscall",
	"clone", "gettid", "rt_sigprocmask", "sigaltstack", "sched_getaffinity", "munmap", "prctl",
}

// emptyProgram is what an exec costs at the least.
func emptyProgram(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build an empty program: %v %s", err, output)
	}
	return program
}

func countCalls(trace host.Trace) (total int) {
	counts := maps.Clone(trace.Calls)
	for _, name := range scheduling {
		delete(counts, name)
	}
	for _, n := range counts {
		total += n
	}
	// In how many pieces the kernel's events come is chance, too: each takes a call that finds none,
	// the wait, and a call that finds some.
	return total - 3*counts["ppoll"]
}

// TestBridgeCost bounds what ADD and DEL ask of the kernel, NAT apart, beyond an
// empty program: two rtnetlink sockets for an ADD, and one more to announce an
// address that the MAC is not derived from; one for a DEL.
func TestBridgeCost(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	_, empty, err := h.Trace(host.Strace{}, host.Command{Args: []string{emptyProgram(t)}})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		verb                  string
		ipam                  any
		calls, sockets, sends int
	}{
		{"ADD", host.Leases("10.9.0.0/24"), 105, 2, 7},
		{"DEL", host.Leases("10.9.0.0/24"), 67, 1, 2},
		{"ADD", nil, 144, 3, 9},
		{"DEL", nil, 78, 1, 2},
	}
	for i, tt := range tests {
		edit := object{"ipMasq": nil, "name": fmt.Sprint("n", i/2), "bridge": fmt.Sprint("br", i/2)}
		if tt.ipam != nil {
			edit["ipam"] = tt.ipam
		} else {
			edit["ipam"] = object{"type": "host-local", "ranges": []any{[]any{object{"subnet": "10.8.0.0/24"}}, []any{object{"subnet": "fd08::/64"}}}}
		}
		config, c := host.BridgeConfig(edit), &host.Container{ID: fmt.Sprint("c", i/2), NetNS: fmt.Sprint("/run/netns/c", i/2)}
		if tt.verb == "ADD" {
			h.Container(fmt.Sprint("standing", i)).MustAdd(config)
			h.Container(c.ID)
		}
		call := c.Call(tt.verb, "bridge", config)
		call.Strace = &host.Strace{}
		answer := h.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		calls, sockets, sends := countCalls(answer.Trace)-countCalls(empty), answer.Trace.Calls["socket"], answer.Trace.Calls["sendto"]
		// to close a packet socket takes a grace period
		if strings.Contains(answer.Trace.Text, "socket(AF_PACKET") {
			t.Errorf("%s %s opens a packet socket", tt.verb, edit["ipam"])
		}
		t.Logf("%s %s: %d calls more than an empty program, %d sockets, %d sent", tt.verb, edit["ipam"], calls, sockets, sends)
		if calls > tt.calls || sockets > tt.sockets || sends > tt.sends {
			t.Errorf("%s %s: %d calls, %d sockets, %d sent, want at most %d, %d, %d", tt.verb, edit["ipam"], calls, sockets, sends, tt.calls, tt.sockets, tt.sends)
		}
	}
}

// TestBridgeCostsTheSame: neither ADD nor DEL asks more of the kernel beside 60
// other containers, and none of them, GC included, has all said of every link.
func TestBridgeCostsTheSame(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := host.BridgeConfig(object{"ipMasq": nil})
	valid := []string{`{"containerID":"standing","ifname":"eth0"}`}
	counts := func() map[string]int {
		c := &host.Container{ID: "c1", NetNS: "/run/netns/c1"}
		all := map[string]int{}
		for _, call := range []host.Call{c.Call("ADD", "bridge", config), c.Call("DEL", "bridge", config), gcCall(config, "["+strings.Join(valid, ",")+"]")} {
			call.Strace = &host.Strace{Syscalls: "openat,getdents64,socket,sendto,setns,write"}
			answer := h.Exec(call)
			if err := answer.Err(); err != nil {
				t.Fatal(err)
			}
			for name, n := range answer.Trace.Calls {
				all[call.Command+" "+name] = n
			}
			all[call.Command+" dumps of links"] = dumpsOfLinks(answer.Trace.Text)
			if call.Command == "GC" {
				delete(all, "GC openat") // of leases, which are none of the bridge's
			}
		}
		return all
	}
	h.Container("c1")
	h.Container("standing").MustAdd(config)
	counts() // the first GC after a boot looks for what the boot left
	first := counts()
	for i := range 60 {
		h.Container(fmt.Sprint("c-", i)).MustAdd(config)
		valid = append(valid, fmt.Sprintf(`{"containerID":"c-%d","ifname":"eth0"}`, i))
	}
	if diff := cmp.Diff(first, counts()); diff != "" {
		t.Errorf("system calls: -beside one +beside 61\n%s", diff)
	}
	for _, verb := range []string{"ADD", "DEL", "GC"} {
		if got := first[verb+" dumps of links"]; got != 0 {
			t.Errorf("%s lists the links %d times, want never", verb, got)
		}
	}
}

// dumpsOfLinks counts requests for all links: RTM_GETLINK is type 0x12, which
// strace names where it knows the socket for one of rtnetlink's.
func dumpsOfLinks(trace string) (n int) {
	for line := range strings.Lines(trace) {
		link := strings.Contains(line, "nlmsg_type=RTM_GETLINK") || strings.Contains(line, "nlmsg_type=0x12 ")
		if link && strings.Contains(line, "sendto(") && (strings.Contains(line, "NLM_F_DUMP") || strings.Contains(line, "NLM_F_REQUEST|0x300")) {
			n++
		}
	}
	return n
}

// TestOneExecCost bounds what a bridge that also masquerades and maps a port asks of the
// kernel beyond an empty program, and how many files the DELs of a chain remove.
func TestOneExecCost(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	_, empty, err := h.Trace(host.Strace{}, host.Command{Args: []string{emptyProgram(t)}})
	if err != nil {
		t.Fatal(err)
	}
	mapped := func(port int) string {
		return host.BridgeConfig(object{"ipam": host.Leases("10.9.0.0/24"), "runtimeConfig": object{"portMappings": []any{object{"hostPort": port, "containerPort": 80}}}})
	}
	h.Container("standing").MustAdd(mapped(8081))
	c := h.Container("c1")
	for _, tt := range []struct {
		verb           string
		calls, sockets int
	}{{"ADD", 145, 3}, {"DEL", 95, 2}} {
		call := c.Call(tt.verb, "bridge", mapped(8080))
		call.Strace = &host.Strace{}
		answer := h.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		calls, sockets := countCalls(answer.Trace)-countCalls(empty), answer.Trace.Calls["socket"]
		t.Logf("%s: %d calls more than an empty program, %d sockets", tt.verb, calls, sockets)
		if calls > tt.calls || sockets > tt.sockets {
			t.Errorf("%s: %d calls, %d sockets, want at most %d, %d", tt.verb, calls, sockets, tt.calls, tt.sockets)
		}
	}
	config := `{"cniVersion": "1.0.0", "name": "n", "type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}, "prevResult":
		{"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "` + c.NetNS + `"}], "ips": [{"interface": 1, "address": "10.9.0.9/24"}]}}`
	if err := h.Exec(c.Call("ADD", "portmap", config)).Err(); err != nil {
		t.Fatal(err)
	}
	call := c.Call("DEL", "portmap", config)
	call.Strace = &host.Strace{Syscalls: "unlinkat,unlink,rmdir"}
	answer := h.Exec(call)
	if removed := answer.Trace.Calls["unlinkat"] + answer.Trace.Calls["unlink"] + answer.Trace.Calls["rmdir"]; answer.Err() != nil || removed > 6 {
		t.Errorf("DEL of portmap: got %v, and %d removals, want at most 6", answer.Err(), removed)
	}
}
