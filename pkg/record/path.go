package record

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PathTo is a path to the namespace that has this number in ours: a mount, as "ip netns"
// makes it, or /proc/PID/ns/net of a process that is not exiting. A namespace with such a
// path is alive. "" does not mean that it is gone: descriptors, sockets, or mounts and
// processes that we do not see may hold it. PathTo reads every mount and process, so call
// it only when something is about to be refused.
func PathTo(number int) string {
	paths := map[int32]string{int32(number): ""}
	findPaths(paths)
	return paths[int32(number)]
}

// findPaths is PathTo for each number in paths, by one look at mounts and processes.
func findPaths(paths map[int32]string) {
	left := len(paths)
	if left == 0 {
		return
	}
	s, err := openIDs()
	if err != nil {
		return
	}
	defer s.close()
	asked := map[string]int32{} // by "net:[inode]"
	for _, candidate := range append(mountedNetNS(), runningNetNS()...) {
		found, known := asked[candidate.name]
		if !known {
			if found, err = s.numberAt(candidate.path); err != nil {
				continue // hidden by another mount, or the process has ended: try the next path
			}
			asked[candidate.name] = found
		}
		if path, wanted := paths[found]; !wanted || path != "" || isEnding(candidate.process) {
			continue
		}
		paths[found] = candidate.path
		if left--; left == 0 {
			return
		}
	}
}

// numberAt is the number of the namespace at the path, negative where it has none.
func (s idSocket) numberAt(path string) (int32, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only
	return s.ask(idMessage(unix.RTM_GETNSID, attribute(unix.NETNSA_FD, uint32(fd))))
}

// isEnding says whether the process ("4711"; "" is none) is about to exit, and to leave its
// namespaces: it has been killed, or is freeing its memory already, which may take a while.
func isEnding(process string) bool {
	if process == "" {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", process, "stat"))
	return err != nil || ends(string(stat))
}

// ends reads proc_pid_stat(5): PF_EXITING is set, or SIGKILL pending.
func ends(stat string) bool {
	const state, flags, signal = 3, 9, 31 // the fields, counted from 1
	const exiting = 0x4                   // PF_EXITING, include/linux/sched.h
	const killed = 1 << (unix.SIGKILL - 1)
	behind := stat[strings.LastIndexByte(stat, ')')+1:] // the name before may contain anything
	fields := strings.Fields(behind)
	if len(fields) <= signal-state {
		return false
	}
	has := func(field int, bits uint64) bool {
		value, err := strconv.ParseUint(fields[field-state], 10, 64)
		return err == nil && value&bits != 0
	}
	return has(flags, exiting) || has(signal, killed)
}

// namedNetNS is a path to a network namespace, with the kernel's name of that,
// "net:[4026531840]", and the process for a path in /proc.
type namedNetNS struct{ name, path, process string }

// mountedNetNS are the network namespaces that are mounted here (proc_pid_mountinfo(5)).
func mountedNetNS() []namedNetNS {
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil
	}
	var all []namedNetNS
	for line := range bytes.Lines(mounts) {
		if fields := strings.Fields(string(line)); len(fields) > 4 && strings.HasPrefix(fields[3], "net:[") {
			all = append(all, namedNetNS{name: fields[3], path: unescapeMount.Replace(fields[4])})
		}
	}
	return all
}

// unescapeMount undoes the kernel's escapes in a mount point's name (mangle, fs/proc_namespace.c).
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// runningNetNS are the network namespaces of the processes that we see.
func runningNetNS() []namedNetNS {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []namedNetNS
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		path := filepath.Join("/proc", entry.Name(), "ns/net")
		if name, err := os.Readlink(path); err == nil { // else it has ended, or is hidden
			all = append(all, namedNetNS{name, path, entry.Name()})
		}
	}
	return all
}
