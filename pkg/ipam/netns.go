package ipam

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// netNS is how a network namespace is known again.
type netNS struct {
	Path string `json:"path,omitempty"`
	Dev  uint64 `json:"dev,omitempty"`
	Ino  uint64 `json:"ino,omitempty"`
	// Handle is the kernel's handle of the namespace (name_to_handle_at(2),
	// fs/nsfs.c, since 6.18), in hex. It holds a number that no other namespace
	// of this boot ever gets, which cannot be said of Ino.
	Handle string `json:"handle,omitempty"`
}

// identifyNetNS looks at the namespace at path. A path that leads nowhere gives
// the path alone.
func identifyNetNS(path string) netNS {
	n := netNS{Path: path}
	var stat unix.Stat_t
	if path == "" || unix.Stat(path, &stat) != nil {
		return n
	}
	n.Dev, n.Ino = stat.Dev, stat.Ino
	if handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err == nil {
		n.Handle = fmt.Sprintf("%x:%x", handle.Type(), handle.Bytes())
	}
	return n
}

func (n netNS) known() bool { return n.Ino != 0 }

// same says whether both are one namespace, whatever path leads there.
func (n netNS) same(other netNS) bool {
	return n.known() && n.Dev == other.Dev && n.Ino == other.Ino && n.Handle == other.Handle
}

// life is what can be said of a namespace.
type life int

const (
	lifeUnknown life = iota // nothing is proved
	lifeAlive
	lifeDead
)

// coroner finds out which records are dead. It reads /proc at most once, and
// only if the kernel does not answer for a single namespace.
type coroner struct {
	proc string // "/proc"
	seen map[uint64]bool
	err  error
}

// judge says whether the record's owner is dead. Its proofs are, in this order:
// the record is of another boot; the namespace is still at its path; the kernel
// knows the namespace's handle, or knows that it is gone; no process is in the
// namespace, has it open or mounted. The last is no proof unless we see all
// processes.
func (c *coroner) judge(r record) life {
	boot, err := bootID()
	switch {
	case err != nil || !r.ours():
		return lifeUnknown
	case r.Boot != boot:
		return lifeDead
	case !r.NetNS.known():
		return lifeUnknown
	case r.NetNS.same(identifyNetNS(r.NetNS.Path)):
		return lifeAlive
	}
	if verdict := r.NetNS.askKernel(); verdict != lifeUnknown {
		return verdict
	}
	if c.seen == nil && c.err == nil {
		c.seen, c.err = netNSInUse(c.proc)
	}
	switch {
	case c.err != nil:
		return lifeUnknown
	case c.seen[r.NetNS.Ino]:
		return lifeAlive
	}
	return lifeDead
}

// askKernel opens the namespace by its handle. ESTALE is the kernel's word that
// no such namespace exists (fs/nsfs.c, nsfs_fh_to_dentry).
func (n netNS) askKernel() life {
	const nsfsRoot = -10003 // FD_NSFS_ROOT, linux/fcntl.h
	kind, raw, ok := strings.Cut(n.Handle, ":")
	number, err := strconv.ParseInt(kind, 16, 32)
	data, hexErr := hex.DecodeString(raw)
	if !ok || err != nil || hexErr != nil {
		return lifeUnknown
	}
	fd, err := unix.OpenByHandleAt(nsfsRoot, unix.NewFileHandle(int32(number), data), unix.O_RDONLY|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		return lifeDead
	}
	if err != nil {
		return lifeUnknown
	}
	_ = unix.Close(fd) // opened to see that it can be
	return lifeAlive
}

// netNSInUse collects the inodes of all network namespaces that some process is
// in, has open, or sees mounted. It fails where there may be processes that we
// cannot see or look into: what it does not list could then be in use.
func netNSInUse(proc string) (map[uint64]bool, error) {
	const initialPIDNS = "pid:[4026531836]" // PROC_PID_INIT_INO, linux/proc_ns.h
	if own, err := os.Readlink(proc + "/self/ns/pid"); err != nil || own != initialPIDNS {
		return nil, fmt.Errorf("not all processes can be seen: %s is in the pid namespace %q: %w", proc, own, errors.ErrUnsupported)
	}
	inUse := map[uint64]bool{}
	mounts := map[string]bool{}
	err := eachIn(proc, func(pid string) error {
		if pid[0] < '0' || pid[0] > '9' {
			return nil
		}
		process := proc + "/" + pid
		return errors.Join(
			eachIn(process+"/task", func(thread string) error {
				return noteLink(inUse, process+"/task/"+thread+"/ns/net")
			}),
			eachIn(process+"/fd", func(fd string) error { return noteLink(inUse, process+"/fd/"+fd) }),
			noteMounted(inUse, process, mounts),
		)
	})
	if err != nil {
		return nil, fmt.Errorf("look for network namespaces in use: %w", err)
	}
	return inUse, nil
}

// eachIn calls do with the name of each entry of a directory under /proc.
func eachIn(path string, do func(name string) error) error {
	entries, err := os.ReadDir(path)
	if err != nil && !gone(err) {
		return err
	}
	for _, e := range entries {
		if err := do(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// gone says that the process, or its file, ended while we looked.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// noteLink notes the network namespace that a link like "net:[4026531840]" names.
func noteLink(inUse map[uint64]bool, path string) error {
	target, err := os.Readlink(path)
	if err != nil && !gone(err) {
		return err
	}
	noteNetNS(inUse, target)
	return nil
}

func noteNetNS(inUse map[uint64]bool, text string) {
	number, isNetNS := strings.CutPrefix(text, "net:[")
	if ino, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); isNetNS && err == nil {
		inUse[ino] = true
	}
}

// noteMounted notes the namespaces that are mounted in the process's mount
// namespace, unless that is done; their root is the fourth field of mountinfo
// (proc_pid_mountinfo(5)).
func noteMounted(inUse map[uint64]bool, process string, done map[string]bool) error {
	space, err := os.Readlink(process + "/ns/mnt")
	if err != nil && !gone(err) {
		return err
	}
	if done[space] {
		return nil
	}
	data, err := os.ReadFile(process + "/mountinfo")
	if err != nil && !gone(err) && !errors.Is(err, unix.EINVAL) { // EINVAL: a zombie has none
		return err
	}
	done[space] = err == nil && space != ""
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 3 {
			noteNetNS(inUse, fields[3])
		}
	}
	return nil
}

// bootID reads the id of this boot (proc_sys_kernel(5)).
func bootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return "", &os.PathError{Op: "read", Path: path, Err: err}
	}
	return strings.TrimSpace(string(buf[:n])), nil
}
