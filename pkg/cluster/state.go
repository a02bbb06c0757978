package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// State is what a host knows without a store. It is kept on disk, and after a boot the kernel
// is configured from it.
type State struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Store and Revision are the store's id and revision when this host last read it. A store
	// with another id or an older revision proves nothing.
	Store    string `json:"store,omitempty"`
	Revision int64  `json:"revision,omitempty"`
	Config   Config `json:"config"`
	// Claims are the subnets that this host believes to be its own. Pending are those
	// that it asked the store for without an answer yet.
	Claims  []Owned `json:"claims,omitempty"`
	Pending []Owned `json:"pending,omitempty"`
	// Lost are former subnets of this host that another host was given, by a release.
	Lost []Owned `json:"lost,omitempty"`
	// Reserved are the subnets that were reserved when this host last looked at all claims.
	Reserved []Reservation `json:"reserved,omitempty"`
	// Self is the record that was published last.
	Self Node `json:"self"`
	// Peers are the others that this host believes in.
	Peers []Node `json:"peers,omitempty"`
	// Suspect is why no host is believed gone at present; "" where the store is trusted.
	Suspect string `json:"suspect,omitempty"`
	// Drained keeps the networks' configurations away from the runtime. Leaving says that
	// the host is between BeginLeave and EndLeave: the store does not know yet, or something of
	// the network is left on the host.
	Drained bool `json:"drained,omitempty"`
	Leaving bool `json:"leaving,omitempty"`
	// Told says that the store knows that this host is leaving.
	Told bool `json:"told,omitempty"`

	// missed are the peers that were missing at the last heartbeat: see Believe.
	missed map[string]bool
}

// ReadState reads a file of SaveState. A missing file is an empty state.
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

// SaveState replaces the file atomically, and returns once it would survive a power failure:
// the caller acts upon the state after that.
func SaveState(path string, s State) error {
	data, err := json.Marshal(s) // not indented: with a thousand peers that would cost as much again
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	return WriteFile(path, append(data, '\n'), 0o600)
}

// WriteFile replaces a file atomically: it writes a temporary file in the same directory, syncs
// and renames it. The temporary file always has the same name, so that the next writer
// overwrites one that a killed writer left; a file has one writer at a time.
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

// syncDir makes a rename survive a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
