package bridge

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// effective are the system calls by which a plugin can change anything, or learn
// that it could not. The Go runtime's own (signals, memory, threads) are left out.
var effective = []string{
	"openat", "write", "pwrite64", "mkdirat", "unlinkat", "renameat", "linkat", "ftruncate", "fchmod", "flock", "socket", "bind",
	"sendto", "sendmsg", "recvfrom", "recvmsg", "setns", "read", "pread64", "getdents64", "close", "newfstatat", "fstat", "statfs",
}

// crashConfig is a network that uses all that an ADD can leave behind.
func crashConfig() string { return transientConfig(object{"hairpinMode": true, "macspoofchk": true}) }

// scene is a host with a container, before anything was done to them. Each step
// of a test must leave it as it found it.
type scene struct {
	*host.Host
	c                 *host.Container
	host0, container0 string
}

func newScene(t *testing.T) scene {
	t.Helper()
	h := host.NewRouting(t)
	c := h.Container("c1")
	return scene{h, c, h.Dump(), c.Dump()}
}

func (s scene) assertUntouched(t *testing.T, step, answer string) {
	t.Helper()
	s.AssertUnchanged(s.host0, host.Kept...)
	s.c.AssertUnchanged(s.container0)
	s.AssertNoLease()
	if t.Failed() {
		t.Fatalf("%s: the plugin said %q", step, answer)
	}
}

// points calls fn for each place at which a verb makes one of the system calls:
// the first, second … of each thread, until no thread gets so far.
func points(t *testing.T, calls []string, fault string, fn func(*testing.T, scene, *host.Strace) (reached bool)) {
	for _, call := range calls {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			for n := 1; fn(t, s, &host.Strace{Syscalls: call, Inject: []string{fmt.Sprintf("%s:%s:when=%d", call, fault, n)}}); n++ {
			}
		})
	}
}

// callsOf are the effective system calls of one undisturbed run of the verb, on
// a host of its own.
func callsOf(t *testing.T, verb, config string) []string {
	t.Helper()
	h := host.NewRouting(t)
	c := h.Container("c1")
	if verb != "ADD" {
		c.MustAdd(config)
	}
	call := c.Call(verb, "bridge", config)
	call.Strace = &host.Strace{}
	answer := h.Exec(call)
	if err := answer.Err(); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(effective), func(name string) bool { return answer.Trace.Calls[name] == 0 })
}

// TestBridgeStepFails lets each step of an ADD fail in turn: it then leaves
// nothing, and the same ADD succeeds afterwards.
func TestBridgeStepFails(t *testing.T) {
	t.Parallel()
	config := crashConfig()
	// closing never fails in a way that leaves the file open
	calls := slices.DeleteFunc(callsOf(t, "ADD", config), func(call string) bool { return call == "close" })
	points(t, calls, "error=EIO", func(t *testing.T, s scene, fault *host.Strace) bool {
		call := s.c.Call("ADD", "bridge", config)
		call.Strace = fault
		answer := s.Exec(call)
		if answer.Code == 0 || answer.Trace.Injected > 1 {
			// it could do without, or another thread's undoing was hit as well
			s.c.MustDel(config)
		}
		s.assertUntouched(t, fault.Inject[0], answer.Stdout+answer.Stderr)
		s.c.MustAdd(config)
		s.c.MustDel(config)
		return answer.Trace.Injected > 0
	})
}

// TestBridgeKilled kills ADD and DEL at each system call in turn: a DEL
// afterwards leaves nothing, whether it knows the namespace or not.
func TestBridgeKilled(t *testing.T) {
	t.Parallel()
	config := crashConfig()
	for _, verb := range []string{"ADD", "DEL"} {
		calls := callsOf(t, verb, config)
		for _, knowsNetNS := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, netns known %t", verb, knowsNetNS), func(t *testing.T) {
				points(t, calls, "signal=KILL", func(t *testing.T, s scene, fault *host.Strace) bool {
					if verb == "DEL" {
						s.c.MustAdd(config)
					}
					call := s.c.Call(verb, "bridge", config)
					call.Strace = fault
					answer := s.Exec(call)
					del := s.c.Call("DEL", "bridge", config)
					if !knowsNetNS {
						del.NetNS = ""
					}
					if err := s.Exec(del).Err(); err != nil {
						t.Fatalf("%s: DEL afterwards: %v", fault.Inject[0], err)
					}
					s.assertUntouched(t, fault.Inject[0], answer.Stdout)
					return answer.Trace.Injected > 0
				})
			})
		}
	}
}

// TestBridgeHundredAtOnce attaches and detaches a hundred containers at once, on
// a bridge that is not there yet.
func TestBridgeHundredAtOnce(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := transientConfig(nil)
	before := h.Dump()
	var containers []*host.Container
	for i := range 100 {
		containers = append(containers, h.Container(fmt.Sprintf("c%d", i)))
	}
	for _, verb := range []string{"ADD", "DEL"} {
		var all sync.WaitGroup
		for _, c := range containers {
			all.Go(func() {
				if err := h.Exec(c.Call(verb, "bridge", config)).Err(); err != nil {
					t.Errorf("%s of %s: %v", verb, c.ID, err)
				}
			})
		}
		all.Wait()
	}
	h.AssertUnchanged(before, host.Kept...)
	h.AssertNoLease()
}

// TestBridgeComesAndGoes lets containers come and go at once for a while, so
// that the bridge is deleted and made again under ADDs.
func TestBridgeComesAndGoes(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	config := transientConfig(nil)
	before := h.Dump()
	var all sync.WaitGroup
	for i := range 4 {
		c := h.Container(fmt.Sprintf("c%d", i))
		all.Go(func() {
			for range 25 {
				for _, verb := range []string{"ADD", "DEL"} {
					answer := h.Exec(c.Call(verb, "bridge", config))
					if err := answer.Err(); err != nil {
						t.Errorf("%s of %s: %v", verb, c.ID, err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	h.AssertUnchanged(before, host.Kept...)
}
