package container

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// HeldFD is a pipe from our parent: Enter waits for a byte before the program begins.
const HeldFD = 3

// Enter replaces this process with the program, in the network namespace ("": ours) and with
// its own file at /etc/resolv.conf ("": the host's), when our parent writes to HeldFD. The
// kernel kills the program when our parent ends. Enter returns only if it fails.
func Enter(netNS, resolvConf, program string, args []string) error {
	runtime.LockOSThread() // the namespaces are this thread's; exec keeps this thread alone
	// again, since the parent set it for the thread that it forked, which may be another
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("ask to be killed with trestle: %w", err)
	}
	if netNS != "" {
		if err := join(netNS); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", netNS, err)
		}
	}
	if netNS != "" || resolvConf != "" {
		if err := ownMounts(netNS != "", resolvConf); err != nil {
			return err
		}
	}
	if err := awaitRelease(); err != nil {
		return fmt.Errorf("wait for trestle: %w", err)
	}
	return &os.PathError{Op: "execute", Path: program, Err: syscall.Exec(program, args, os.Environ())}
}

// awaitRelease waits for the byte, and closes the pipe, which the program does not inherit.
func awaitRelease() error {
	pipe := os.NewFile(HeldFD, "held")
	_, err := pipe.Read(make([]byte, 1))
	return errors.Join(err, pipe.Close())
}

func join(path string) error {
	handle, err := netns.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Setns(handle.FD(), unix.CLONE_NEWNET), handle.Close())
}

// ownMounts gives the process a mount namespace; later changes of the host's mounts propagate.
func ownMounts(sysfs bool, resolvConf string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if sysfs {
		if err := ownSysfs(); err != nil {
			return fmt.Errorf("mount /sys: %w", err)
		}
	}
	if resolvConf == "" {
		return nil
	}
	err := unix.Mount(resolvConf, "/etc/resolv.conf", "", unix.MS_BIND, "")
	if err != nil {
		return fmt.Errorf("put the network's DNS over /etc/resolv.conf: %w", err)
	}
	return nil
}

// ownSysfs mounts /sys again, since sysfs shows the interfaces of the network namespace in
// which it was mounted. The mount of control groups below it is kept, if the kernel can detach
// and attach mounts (open_tree, Linux 5.2).
func ownSysfs() error {
	const groups = "/sys/fs/cgroup"
	held, err := unix.OpenTree(unix.AT_FDCWD, groups, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		held = -1
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if held < 0 {
		return nil
	}
	err = unix.MoveMount(held, "", unix.AT_FDCWD, groups, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) {
		err = nil // this kernel's sysfs has no such directory
	}
	return errors.Join(err, unix.Close(held))
}
