package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// The status is what others read, too (package hosts).
type (
	// Status is what this host knows of itself.
	Status = hosts.Status
	// StoreInfo is how this host stands with its store.
	StoreInfo = hosts.Store
	// PeerInfo is another host.
	PeerInfo = hosts.Peer
)

// subnetsOf are claims as the status has them.
func subnetsOf(claims []cluster.Owned) []hosts.Subnet {
	var all []hosts.Subnet
	for _, o := range claims {
		all = append(all, hosts.Subnet(o))
	}
	return all
}

// board is the status as several goroutines write it.
type board struct {
	mu     sync.Mutex
	status Status
	// problems are by who reports them: each replaces its own.
	problems map[string][]string
	// seen is when each peer was, by its id.
	seen map[string]time.Time
	// noted says that the file does not tell yet of everything.
	noted bool
}

// update changes the status, and writes the file, which says when it was.
func (b *board) update(change func(*Status)) {
	b.note(change)
	b.write(true)
}

// note changes the status, of which the file tells after the next write: of a thousand peers
// it is long. change replaces lists, and changes none in its place.
func (b *board) note(change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.status
	change(&b.status)
	for i, p := range b.status.Peers {
		b.status.Peers[i].Seen = b.seen[p.ID]
	}
	b.noted = b.noted || !reflect.DeepEqual(before, b.status)
}

// write writes the file where something was noted since it was written, or always.
func (b *board) write(always bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.noted && !always {
		return
	}
	b.noted = false
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

// problem replaces the problems that who has reported; the next write tells of them.
func (b *board) problem(who string, problems ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.problems == nil {
		b.problems = map[string][]string{}
	}
	if slices.Equal(b.problems[who], problems) {
		return
	}
	b.problems[who] = problems
	b.noted = true
}

// see notes when each peer has given a sign of life.
func (b *board) see(seen map[string]time.Time) {
	seen = maps.Clone(seen)
	b.update(func(*Status) { b.seen = seen })
}

func (b *board) now() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

// writeVolatile replaces a file of /run, which no loss of power outlives.
func writeVolatile(path string, data []byte) error {
	return rawfile.Replace(path, path+".new", data, 0o644)
}

func readStatus() (Status, error) {
	s, err := hosts.Read(statusPath)
	if err != nil {
		return Status{}, err
	}
	if s == nil {
		return Status{}, errors.New("trestle-node has not run since this host was booted; systemctl start trestle-node, or trestle node run")
	}
	return *s, nil
}
