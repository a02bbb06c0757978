package runtimes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroups is one new group in each cgroup hierarchy of the real host. A Machine
// sees them as the roots, so that what its runtimes make there is theirs, and is
// gone with it.
type cgroups []hierarchy

type hierarchy struct {
	mountPoint string // "/sys/fs/cgroup/memory"
	group      string // our group there, as the real host sees it
	unified    bool   // the only one, of version 2
}

// makeCgroups makes the groups. They go when the test ends, and they can only
// where their processes ended before: it must be called before host.New.
func makeCgroups(t host.T) (cgroups, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var groups cgroups
	t.Cleanup(func() {
		if err := groups.remove(); err != nil {
			t.Errorf("remove the control groups: %v", err)
		}
	})
	for _, mountPoint := range cgroupMounts(string(mounts)) {
		group, err := os.MkdirTemp(mountPoint, "trestle-test-")
		if err != nil {
			return groups, err
		}
		groups = append(groups, hierarchy{mountPoint, group, mountPoint == cgroupRoot})
		if mountPoint == cgroupRoot {
			err = delegate(mountPoint)
		} else {
			err = inheritCpuset(group)
		}
		if err != nil {
			return groups, err
		}
	}
	return groups, nil
}

// cgroupMounts finds the hierarchies in the text of mountinfo (proc_pid_mountinfo(5)):
// "36 35 98:0 /root /mount/point options… - type source options".
func cgroupMounts(mountinfo string) []string {
	var found []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		_, kind, _ := strings.Cut(line, " - ")
		kind, _, _ = strings.Cut(kind, " ")
		if (kind == "cgroup" || kind == "cgroup2") && strings.HasPrefix(fields[4], cgroupRoot) {
			found = append(found, fields[4])
		}
	}
	return found
}

// inheritCpuset sets what a new group of the cpuset hierarchy of version 1 lacks;
// no process can enter it before (cpusets(7)).
func inheritCpuset(group string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		parents, err := os.ReadFile(filepath.Join(group, "..", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another hierarchy, or version 2, where empty means all
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(group, name), parents, 0o644)
		}
		if err != nil {
			return fmt.Errorf("cpuset of %s: %w", group, err)
		}
	}
	return nil
}

// delegate gives the children of a group of version 2 all controllers that it
// has (kernel, Documentation/admin-guide/cgroup-v2.rst, "Enabling and
// Disabling"), as systemd does at the root, too.
func delegate(group string) error {
	controllers, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	if len(controllers) == 0 {
		return nil
	}
	enable := "+" + strings.Join(strings.Fields(string(controllers)), " +")
	if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte(enable), 0o644); err != nil {
		return fmt.Errorf("give the children of %s the controllers %s: %w", group, enable, err)
	}
	return nil
}

func (groups cgroups) remove() error {
	var failed []error
	for _, h := range groups {
		var dirs []string
		err := filepath.WalkDir(h.group, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		failed = append(failed, err)
		for i := len(dirs) - 1; i >= 0; i-- { // children come after their parents
			failed = append(failed, os.Remove(dirs[i]))
		}
	}
	return errors.Join(failed...)
}

// mount makes the groups the machine's hierarchies, and a cgroup namespace whose
// roots they are, so that what processes read of themselves is in accord with it.
func (groups cgroups) mount(h *host.Host) error {
	if len(groups) == 0 {
		return errors.New("no control groups are mounted below " + cgroupRoot)
	}
	if !groups[0].unified {
		if err := h.Do(func() error { return mountTmpfs(cgroupRoot) }); err != nil {
			return err
		}
	}
	for _, g := range groups {
		if err := g.mount(h); err != nil {
			return fmt.Errorf("mount %s on %s: %w", g.group, g.mountPoint, err)
		}
	}
	var rooms string
	for _, g := range groups {
		rooms += "echo 0 >" + g.mountPoint + "/cgroup.procs; "
	}
	h.MustRun("sh", "-ec", rooms+": >"+namespaceFile+
		"; exec unshare --cgroup mount --bind /proc/thread-self/ns/cgroup "+namespaceFile)
	if groups[0].unified {
		return delegate(groups[0].group) // which must have no process
	}
	return nil
}

// mount takes the group from the real host's mount namespace to the machine's.
func (h hierarchy) mount(to *host.Host) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, h.group, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tree) }() // the mount stays
	return to.Do(func() error {
		if !h.unified {
			if err := h.makeMountPoint(); err != nil {
				return err
			}
		}
		return unix.MoveMount(tree, "", unix.AT_FDCWD, h.mountPoint, unix.MOVE_MOUNT_F_EMPTY_PATH)
	})
}

// makeMountPoint makes it, and for a hierarchy with several controllers
// ("cpu,cpuacct") the names of each, by which it is known, too.
func (h hierarchy) makeMountPoint() error {
	if err := os.MkdirAll(h.mountPoint, 0o755); err != nil {
		return err
	}
	base := filepath.Base(h.mountPoint)
	for name := range strings.SplitSeq(base, ",") {
		err := os.Symlink(base, filepath.Join(cgroupRoot, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// enter is the command, run inside the groups. In the one hierarchy of version 2
// that is a group below ours: one with processes has no children with controllers.
func (groups cgroups) enter(command []string) []string {
	script := ""
	for _, g := range groups {
		procs := g.mountPoint + "/cgroup.procs"
		if g.unified {
			procs = g.mountPoint + "/init/cgroup.procs"
			script += "mkdir -p " + filepath.Dir(procs) + "; "
		}
		script += "echo 0 >" + procs + "; "
	}
	script += `exec nsenter --cgroup=` + namespaceFile + ` -- "$@"`
	return append([]string{"sh", "-ec", script, "sh"}, command...)
}
