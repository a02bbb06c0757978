package record

import (
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// NetNS identifies a network namespace, so that it can be recognized, or be proved gone,
// later.
type NetNS struct {
	Path string `json:"path,omitempty"`
	// Dev and Ino are the device and inode number of the namespace's file. The kernel
	// reuses an inode number as soon as it is free, for the next namespace that is made.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`
	// Handle is the kernel's file handle of the namespace (name_to_handle_at(2),
	// fs/nsfs.c, since 6.18), in hex. It contains a number that the kernel never
	// reuses in the same boot.
	Handle string `json:"handle,omitempty"`
	// ID is the namespace's number in ours (see nsid.go); empty if the handle is
	// enough.
	ID string `json:"id,omitempty"`
}

// known says whether there was a namespace at the path when it was looked at.
func (n NetNS) known() bool { return n.Ino != 0 }

// Same says whether both are one namespace, whatever path leads there.
func (n NetNS) Same(other NetNS) bool {
	return n.known() && n.Dev == other.Dev && n.Ino == other.Ino && n.Handle == other.Handle && !areApart(n.ID, other.ID)
}

// isThere says whether the namespace is still at its path. With a handle that takes one
// system call, which counts, since GC asks this of every attachment. Without one, what is at
// the path may be a later namespace with the same inode number: then the number of ours is free.
func (n NetNS) isThere() bool {
	if n.Handle != "" {
		return n.Handle == handleAt(n.Path)
	}
	return n.Same(look(n.Path)) && lifeOfID(n.ID) != Dead
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

// look is Identify without the ID.
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

// onNSFS says whether the file at path is a namespace. It asks for the file system's
// type, since the namespace itself answers only from Linux 4.11 on (NS_GET_NSTYPE), and
// not under user-mode emulation.
func onNSFS(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// Identify looks which namespace is at path, and gives it a number in ours if its end could
// not be proved otherwise. If there is no namespace at path, the result has only the path.
func Identify(path string) NetNS {
	n := look(path)
	if n.known() && (n.Handle == "" || !handlesProve() || !inInitialUserNS()) {
		n.ID = assignID(path)
	}
	return n
}

// probe is nil if the kernel still has the namespace of that handle.
func (n NetNS) probe() error {
	fd, err := n.openHandle()
	if err == nil {
		_ = unix.Close(fd) // only whether it opens counts
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

// handlesProve says whether the kernel finds every namespace by its handle, so that one
// it does not find is gone. 6.18 does; from 6.19 on it hides those without a process,
// descriptor or mount, which a socket may keep alive (fs/nsfs.c, ns_get_unless_inactive).
func handlesProve() bool { return readHandlesProve() }

var readHandlesProve = sync.OnceValue(func() bool {
	var name unix.Utsname
	return unix.Uname(&name) == nil && strings.HasPrefix(unix.ByteSliceToString(name.Release[:]), "6.18.")
})

// maySeeAll says whether the kernel lets us open the namespaces of every user namespace: it
// answers ESTALE also if we lack CAP_SYS_ADMIN in the one that owns the network namespace.
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
