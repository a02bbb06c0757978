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

// subnetsOf converts claims to subnets of the status.
func subnetsOf(claims []cluster.Owned) []hosts.Subnet {
	var all []hosts.Subnet
	for _, o := range claims {
		all = append(all, hosts.Subnet(o))
	}
	return all
}

// board holds the status (pkg/hosts), which several goroutines change, and writes its file.
type board struct {
	mu     sync.Mutex
	status hosts.Status
	// problems are the problems of each reporter, which replaces its own.
	problems map[string][]string
	// seen is when each peer was last seen, by its id.
	seen map[string]time.Time
	// noted says that the status has changed since it was written.
	noted bool
}

// update changes the status and writes the file.
func (b *board) update(change func(*hosts.Status)) {
	b.note(change)
	b.write(true)
}

// note changes the status without writing the file, which is long with a thousand peers; the
// next write does. change must replace lists rather than change them in place.
func (b *board) note(change func(*hosts.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.status
	change(&b.status)
	for i, p := range b.status.Peers {
		b.status.Peers[i].Seen = b.seen[p.ID]
	}
	b.noted = b.noted || !reflect.DeepEqual(before, b.status)
}

// write writes the file if the status has changed since it was written, or always.
func (b *board) write(always bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.noted && !always {
		return
	}
	b.noted = false
	b.status.Problems = nil
	for _, who := range []string{"store", "life", "uplink", "peers", "kernel", "conflist", "mtu"} {
		b.status.Problems = append(b.status.Problems, b.problems[who]...)
	}
	b.status.PID, b.status.Updated = os.Getpid(), time.Now().UTC()
	data, err := json.MarshalIndent(b.status, "", "  ")
	if err == nil {
		_ = writeVolatile(statusPath, append(data, '\n')) // the next write shows it, too
	}
}

// problem replaces the problems that who has reported. The next write shows them.
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

// see notes when each peer was last seen.
func (b *board) see(seen map[string]time.Time) {
	seen = maps.Clone(seen)
	b.update(func(*hosts.Status) { b.seen = seen })
}

func (b *board) now() hosts.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

// writeVolatile replaces a file in /run, without a sync: it does not outlive a boot.
func writeVolatile(path string, data []byte) error {
	return rawfile.Replace(path, path+".new", data, 0o644)
}

func readStatus() (hosts.Status, error) {
	s, err := hosts.Read(statusPath)
	if err != nil {
		return hosts.Status{}, err
	}
	if s == nil {
		return hosts.Status{}, errors.New("trestle-node has not run since this host was booted; systemctl start trestle-node, or trestle node run")
	}
	return *s, nil
}
