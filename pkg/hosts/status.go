// Package hosts knows what this host's agent, trestle-node, says of itself and of the
// other hosts: the file that it keeps in /run, as plain data. The agent writes it; whoever
// looks at the host reads it, without the agent, its store, or a client of one.
package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// StatusPath is where the agent keeps the status, SettingsPath what says that this host
// shall have an agent, and LockPath its lock.
const (
	StatusPath   = "/run/trestle/node/status.json"
	SettingsPath = "/etc/trestle/node.json"
	LockPath     = "/run/trestle/node/lock"
)

// The states of a host, the worst that is true of it. Stopped is what a reader finds, not
// what the agent writes.
const (
	Ready    = "ready"
	Starting = "starting"
	Drained  = "drained"
	Outdated = "outdated" // the cluster asks for a newer agent: this one keeps what it has
	Suspect  = "suspect"
	Fenced   = "fenced"
	Leaving  = "leaving" // the store does not know yet, or something is left on the host
	Left     = "left"
	Stopped  = "stopped"
)

// States are all of them, in alphabetical order.
func States() []string {
	return []string{Drained, Fenced, Leaving, Left, Outdated, Ready, Starting, Stopped, Suspect}
}

// The ways to another host. None is that of one without a subnet, or that cannot be reached.
const (
	Direct = "direct"
	Tunnel = "tunnel"
	None   = "none"
)

// WireGuard is the kind of a tunnel that is encrypted.
const WireGuard = "wireguard"

// RouteProtocol is what the agent's routes carry, by which they are told from others'.
const RouteProtocol = 116

// Status is what this host knows of itself, in status.json for whoever asks.
type Status struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// State is the worst that is true.
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
	Store Store  `json:"store"`

	Subnets []Subnet `json:"subnets"`
	// Pools are the networks', of which each host has a subnet.
	Pools []netip.Prefix `json:"pools,omitempty"`
	// Lost are subnets that were given to another host, and Restart the containers that
	// still have addresses of them.
	Lost    []Subnet    `json:"lost,omitempty"`
	Restart []Container `json:"restart,omitempty"`
	Uplink  string      `json:"uplink,omitempty"`
	MTU     int         `json:"mtu,omitempty"` // of containers
	// Tunnel is the device that leads to hosts which are not on this one's link.
	Tunnel *Device `json:"tunnel,omitempty"`
	Peers  []Peer  `json:"peers"`
	// Repairs counts what of the kernel's was found changed by somebody else, and made again.
	Repairs   int       `json:"repairs"`
	Strangers uint64    `json:"strangersDropped"`
	Problems  []string  `json:"problems,omitempty"`
	PID       int       `json:"pid"`
	Updated   time.Time `json:"updated"`
}

// Store is how this host stands with its store.
type Store struct {
	Name      string    `json:"name"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

// Subnet is what a host has of a network.
type Subnet struct {
	Network string       `json:"network"`
	Subnet  netip.Prefix `json:"subnet"`
	// Nonce tells this claim from a later one on the same subnet.
	Nonce string `json:"nonce"`
}

// Container is an attachment with an address of a network's.
type Container struct {
	Network string     `json:"network"`
	Address netip.Addr `json:"address"`
	ID      string     `json:"container"`
}

// Device is a tunnel's.
type Device struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // "vxlan" or WireGuard
	VNI  int    `json:"vni,omitempty"`
	Port int    `json:"port,omitempty"` // of UDP
}

// Peer is another host.
type Peer struct {
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	Underlay []netip.Prefix `json:"underlay"`
	Subnets  []Subnet       `json:"subnets"`
	MTU      int            `json:"mtu,omitempty"` // of its uplink
	Way      string         `json:"way"`
	// Seen is when this host has last looked and the other one had given a sign of life;
	// zero where the store has none, as a file has not.
	Seen time.Time `json:"seen,omitzero"`
	// Missing says that the store does not list it any more, and nothing proves it gone.
	Missing bool `json:"missing,omitempty"`
}

// Read reads the status. It is nil where this host has never had an agent since it was
// booted.
func Read(path string) (*Status, error) {
	data, err := rawfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the status of trestle-node: %w", err)
	}
	var s Status
	if err := cni.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read the status of trestle-node: %s: %w", path, err)
	}
	return &s, nil
}

// program is the agent's name, as the kernel has it.
const program = "trestle-node"

// Running says whether the agent that wrote the status lives.
func (s *Status) Running() bool { return s.runs(LockPath) }

// runs goes by the agent's lock: its process number is that of its pod, where it has one of
// its own. Who may not open the lock goes by the number, which may be another process's by now.
func (s *Status) runs(lock string) bool {
	if held, err := isLocked(lock); err == nil {
		return held
	}
	if s.PID <= 0 {
		return false
	}
	name, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID) + "/comm")
	return err == nil && strings.TrimSpace(string(name)) == program
}

// isLocked says whether somebody has the lock of a file to itself. Nobody is kept from it but
// for the moment of the question.
func isLocked(path string) (bool, error) {
	f, err := rawfile.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // and with it the lock
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Shown is the way to a peer in a word for people: whether it is encrypted is of interest.
func (s *Status) Shown(p Peer) string {
	if p.Way == Tunnel && s.Tunnel != nil && s.Tunnel.Kind == WireGuard {
		return WireGuard
	}
	return p.Way
}

// Holder is the other host that has the address.
func (s *Status) Holder(a netip.Addr) (Peer, bool) {
	for _, p := range s.Peers {
		for _, subnet := range p.Subnets {
			if subnet.Subnet.Contains(a) {
				return p, true
			}
		}
	}
	return Peer{}, false
}

// IsPooled says whether the address is of a network over several hosts.
func (s *Status) IsPooled(a netip.Addr) bool {
	for _, pool := range s.Pools {
		if pool.Contains(a) {
			return true
		}
	}
	return false
}
