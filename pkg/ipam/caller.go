package ipam

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Executed describes an ADD that another plugin executes. To undo it, that plugin can only
// execute DEL, which also releases what the attachment had before. So the attachment gets
// leases that it already has only after a killed ADD, that is, if the plugin which asked for
// them has exited and left no interface.
type Executed struct {
	By Process
	// IsAttached says whether the attachment's interface is in the namespace already.
	IsAttached func() bool
}

// Process is a process of this boot. The zero value is an unknown one.
type Process struct {
	PID int `json:"pid,omitempty"`
	// Start is its start time in the kernel's ticks (proc_pid_stat(5), starttime), since the
	// kernel reuses process IDs.
	Start string `json:"start,omitempty"`
}

// Parent is the process that executed this one; unknown if that has exited, or is in another
// pid namespace.
func Parent() Process {
	pid := os.Getppid()
	if pid <= 1 { // init is the parent of orphans; 0 is a parent in another pid namespace
		return Process{}
	}
	if start, ok := startOf(pid); ok {
		return Process{pid, start}
	}
	return Process{}
}

// isRunning says whether the process is still running.
func (p Process) isRunning() bool {
	if p.PID <= 0 {
		return false
	}
	start, ok := startOf(p.PID)
	return ok && start == p.Start
}

// startOf is the start time of the process; ok is false if it has exited, even if its parent
// has not waited for it yet.
func startOf(pid int) (start string, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", false
	}
	_, afterName, _ := bytes.Cut(data[bytes.LastIndexByte(data, ')')+1:], []byte(" ")) // the name may contain a ')'
	const state, starttime = 0, 19
	fields := bytes.Fields(afterName)
	if len(fields) <= starttime || bytes.ContainsAny(fields[state], "ZX") {
		return "", false
	}
	return string(fields[starttime]), true
}

// mayGiveAgain is an error if the owner must not get again the leases that it has in the
// namespace of this ADD.
func (l *lockedStore) mayGiveAgain(old ownerRecord, w Want) error {
	switch {
	case w.Executed == nil:
		return nil
	case old.Caller != w.Executed.By && old.Caller.isRunning():
		return cni.ConflictErrorf("%s has leases already, asked for by process %d, which is still running; wait for it, or delete that attachment first",
			w.Owner, old.Caller.PID)
	case !old.ours() && !l.isOfThisBoot(old):
		return nil // leases of an earlier boot, whose interfaces are gone
	case w.Executed.IsAttached():
		return cni.ConflictErrorf("%s has leases already, and its interface %s exists in %s; delete that attachment first", w.Owner, w.Owner.IfName, w.NetNS)
	}
	return nil
}

// isOfThisBoot says whether the leases of a record without a stamp were made since the host
// booted, by the times of their files.
func (l *lockedStore) isOfThisBoot(r ownerRecord) bool {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return true
	}
	boot := time.Now().Add(-time.Duration(up.Nano()))
	for _, a := range r.Addresses {
		f, ok, err := readLease(l.net, l.network, a)
		if err != nil || ok && time.Unix(f.time.Unix()).After(boot) {
			return true
		}
	}
	return false
}
