package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctlRoot shows the settings of the network namespace of the thread that
// looks (fs/proc/proc_sysctl.c).
const sysctlRoot = "/proc/sys/net"

// setSysctl writes a setting below sysctlRoot unless it is so already. A kernel
// without the file (IPv6 left out) has nothing to set: then nil.
func setSysctl(name, value string) error {
	have, err := readSysctl(name)
	if errors.Is(err, fs.ErrNotExist) || have == value {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(sysctlRoot, name), []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
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

// dotted is a setting's name as sysctl(8) writes it.
func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }
