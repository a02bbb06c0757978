package bridge

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctlRoot has the settings of the network namespace of the calling thread
// (fs/proc/proc_sysctl.c).
const sysctlRoot = "/proc/sys/net"

// setting is a sysctl with its path below sysctlRoot.
type setting struct{ name, value string }

// writeSysctl writes a setting, by three system calls. os.WriteFile needs nine, since it uses
// the Go runtime's poller, and each ADD writes five settings.
func writeSysctl(name, value string) error {
	fd, err := unix.Open(sysctlRoot+"/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set net.%s: %w", dotted(name), err)
	}
	_, err = unix.Write(fd, []byte(value))
	_ = unix.Close(fd) // the write has set it
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

// dotted is a setting's name as sysctl(8) writes it: with "." for "/", and "/" for the dots
// in the name of a link.
func dotted(name string) string { return strings.NewReplacer("/", ".", ".", "/").Replace(name) }
