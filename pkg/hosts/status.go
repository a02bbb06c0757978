// Package hosts reads the status file that this host's agent, trestle-node, keeps in /run:
// what it knows of this host and of the others, as plain data. A reader needs neither a
// running agent nor its store.
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

// StatusPath is the agent's status file, and LockPath its lock. SettingsPath is its
// configuration: a host that has it is meant to run an agent.
const (
	StatusPath   = "/run/trestle/node/status.json"
	SettingsPath = "/etc/trestle/node.json"
	LockPath     = "/run/trestle/node/lock"
)

// The states of a host; if several are true, it is in the worst. The agent never writes
// Stopped: a reader finds that out by Status.Running.
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

// States returns all states in alphabetical order.
func States() []string {
	return []string{Drained, Fenced, Leaving, Left, Outdated, Ready, Starting, Stopped, Suspect}
}

// The ways to another host. None: it has no subnet, or cannot be reached.
const (
	Direct = "direct"
	Tunnel = "tunnel"
	None   = "none"
)

// WireGuard is the kind of a tunnel that is encrypted.
const WireGuard = "wireguard"

// RouteProtocol is the protocol of the agent's routes (rtm_protocol), which distinguishes
// them from routes of other programs.
const RouteProtocol = 116

// Status is the content of StatusPath.
type Status struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// State is one of States, and Why the reason.
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
	Store Store  `json:"store"`

	Subnets []Subnet `json:"subnets"`
	// Pools are the prefixes of the networks; each host has a subnet of every one.
	Pools []netip.Prefix `json:"pools,omitempty"`
	// Lost are subnets of this host that another host has by now, and Restart the
	// containers that still have addresses in them.
	Lost    []Subnet    `json:"lost,omitempty"`
	Restart []Container `json:"restart,omitempty"`
	Uplink  string      `json:"uplink,omitempty"`
	MTU     int         `json:"mtu,omitempty"` // of containers
	// Tunnel is the device by which hosts are reached that are not on this host's link.
	Tunnel *Device `json:"tunnel,omitempty"`
	Peers  []Peer  `json:"peers"`
	// Repairs counts kernel objects that another program changed and the agent repaired.
	Repairs   int       `json:"repairs"`
	Strangers uint64    `json:"strangersDropped"`
	Problems  []string  `json:"problems,omitempty"`
	PID       int       `json:"pid"`
	Updated   time.Time `json:"updated"`
}

// Store is the state of this host's connection to the store.
type Store struct {
	Name      string    `json:"name"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

// Subnet is a host's subnet of a network.
type Subnet struct {
	Network string       `json:"network"`
	Subnet  netip.Prefix `json:"subnet"`
	// Nonce distinguishes this assignment of the subnet from a later one.
	Nonce string `json:"nonce"`
}

// Container is an attachment with an address in a lost subnet.
type Container struct {
	Network string     `json:"network"`
	Address netip.Addr `json:"address"`
	ID      string     `json:"container"`
}

// Device is a tunnel device.
type Device struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // "vxlan" or WireGuard
	VNI  int    `json:"vni,omitempty"`
	Port int    `json:"port,omitempty"` // the UDP port
}

// Peer is another host.
type Peer struct {
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	Underlay []netip.Prefix `json:"underlay"`
	Subnets  []Subnet       `json:"subnets"`
	MTU      int            `json:"mtu,omitempty"` // of its uplink
	Way      string         `json:"way"`
	// Seen is when this host last saw in the store a sign of life of the other one; zero if
	// the store keeps none, such as a file.
	Seen time.Time `json:"seen,omitzero"`
	// Missing says that the store no longer lists it, and nothing proves that it is gone.
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

// program is the agent's name in /proc/PID/comm.
const program = "trestle-node"

// Running says whether an agent is running.
func (s *Status) Running() bool { return s.runs(LockPath) }

// runs tells by the agent's lock, since the PID in the status is that of the agent's PID
// namespace, which in a pod is not the host's. A reader that may not open the lock has only
// the PID, which may be another process's by now: so the process's name is compared.
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

// Shown names the way to a peer for people: an encrypted tunnel is WireGuard.
func (s *Status) Shown(p Peer) string {
	if p.Way == Tunnel && s.Tunnel != nil && s.Tunnel.Kind == WireGuard {
		return WireGuard
	}
	return p.Way
}

// Holder returns the other host that has the address in one of its subnets.
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

// IsPooled says whether the address is in a pool: of a network over several hosts.
func (s *Status) IsPooled(a netip.Addr) bool {
	for _, pool := range s.Pools {
		if pool.Contains(a) {
			return true
		}
	}
	return false
}
