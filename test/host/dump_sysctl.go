package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const sysctlRoot = "/proc/sys/net"

// sysctls is those of the network that have a say in what plugins do: for each
// device only what differs from the default.
func (n *Namespace) sysctls() ([]string, error) {
	var lines []string
	err := n.Do(func() error {
		for _, name := range []string{"ipv4/ip_forward", "ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"} {
			if value, err := readSysctl(filepath.Join(sysctlRoot, name)); err == nil {
				lines = append(lines, "net/"+name+" = "+value)
			}
		}
		bridge, err := readSysctls("bridge")
		if err != nil {
			return err
		}
		lines = append(lines, bridge.lines(nil)...)
		for _, family := range []string{"ipv4/conf", "ipv6/conf"} {
			found, err := deviceSysctls(family)
			if err != nil {
				return err
			}
			lines = append(lines, found...)
		}
		return nil
	})
	return lines, err
}

func deviceSysctls(family string) ([]string, error) {
	defaults, err := readSysctls(family + "/default")
	if err != nil {
		return nil, err
	}
	lines := defaults.lines(nil)
	devices, err := os.ReadDir(filepath.Join(sysctlRoot, family))
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		settings, err := readSysctls(filepath.Join(family, device.Name()))
		if err != nil {
			return nil, err
		}
		lines = append(lines, settings.lines(&defaults)...)
	}
	return lines, nil
}

// sysctlDir is the settings in one directory.
type sysctlDir struct {
	path   string // "ipv4/conf/eth0"
	keys   []string
	values map[string]string
}

// readSysctls is empty for a directory that is not there: the module is not, or
// the device just went.
func readSysctls(path string) (sysctlDir, error) {
	dir := sysctlDir{path: path, values: map[string]string{}}
	entries, err := os.ReadDir(filepath.Join(sysctlRoot, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	for _, entry := range entries {
		value, err := readSysctl(filepath.Join(sysctlRoot, path, entry.Name()))
		if err != nil {
			continue // stable_secret cannot be read before it is set
		}
		dir.keys = append(dir.keys, entry.Name())
		dir.values[entry.Name()] = value
	}
	return dir, nil
}

// readSysctl reads without the poller of package os, which would take longer
// than all the rest; a value comes in one piece.
func readSysctl(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	var buffer [4096]byte
	n, err := unix.Read(fd, buffer[:])
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return "", err
	}
	return strings.TrimSpace(string(buffer[:n])), nil
}

// lines shows the settings, without those that are as in defaults.
func (d sysctlDir) lines(defaults *sysctlDir) []string {
	var lines []string
	for _, key := range d.keys {
		if defaults == nil || defaults.values[key] != d.values[key] {
			lines = append(lines, "net/"+d.path+"/"+key+" = "+d.values[key])
		}
	}
	return lines
}
