// Package container manages the containers of trestle run: a network namespace for one
// command, and a file that describes it, locked by the trestle process that waits for the
// command. If nobody holds the lock, that process was killed, and the next trestle command
// cleans up.
//
//	/run/trestle/run/<name>          JSON, locked by its trestle process
//	/run/trestle/resolv.conf/<name>  the command's /etc/resolv.conf
//	/run/netns/<name>                the network namespace, as ip netns names it
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/netns"
	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Container is one container of trestle run.
type Container struct {
	Name  string `json:"name"`
	NetNS string `json:"netns"` // its path
	PID   int    `json:"pid"`   // of its trestle process
	// Log is the file to which its output is appended; "" if it has none.
	Log string `json:"log,omitempty"`

	file *os.File // open and locked if this process holds the container
}

func dir() string { return filepath.Join(record.DefaultDir, "run") }

// New creates the container's file and its network namespace, with lo up.
func New(name, log string) (*Container, error) {
	s := &Container{Name: name, NetNS: filepath.Join(netns.NamedDir, name), PID: os.Getpid(), Log: log}
	if _, err := os.Lstat(s.NetNS); err == nil {
		return nil, cni.ConfigErrorf("--name: there is a network namespace %q already (%s); choose another name, or attach that one", name, s.NetNS)
	}
	if err := s.write(); err != nil {
		return nil, err
	}
	if err := s.makeNetNS(); err != nil {
		return nil, errors.Join(fmt.Errorf("make network namespace %s: %w", name, err), s.Close())
	}
	return s, nil
}

// write creates the file. It is locked before it gets its name, so that nobody takes the
// container for abandoned.
func (s *Container) write() error {
	if err := os.MkdirAll(dir(), 0o700); err != nil {
		return fmt.Errorf("note container %s: %w", s.Name, err)
	}
	file, err := os.CreateTemp(dir(), ".new-")
	if err != nil {
		return fmt.Errorf("note container %s: %w", s.Name, err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = json.NewEncoder(file).Encode(s)
	}
	if err == nil {
		err = os.Link(file.Name(), s.path())
	}
	err = errors.Join(err, os.Remove(file.Name()))
	if err == nil {
		s.file = file
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		err = cni.ConfigErrorf("--name: there is a container %q already; choose another", s.Name)
	}
	return errors.Join(err, file.Close())
}

func (s *Container) path() string { return filepath.Join(dir(), s.Name) }

// makeNetNS creates the network namespace, with lo up.
func (s *Container) makeNetNS() error {
	if err := netns.Make(s.Name); err != nil {
		return err
	}
	return netns.Do(s.NetNS, func(nl *netlink.Handle) error {
		lo, err := nl.LinkByName("lo")
		if err != nil {
			return err
		}
		return nl.LinkSetUp(lo)
	})
}

// Close removes the network namespace, and then the file.
func (s *Container) Close() error {
	if err := netns.Remove(s.NetNS); err != nil {
		return errors.Join(fmt.Errorf("remove network namespace %s: %w", s.Name, err), s.file.Close())
	}
	return errors.Join(ignoreGone(os.Remove(s.resolvConf())), os.Remove(s.path()), s.file.Close())
}

// Logs are the log files of the containers that have one, by the containers' names. A container
// whose file cannot be read has none.
func Logs() map[string]string {
	entries, err := os.ReadDir(dir())
	if err != nil {
		return nil
	}
	logs := map[string]string{}
	for _, entry := range entries {
		var c Container
		data, err := rawfile.Read(filepath.Join(dir(), entry.Name()))
		if err == nil && json.Unmarshal(data, &c) == nil && c.Name == entry.Name() && c.Log != "" {
			logs[c.Name] = c.Log
		}
	}
	return logs
}

// Abandoned are the containers whose trestle process was killed. This process holds them now;
// the caller detaches and closes each.
func Abandoned() ([]*Container, error) {
	entries, err := os.ReadDir(dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []*Container
	failed := []error{err}
	for _, entry := range entries {
		s, err := takeOver(entry.Name())
		if s != nil {
			all = append(all, s)
		}
		failed = append(failed, err)
	}
	return all, errors.Join(failed...)
}

// Killed are the containers whose trestle process was killed. Unlike Abandoned it leaves them to
// whoever cleans up; one that cannot be read, as without root, is not among them.
func Killed() []Container {
	entries, err := os.ReadDir(dir())
	if err != nil {
		return nil
	}
	var all []Container
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue // without a namespace yet
		}
		if s, err := takeOver(entry.Name()); err == nil && s != nil {
			_ = s.file.Close() // opened to lock it
			s.file = nil
			all = append(all, *s)
		}
	}
	return all
}

// takeOver returns the container if nobody holds it, and nil otherwise.
func takeOver(name string) (*Container, error) {
	path := filepath.Join(dir(), name)
	file, err := rawfile.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rawfile.ErrUnfit) {
		return nil, nil // closed meanwhile, or none of ours
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, file.Close() // its trestle process runs
	}
	if strings.HasPrefix(name, ".") { // killed before it had a name
		return nil, errors.Join(ignoreGone(os.Remove(path)), file.Close())
	}
	s := &Container{Name: name, NetNS: filepath.Join(netns.NamedDir, name), file: file}
	if at, err := os.Stat(path); err != nil || !sameFile(file, at) {
		return nil, file.Close() // it was closed meanwhile, and perhaps created again
	}
	return s, nil
}

func sameFile(file *os.File, at os.FileInfo) bool {
	info, err := file.Stat()
	return err == nil && os.SameFile(info, at)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
