package ipam

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Executed is what an ADD says that another plugin executes. To undo it that plugin has
// DEL alone, which takes along what the attachment had before. So leases that it has in
// its namespace are given again only where an ADD was killed: the plugin that asked for
// them is at work no more, and left no interface.
type Executed struct {
	By Process
	// IsAttached says whether the interface of the attachment is in the namespace already.
	IsAttached func() bool
}

// Process is a process of this boot. The zero value is none that is known.
type Process struct {
	PID int `json:"pid,omitempty"`
	// Start is when it started, in the kernel's ticks (proc_pid_stat(5), starttime): the
	// kernel gives numbers again.
	Start string `json:"start,omitempty"`
}

// Parent is the process that executed this one. It is not known where that is dead, or in
// another pid namespace.
func Parent() Process {
	pid := os.Getppid()
	if pid <= 1 { // init, which adopts whose parent is dead
		return Process{}
	}
	if start, ok := startOf(pid); ok {
		return Process{pid, start}
	}
	return Process{}
}

// isAtWork says whether the process runs yet.
func (p Process) isAtWork() bool {
	if p.PID <= 0 {
		return false
	}
	start, ok := startOf(p.PID)
	return ok && start == p.Start
}

// startOf is when the process started; ok is false for one that has ended, whether its
// parent knows that or not.
func startOf(pid int) (start string, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", false
	}
	_, afterName, _ := bytes.Cut(data[bytes.LastIndexByte(data, ')')+1:], []byte(" ")) // a name may hold anything, ')' too
	const state, starttime = 0, 19
	fields := bytes.Fields(afterName)
	if len(fields) <= starttime || bytes.ContainsAny(fields[state], "ZX") {
		return "", false
	}
	return string(fields[starttime]), true
}

// mayGiveAgain says whether leases that the owner has in the namespace of this ADD are
// given again.
func (l *locked) mayGiveAgain(old ownerRecord, w Want) error {
	switch {
	case w.Executed == nil:
		return nil
	case old.Caller != w.Executed.By && old.Caller.isAtWork():
		return cni.ConflictErrorf("%s has leases already, given to process %d, which is at work yet; wait for it, or delete that attachment first",
			w.Owner, old.Caller.PID)
	case !old.ours() && !l.isOfThisBoot(old):
		return nil // nothing that was attached then is now
	case w.Executed.IsAttached():
		return cni.ConflictErrorf("%s has leases already, and %s is there in %s; delete that attachment first", w.Owner, w.Owner.IfName, w.NetNS)
	}
	return nil
}

// isOfThisBoot says by the files' times whether the leases of a record that knows nothing
// were made since the host booted.
func (l *locked) isOfThisBoot(r ownerRecord) bool {
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
