package runtimes

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/test/host"
)

const (
	// BinDir is where runtimes look for plugins.
	BinDir = "/opt/cni/bin"
	// DistributionDir is where Debian's package of the reference plugins has them.
	DistributionDir = "/usr/lib/cni"
	// scratch is a file system for what belongs to no test: the state of runtimes.
	scratch       = "/var/lib/runtimes"
	namespaceFile = scratch + "/cgroup-namespace"
)

// Machine is a throw-away host that real runtimes run on, with Trestle's plugins
// in BinDir. It forwards already, as every host of a runtime does.
type Machine struct {
	*host.Host

	t       host.T
	cgroups cgroups
}

// New makes a Machine that goes when the test ends, with all that runs on it.
func New(t host.T) *Machine {
	t.Helper()
	m := newMachine(t)
	m.Install(m.Dirs().Trestle)
	if err := m.Do(hideDistribution); err != nil {
		t.Fatalf("make a machine: %v", err)
	}
	return m
}

// newMachine makes one without any plugins in BinDir.
func newMachine(t host.T) *Machine {
	t.Helper()
	groups, err := makeCgroups(t)
	if err != nil {
		t.Fatalf("make control groups: %v", err)
	}
	m := &Machine{Host: host.New(t), t: t, cgroups: groups}
	err = m.Do(func() error {
		// /dev/shm has podman's locks, /var/tmp what runtimes unpack.
		for _, dir := range []string{scratch, "/dev/shm", "/var/tmp"} {
			if err := mountTmpfs(dir); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("make a machine: %v", err)
	}
	if err := groups.mount(m.Host); err != nil {
		t.Fatalf("make a machine: %v", err)
	}
	m.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return m
}

// hideDistribution lays BinDir over the directory of Debian's plugins, which
// Debian's runtimes look into as well.
func hideDistribution() error {
	if _, err := os.Stat(DistributionDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unix.Mount(BinDir, DistributionDir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", BinDir, DistributionDir, err)
	}
	return nil
}

func mountTmpfs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// Install puts the plugins of a directory into BinDir, each by a rename, as
// `make install` does on a node at work. Those that the directory does not have
// stay; at first they are the reference plugins.
func (m *Machine) Install(dir string) {
	m.t.Helper()
	err := m.Do(func() error {
		if err := os.MkdirAll(BinDir, 0o755); err != nil {
			return err
		}
		for _, from := range []string{m.Dirs().Reference, dir} {
			if err := installFrom(from, from == dir); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		m.t.Fatalf("install the plugins of %s: %v", dir, err)
	}
}

func installFrom(dir string, overwrite bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); name == "trestle" || name == "cnitool" {
			continue // no plugins
		}
		to := filepath.Join(BinDir, entry.Name())
		if _, err := os.Stat(to); err == nil && !overwrite {
			continue
		}
		if err := copyFile(filepath.Join(dir, entry.Name()), to+".new"); err != nil {
			return err
		}
		if err := os.Rename(to+".new", to); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // opened for reading only
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	return target.Close()
}

// WriteFile writes a file on the machine, whose directory is made.
func (m *Machine) WriteFile(path, content string) {
	m.t.Helper()
	err := m.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(content), 0o644)
	})
	if err != nil {
		m.t.Fatalf("write %s: %v", path, err)
	}
}

// ReadDir is the names in a directory of the machine; none where it is not there.
func (m *Machine) ReadDir(path string) []string {
	m.t.Helper()
	var names []string
	err := m.Do(func() error {
		entries, err := os.ReadDir(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return err
	})
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	return names
}

// RunRuntime is Run for the programs of a runtime: they see the machine's control groups.
func (m *Machine) RunRuntime(c host.Command) (host.Output, error) {
	c.Args = m.cgroups.enter(c.Args)
	return m.Run(c)
}

// StartRuntime is Start likewise.
func (m *Machine) StartRuntime(c host.Command) (stop func() string) {
	m.t.Helper()
	c.Args = m.cgroups.enter(c.Args)
	return m.Start(c)
}

// Leases is the addresses that are leased on a network, in the order of their names.
func (m *Machine) Leases(network string) []string {
	m.t.Helper()
	return slices.DeleteFunc(m.ReadDir("/var/lib/cni/networks/"+network), func(name string) bool {
		return name == "lock" || strings.HasPrefix(name, "last_reserved_ip.") || strings.HasPrefix(name, ".")
	})
}
