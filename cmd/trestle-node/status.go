package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// Status is what this host knows of itself, in status.json for whoever asks.
type Status struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// State is ready, starting, drained, suspect, fenced or left, the worst that is true.
	State string    `json:"state"`
	Why   string    `json:"why,omitempty"`
	Store StoreInfo `json:"store"`

	Subnets []cluster.Owned `json:"subnets"`
	// Lost are subnets that were given to another host, and Restart the containers that
	// still have addresses of them.
	Lost    []cluster.Owned `json:"lost,omitempty"`
	Restart []container     `json:"restart,omitempty"`
	Uplink  string          `json:"uplink,omitempty"`
	MTU     int             `json:"mtu,omitempty"`
	Peers   []PeerInfo      `json:"peers"`
	// Repairs counts what of the kernel's was found changed by somebody else, and made again.
	Repairs   int       `json:"repairs"`
	Strangers uint64    `json:"strangersDropped"`
	Problems  []string  `json:"problems,omitempty"`
	PID       int       `json:"pid"`
	Updated   time.Time `json:"updated"`
}

// StoreInfo is how this host stands with its store.
type StoreInfo struct {
	Name      string    `json:"name"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

// PeerInfo is another host.
type PeerInfo struct {
	ID       string          `json:"id"`
	Name     string          `json:"name"`
	Underlay []netip.Prefix  `json:"underlay"`
	Subnets  []cluster.Owned `json:"subnets"`
	MTU      int             `json:"mtu,omitempty"`
	Way      string          `json:"way"`
	// Missing says that the store does not list it any more, and nothing proves it gone.
	Missing bool `json:"missing,omitempty"`
}

// board is the status as several goroutines write it.
type board struct {
	mu     sync.Mutex
	status Status
	// problems are by who reports them: each replaces its own.
	problems map[string][]string
}

// update changes the status, and writes the file where that made a difference.
func (b *board) update(change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.status)
	b.status.Problems = nil
	for _, who := range []string{"store", "uplink", "peers", "kernel", "conflist", "mtu"} {
		b.status.Problems = append(b.status.Problems, b.problems[who]...)
	}
	b.status.PID, b.status.Updated = os.Getpid(), time.Now().UTC()
	data, err := json.MarshalIndent(b.status, "", "  ")
	if err == nil {
		_ = writeVolatile(statusPath, append(data, '\n')) // shown by the next that can be written
	}
}

func (b *board) problem(who string, problems ...string) {
	b.mu.Lock()
	if b.problems == nil {
		b.problems = map[string][]string{}
	}
	same := slices.Equal(b.problems[who], problems)
	b.problems[who] = problems
	b.mu.Unlock()
	if !same {
		b.update(func(*Status) {})
	}
}

func (b *board) now() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

// writeVolatile replaces a file of /run, which no loss of power outlives.
func writeVolatile(path string, data []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func readStatus() (Status, error) {
	data, err := os.ReadFile(statusPath)
	if isMissing(err) {
		return Status{}, errors.New("trestle-node has not run since this host was booted; systemctl start trestle-node, or trestle node run")
	}
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return Status{}, fmt.Errorf("%s: %w", statusPath, err)
	}
	return s, nil
}
