package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// State is what a host knows by itself, with no store at hand: it is kept on disk, and
// the kernel's routes are made from it after a boot.
type State struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Store and Revision are what this host has seen of its store last: a store that
	// is another or has gone back is no proof of anything.
	Store    string `json:"store,omitempty"`
	Revision int64  `json:"revision,omitempty"`
	Config   Config `json:"config"`
	// Claims are the subnets that this host believes to be its own. Pending are those
	// that it asked for and heard no answer.
	Claims  []Owned `json:"claims,omitempty"`
	Pending []Owned `json:"pending,omitempty"`
	// Lost are subnets that were given to another while this host could not hear of it.
	Lost []Owned `json:"lost,omitempty"`
	// Self is the record that was published last.
	Self Node `json:"self"`
	// Peers are the others that this host believes in.
	Peers []Node `json:"peers,omitempty"`
	// Suspect says why removals are not believed, where they are not.
	Suspect string `json:"suspect,omitempty"`
	// Drained keeps the networks' configurations away from the runtime. Leaving says that
	// the host is on its way out: the store does not know yet, or something of the network
	// is left on the host.
	Drained bool `json:"drained,omitempty"`
	Leaving bool `json:"leaving,omitempty"`
	// Told says of a host that is leaving that the store knows.
	Told bool `json:"told,omitempty"`
}

// Owner is the peer that has the subnet, or a part of it.
func (s *State) Owner(o Owned) (Node, bool) {
	i := slices.IndexFunc(s.Peers, func(n Node) bool {
		return slices.ContainsFunc(n.Subnets, func(p Owned) bool { return p.Subnet.Overlaps(o.Subnet) })
	})
	if i < 0 {
		return Node{}, false
	}
	return s.Peers[i], true
}

// ReadState reads what SaveState has written; no file is an empty state.
func ReadState(path string) (State, error) {
	data, err := rawfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("read the state: %w", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("state %s cannot be read: %w; move it away, and the host finds its subnets in the store again", path, err)
	}
	return s, nil
}

// SaveState replaces the file as a whole, and returns when it would survive a loss of
// power: what it says is acted upon.
func SaveState(path string, s State) error {
	data, err := json.Marshal(s) // not for people; with a thousand peers to indent it costs as much again
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	return WriteFile(path, append(data, '\n'), 0o600)
}

// WriteFile replaces a file as a whole: written beside it, synchronised, renamed. The name
// beside it is always the same, so that what a killed writer has left the next one
// takes; a file has one writer at a time.
func WriteFile(path string, data []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC | syscall.O_NONBLOCK // a FIFO is refused, and not waited for
	f, err := os.OpenFile(filepath.Join(dir, "."+filepath.Base(path)+".new"), flags, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename outlive a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
