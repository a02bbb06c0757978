package bridge

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctlRoot shows the settings of the network namespace of the thread that
// looks (fs/proc/proc_sysctl.c).
const sysctlRoot = "/proc/sys/net"

// setting is one below sysctlRoot.
type setting struct{ name, value string }

// writeSysctl writes a setting below sysctlRoot, by three system calls: an os.File
// asks the runtime's poller and takes nine, on a path that each ADD goes five times.
func writeSysctl(name, value string) error {
	fd, err := unix.Open(sysctlRoot+"/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set net.%s: %w", dotted(name), err)
	}
	_, err = unix.Write(fd, []byte(value))
	_ = unix.Close(fd) // written is set
	if err != nil {
		return fmt.Errorf("set net.%s to %s: %w", dotted(name), value, err)
	}
	return nil
}

func readSysctl(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(sysctlRoot, name))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return string(bytes.TrimSpace(data)), nil
}

// dotted is a setting's name as sysctl(8) writes it: that of a link may have dots.
func dotted(name string) string { return strings.NewReplacer("/", ".", ".", "/").Replace(name) }
