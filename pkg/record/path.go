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
// "ip netns" makes it, or that of a process. A namespace to which a path leads is not about
// to end. "" says that none was seen, and no more: descriptors, sockets, other mount and pid
// namespaces may hold it. It looks at every mount and process, and is for who is about to
// refuse something.
func PathTo(number int) string {
	s, err := openIDs()
	if err != nil {
		return ""
	}
	defer s.close()
	asked := map[string]bool{} // by "net:[inode]"
	for _, candidate := range append(mountedNetNS(), runningNetNS()...) {
		if asked[candidate.name] {
			continue
		}
		asked[candidate.name] = true
		if found, err := s.numberAt(candidate.path); err == nil && found == int32(number) {
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

// namedNetNS is a path to a network namespace, and what the kernel calls that:
// "net:[4026531840]".
type namedNetNS struct{ name, path string }

// mountedNetNS are those that are mounted here (proc_pid_mountinfo(5)).
func mountedNetNS() []namedNetNS {
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil
	}
	var all []namedNetNS
	for line := range bytes.Lines(mounts) {
		if fields := strings.Fields(string(line)); len(fields) > 4 && strings.HasPrefix(fields[3], "net:[") {
			all = append(all, namedNetNS{fields[3], unescapeMount.Replace(fields[4])})
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
			all = append(all, namedNetNS{name, path})
		}
	}
	return all
}
