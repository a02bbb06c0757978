// Package container knows the containers of trestle run: a network namespace that is made
// for one command, and a file that says so, locked by the trestle that waits for the
// command. Where nobody holds that lock any more trestle was killed, and the next one
// clears away.
//
//	/run/trestle/run/<name>          JSON, locked by its trestle
//	/run/trestle/resolv.conf/<name>  what the command finds in /etc/resolv.conf
//	/run/netns/<name>                the network namespace, for ip netns too
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

// namedDir is where ip netns looks for network namespaces.
const namedDir = "/run/netns"

// Container is one container of trestle run, held by this process.
type Container struct {
	Name  string `json:"name"`
	NetNS string `json:"netns"` // its path
	PID   int    `json:"pid"`   // of its trestle
	// Log is where what it writes is appended to, if it is in the background and anywhere.
	Log string `json:"log,omitempty"`

	file *os.File // open and locked
}

func dir() string { return filepath.Join(record.DefaultDir, "run") }

// New makes the container's file and its network namespace, with lo up.
func New(name, log string) (*Container, error) {
	s := &Container{Name: name, NetNS: filepath.Join(namedDir, name), PID: os.Getpid(), Log: log}
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

// write makes the file, locked before it has its name, so that nobody takes it for one of
// a trestle that was killed.
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

// makeNetNS makes the container's namespace, with lo up.
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
	err := unix.Unmount(s.NetNS, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil // killed before it was mounted, or a second time
	}
	if err == nil {
		err = os.Remove(s.NetNS)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return errors.Join(fmt.Errorf("remove network namespace %s: %w", s.Name, err), s.file.Close())
	}
	return errors.Join(ignoreGone(os.Remove(s.resolvConf())), os.Remove(s.path()), s.file.Close())
}

// Logs are the containers' logs, of those that have one, by name. Who cannot be read has
// none.
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

// Abandoned are the containers whose trestle was killed. They are held by this process
// now, which closes each when it has detached it.
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

// takeOver is the container if nobody holds it.
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
		return nil, file.Close() // its trestle is at work
	}
	if strings.HasPrefix(name, ".") { // killed before it had a name
		return nil, errors.Join(ignoreGone(os.Remove(path)), file.Close())
	}
	s := &Container{Name: name, NetNS: filepath.Join(namedDir, name), file: file}
	if at, err := os.Stat(path); err != nil || !sameFile(file, at) {
		return nil, file.Close() // closed by its trestle since, and perhaps made again
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
