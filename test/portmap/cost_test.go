package portmap

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trestle-cni/trestle/test/host"
)

// TestPortmapRunsNoProcess: with nftables, ADD and DEL are one process.
func TestPortmapRunsNoProcess(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	add := n.c1.Call("ADD", "portmap", natConfig("blue", `"backend": "nftables"`, natResult(n.c1, natC1v4, natC1v6), natMapping("udp", "", 8080, 80)))
	del := n.c1.Call("DEL", "portmap", natConfig("blue", "", "", ""))
	for _, call := range []host.Call{add, del, del} {
		call.Strace = &host.Strace{Syscalls: "execve"}
		answer := n.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		if len(answer.Trace.Execs) != 1 {
			t.Errorf("%s: got programs %v, want portmap alone", call.Command, answer.Trace.Execs)
		}
	}
}

// TestPortmapCostsTheSame counts system calls beside no and beside a thousand
// mappings of others.
func TestPortmapCostsTheSame(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	resident := func(i int) host.Call {
		var mappings []string
		for port := range 5 {
			mappings = append(mappings, natMapping("tcp", "", 10000+5*i+port, 80))
		}
		call := n.neighbour.Call("ADD", "portmap", natConfig("red", "", natResult(n.neighbour, "10.1.0.6/24", "fd00:1::6/64"), strings.Join(mappings, ", ")))
		call.ContainerID = fmt.Sprintf("resident%d", i)
		return call
	}
	if err := n.Exec(resident(0)).Err(); err != nil { // table and bridge are as they will be
		t.Fatal(err)
	}
	alone := portmapCounts(t, n)
	for i := range 200 {
		if err := n.Exec(resident(i + 1)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(alone, portmapCounts(t, n)); diff != "" {
		t.Errorf("system calls: -alone +beside 1,000 mappings\n%s", diff)
	}
}

// portmapCounts counts what ADD and DEL ask of the kernel, the Go runtime's own
// calls left out.
func portmapCounts(t *testing.T, n natNet) map[string]int {
	t.Helper()
	mappings := natMapping("tcp", "", 8080, 80) + "," + natMapping("tcp", "", 8081, 80)
	counts := map[string]int{}
	for _, call := range []host.Call{
		n.c1.Call("ADD", "portmap", natConfig("blue", "", natResult(n.c1, natC1v4), mappings)),
		n.c1.Call("DEL", "portmap", natConfig("blue", "", "", "")),
	} {
		call.Strace = &host.Strace{Syscalls: "openat,getdents64,mkdirat,symlinkat,readlinkat,unlinkat,newfstatat,socket,sendto,sendmsg,recvfrom,recvmsg"}
		answer := n.Exec(call)
		if err := answer.Err(); err != nil {
			t.Fatal(err)
		}
		for name, count := range answer.Trace.Calls {
			counts[call.Command+" "+name] = count
		}
	}
	return counts
}

// TestPortmapKilled kills ADD, and then DEL, at every system call that changes
// or asks something; the DEL that follows leaves nothing.
func TestPortmapKilled(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			n.makeKernelTables()
			mappings := natMapping("tcp", "", 8080, 80) + "," + natMapping("udp", "127.0.0.1", 8081, 80)
			config := natConfig("blue", fmt.Sprintf(`"backend": %q`, backend), natResult(n.c1, natC1v4, natC1v6), mappings)
			add, del := n.c1.Call("ADD", "portmap", config), n.c1.Call("DEL", "portmap", natConfig("blue", "", "", ""))
			left := func() string {
				return n.MustRun("sh", "-c", host.ListRuleset+" | grep c1/eth0; iptables-save -t nat | grep c1/eth0; find /run/trestle/translations /run/trestle/hostports ! -type d ! -name '.*' 2>&-; true")
			}
			for _, killed := range []host.Call{add, del} {
				for when := 1; ; when++ {
					if killed.Command == "DEL" {
						if err := n.Exec(add).Err(); err != nil {
							t.Fatal(err)
						}
					}
					const calls = "openat,close,write,mkdirat,symlinkat,readlinkat,unlinkat,newfstatat,getdents64,flock,socket,bind,sendto,sendmsg,recvfrom,recvmsg,clone,clone3,wait4,waitid,exit_group"
					killed.Strace = &host.Strace{Syscalls: calls, Inject: []string{fmt.Sprintf("%s:signal=KILL:when=%d", calls, when)}}
					injected := n.Exec(killed).Trace.Injected
					if err := n.Exec(del).Err(); err != nil {
						t.Errorf("DEL after %s was killed at call %d: %v", killed.Command, when, err)
					}
					if got := left(); got != "" {
						t.Fatalf("DEL after %s was killed at call %d left\n%s", killed.Command, when, got)
					}
					if injected == 0 {
						t.Logf("%s was killed at %d calls", killed.Command, when-1)
						break
					}
				}
			}
		})
	}
}
