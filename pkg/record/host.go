package record

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Host is this boot of this machine.
type Host struct {
	Boot, Machine string
	// Began is when this boot began; zero if /proc does not show it.
	Began time.Time
}

// ThisHost reads boot and machine.
func ThisHost() (Host, error) {
	boot, err := BootID()
	if err != nil {
		return Host{}, err
	}
	began, err := bootTime()
	if err != nil {
		began = time.Time{} // hidepid: then no stamp counts as one of an earlier boot
	}
	return Host{boot, machineID(), began}, nil
}

// Outlived says whether the stamp was made in an earlier boot of this machine. A
// different boot id does not prove that: several machines may share a directory (a
// cluster file system), and a container may have a boot id of its own. So the machine
// must be ours, too; and since machines cloned from one image have the same machine id,
// the time must be before our own boot. If the clock is behind (no battery), an earlier
// boot is not recognized until it is set. Stamps of releases that wrote no machine are
// compared by boot and time.
func (h Host) Outlived(s Stamp) bool {
	ofOurs := s.Machine == "" || s.Machine == h.Machine && h.Machine != noMachine
	return s.Boot != "" && s.Boot != h.Boot && ofOurs &&
		!s.Time.IsZero() && s.Time.Before(h.Began)
}

// bootTime is when process 1 began: that of the machine or, in a container that
// has a boot id of its own, that of the container.
func bootTime() (time.Time, error) {
	const clockTicks = 100 // USER_HZ, the same on each architecture that Go supports
	stat, err := os.ReadFile("/proc/1/stat")
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // proc_pid_stat(5): what follows the name, in parentheses
	fields := strings.Fields(string(rest))
	if len(fields) < 20 {
		return time.Time{}, fmt.Errorf("/proc/1/stat: %q has too few fields", stat)
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("/proc/1/stat: %w", err)
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, fmt.Errorf("read the time since boot: %w", err)
	}
	age := time.Duration(up.Nano()) - time.Duration(ticks)*(time.Second/clockTicks)
	return time.Now().Add(-age), nil
}

// BootID reads the id of this boot (proc_sys_kernel(5)).
func BootID() (string, error) { return readBootID() }

var readBootID = sync.OnceValues(func() (string, error) { return readLine("/proc/sys/kernel/random/boot_id") })

// ownMachineID is the file with the id that we give to a machine without machine-id(5).
// It is not in the directories of leases and records, which machines may share.
const ownMachineID = "/var/lib/trestle/machine-id"

// noMachine stands for a machine that has no id and cannot store one: its earlier boots
// cannot be told from those of another such machine.
const noMachine = "none"

// machineID is an id of this machine that stays the same after a reboot: a hash of
// machine-id(5), which according to that page must not be exposed itself. If there is
// none, a random one is made and stored.
func machineID() string { return readMachineID() }

var readMachineID = sync.OnceValue(func() string {
	id, err := readLine("/etc/machine-id")
	if err != nil || len(id) != 32 { // "uninitialized", in the first boot of an image
		id, err = readLine(ownMachineID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		id, err = makeMachineID(ownMachineID)
	}
	if err != nil || id == "" {
		return noMachine
	}
	sum := sha256.Sum256([]byte("trestle:" + id))
	return hex.EncodeToString(sum[:16])
})

// makeMachineID makes the file at path by link(2), which is atomic; if another process
// was faster, that one's id counts.
func makeMachineID(path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	id := strings.ToLower(rand.Text())
	temporary := path + "." + id
	if err := os.WriteFile(temporary, []byte(id+"\n"), 0o444); err != nil {
		return "", errors.Join(err, os.Remove(temporary))
	}
	err := os.Link(temporary, path)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err := errors.Join(err, os.Remove(temporary)); err != nil {
		return "", err
	}
	return readLine(path)
}

// readLine reads a small file in three system calls: each ADD does this twice.
func readLine(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only
	buf := make([]byte, 128)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return "", &os.PathError{Op: "read", Path: path, Err: err}
	}
	return string(bytes.TrimSpace(buf[:n])), nil
}
