package record

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PathTo is a path that leads to the namespace that has this number in ours: a mount, as
// "ip netns" makes it, or that of a process that is not about to end itself. A namespace to
// which such a path leads stays. "" says that none was seen, and no more: descriptors,
// sockets, other mount and pid namespaces may hold it. It looks at every mount and process,
// and is for who is about to refuse something.
func PathTo(number int) string {
	s, err := openIDs()
	if err != nil {
		return ""
	}
	defer s.close()
	asked := map[string]int32{} // by "net:[inode]"
	for _, candidate := range append(mountedNetNS(), runningNetNS()...) {
		found, known := asked[candidate.name]
		if !known {
			if found, err = s.numberAt(candidate.path); err != nil {
				continue // another mount hides it, or the process has ended: there may be another path
			}
			asked[candidate.name] = found
		}
		if found == int32(number) && !isEnding(candidate.process) {
			return candidate.path
		}
	}
	return ""
}

// numberAt is the number of the namespace at the path, negative where it has none.
func (s idSocket) numberAt(path string) (int32, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(fd) }() // only read
	return s.ask(idMessage(unix.RTM_GETNSID, attribute(unix.NETNSA_FD, uint32(fd))))
}

// isEnding says whether the process, if it is one ("4711"), is about to go, and its
// namespaces with it: it has been killed, or gives back its memory already, which may take
// a while.
func isEnding(process string) bool {
	if process == "" {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", process, "stat"))
	return err != nil || ends(string(stat))
}

// ends reads proc_pid_stat(5).
func ends(stat string) bool {
	const state, flags, signal = 3, 9, 31 // counted from 1
	const exiting = 0x4                   // PF_EXITING, include/linux/sched.h
	const killed = 1 << (unix.SIGKILL - 1)
	behind := stat[strings.LastIndexByte(stat, ')')+1:] // the name may have anything in it
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

// namedNetNS is a path to a network namespace, what the kernel calls that,
// "net:[4026531840]", and the process that the path is of, if it is.
type namedNetNS struct{ name, path, process string }

// mountedNetNS are those that are mounted here (proc_pid_mountinfo(5)).
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

// unescapeMount undoes what the kernel does to a mount point's name (mangle, fs/proc_namespace.c).
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// runningNetNS are those of processes.
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
		if name, err := os.Readlink(path); err == nil { // gone meanwhile, or hidden
			all = append(all, namedNetNS{name, path, entry.Name()})
		}
	}
	return all
}
