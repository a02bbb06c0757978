package record

import (
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// NetNS is how a network namespace is known again.
type NetNS struct {
	Path string `json:"path,omitempty"`
	// Dev and Ino are those of the namespace's file. The kernel gives a number to
	// another namespace as soon as it is free.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`
	// Handle is the kernel's handle of the namespace (name_to_handle_at(2),
	// fs/nsfs.c, since 6.18), in hex. It holds a number that no other namespace
	// of this boot ever gets.
	Handle string `json:"handle,omitempty"`
	// ID is the namespace's id in ours (see nsid.go), where the handle is not
	// enough.
	ID string `json:"id,omitempty"`
}

// known says whether there was a namespace at the path.
func (n NetNS) known() bool { return n.Ino != 0 }

// Same says whether both are one namespace, whatever path leads there.
func (n NetNS) Same(other NetNS) bool {
	return n.known() && n.Dev == other.Dev && n.Ino == other.Ino && n.Handle == other.Handle
}

// isThere says whether the namespace is still at its path. A handle tells by itself, by
// one system call: GC asks for every attachment.
func (n NetNS) isThere() bool {
	if n.Handle != "" {
		return n.Handle == handleAt(n.Path)
	}
	return n.Same(look(n.Path))
}

// handleAt is the handle of the namespace at the path, "" where the kernel gives none.
func handleAt(path string) string {
	const fileIDNSFS = 0xf1 // FILEID_NSFS
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil || handle.Type() != fileIDNSFS {
		return ""
	}
	return strconv.FormatInt(fileIDNSFS, 16) + ":" + hex.EncodeToString(handle.Bytes())
}

// look is Identify without the id.
func look(path string) NetNS {
	n := NetNS{Path: path}
	var stat unix.Stat_t
	if path == "" || unix.Stat(path, &stat) != nil {
		return n
	}
	if n.Handle = handleAt(path); n.Handle == "" && !onNSFS(path) {
		return n
	}
	n.Dev, n.Ino = uint64(stat.Dev), stat.Ino //nolint:unconvert // Dev has 32 bits on MIPS
	return n
}

// onNSFS says whether a namespace's file is at path. It asks the file system: the
// namespace itself tells its kind since 4.11 only (NS_GET_NSTYPE), and not
// everywhere (user-mode emulation).
func onNSFS(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// Identify sees which namespace is at path, and makes sure that its death can be
// proved later. A path that leads nowhere, or to something else, gives the path alone.
func Identify(path string) NetNS {
	n := look(path)
	if n.known() && (n.Handle == "" || !handlesProve() || !inInitialUserNS()) {
		n.ID = assignID(path)
	}
	return n
}

// open sees whether the kernel has a namespace of that handle.
func (n NetNS) open() error {
	fd, err := n.openHandle()
	if err == nil {
		_ = unix.Close(fd) // opened to see that it can be
	}
	return err
}

func (n NetNS) openHandle() (int, error) {
	const nsfsRoot = -10003 // FD_NSFS_ROOT, linux/fcntl.h
	kind, raw, ok := strings.Cut(n.Handle, ":")
	number, err := strconv.ParseInt(kind, 16, 32)
	data, hexErr := hex.DecodeString(raw)
	if !ok || err != nil || hexErr != nil {
		return -1, unix.EOPNOTSUPP
	}
	return unix.OpenByHandleAt(nsfsRoot, unix.NewFileHandle(int32(number), data), unix.O_RDONLY|unix.O_CLOEXEC)
}

// handlesProve says whether the kernel finds every namespace by its handle. 6.18
// does; from 6.19 on it hides those that no process, descriptor or mount refers
// to, and a socket may keep such a one alive (fs/nsfs.c, ns_get_unless_inactive).
func handlesProve() bool { return readHandlesProve() }

var readHandlesProve = sync.OnceValue(func() bool {
	var name unix.Utsname
	return unix.Uname(&name) == nil && strings.HasPrefix(unix.ByteSliceToString(name.Release[:]), "6.18.")
})

// maySeeAll says whether the kernel shows us the namespaces of every user: it
// answers ESTALE also where we lack CAP_SYS_ADMIN over the user namespace that owns
// the one we ask for.
func maySeeAll() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return inInitialUserNS() && unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

func inInitialUserNS() bool { return readInInitialUserNS() }

var readInInitialUserNS = sync.OnceValue(func() bool {
	const initial = "user:[4026531837]" // PROC_USER_INIT_INO, linux/proc_ns.h
	own, err := os.Readlink("/proc/self/ns/user")
	return err == nil && own == initial
})
