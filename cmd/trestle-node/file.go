package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/overlay"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// fileStore is a store in a file: a list of hosts that the administrator writes, the same on
// each host.
type fileStore struct {
	path string
	mu   sync.Mutex
	last []byte // the content that was last read, of which are:
	view cluster.View
	err  error
}

// fileDocument is cluster.json: the configuration's keys, and the hosts.
type fileDocument struct {
	cluster.Config
	Nodes []fileNode
}

// fileNode is one host of the list.
type fileNode struct {
	Name string `json:"name"`
	// Underlay are the addresses at which the others reach it, each with its prefix length:
	// two hosts with the same prefix are on one link.
	Underlay []netip.Prefix `json:"underlay"`
	MTU      int            `json:"mtu,omitempty"`
	// WGKey is the key that trestle node join prints on that host. NAT says that the host is
	// behind a NAT.
	WGKey string `json:"wgKey,omitempty"`
	NAT   bool   `json:"nat,omitempty"`
	// Subnets are its subnets of each network.
	Subnets map[string][]netip.Prefix `json:"subnets"`
}

func openFile(path string) *fileStore { return &fileStore{path: path} }

func (s *fileStore) Close() error     { return nil }
func (s *fileStore) Describe() string { return "file " + s.path }

// parse refuses what no network can be made of. After an error the hosts keep what they have.
func (s *fileStore) parse(data []byte) (cluster.View, error) {
	d, err := parseFile(data)
	if err != nil {
		return cluster.View{}, cni.ConfigErrorf("%s: %w", s.path, cni.Plain(err))
	}
	return d.view()
}

func parseFile(data []byte) (d fileDocument, err error) {
	if d.Config, err = cluster.ParseConfig(data); err != nil {
		return d, err
	}
	d.ID = "file"
	var nodes struct {
		Nodes []fileNode `json:"nodes"`
	}
	if err := cni.Unmarshal(data, &nodes); err != nil {
		return d, err
	}
	d.Nodes = nodes.Nodes
	return d, d.check()
}

func (d fileDocument) check() error {
	type holder struct {
		name   string
		subnet netip.Prefix
	}
	var before []holder
	names, keys := map[string]bool{}, map[string]string{}
	for _, n := range d.Nodes {
		if n.Name == "" || names[n.Name] {
			return fmt.Errorf("nodes: the name %q is missing or there twice", n.Name)
		}
		if names[n.Name] = true; n.WGKey != "" && keys[n.WGKey] != "" {
			return fmt.Errorf("node %s: wgKey: it is that of node %s, too; %s", n.Name, keys[n.WGKey], cluster.WayOutOfOneKey)
		}
		keys[n.WGKey] = n.Name
		if i := slices.Index(n.Underlay, netip.Prefix{}); i >= 0 {
			return fmt.Errorf(`node %s: underlay[%d]: empty; write it like "192.0.2.1/24"`, n.Name, i)
		}
		if len(n.Underlay) == 0 {
			return fmt.Errorf(`node %s: underlay: none; write it like ["192.0.2.1/24"]`, n.Name)
		}
		owned := n.owned()
		if outside := d.Outside(owned); len(outside) > 0 {
			return fmt.Errorf("node %s has subnets that are in no pool of their network, or not of its length: %s", n.Name, strings.Join(outside, ", "))
		}
		for _, o := range owned {
			if i := slices.IndexFunc(before, func(b holder) bool { return b.subnet.Overlaps(o.Subnet) }); i >= 0 {
				return fmt.Errorf("node %s has %s, which overlaps %s of node %s", n.Name, o.Subnet, before[i].subnet, before[i].name)
			}
			before = append(before, holder{n.Name, o.Subnet})
		}
	}
	return nil
}

// owned are the node's subnets, sorted. All have the same nonce: nothing but the file says
// whose they are.
func (n fileNode) owned() (all []cluster.Owned) {
	for network, subnets := range n.Subnets {
		for _, s := range subnets {
			all = append(all, cluster.Owned{Network: network, Subnet: s, Nonce: "file"})
		}
	}
	slices.SortFunc(all, func(a, b cluster.Owned) int { return a.Subnet.Addr().Compare(b.Subnet.Addr()) })
	return all
}

// Get returns the whole list as keys, whatever was asked for: they are few. An unchanged
// file, which is the usual case at a heartbeat, is not parsed again.
func (s *fileStore) Get(context.Context, ...string) (cluster.View, error) {
	data, err := rawfile.Read(s.path)
	if isMissing(err) {
		return cluster.View{}, cni.ConfigErrorf("%w; write all hosts into it (trestle cluster init --node …), or name another store: --etcd, --kubeconfig or --file, or in %s (trestle node join)", err, settingsPath)
	}
	if err != nil {
		return cluster.View{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || !bytes.Equal(data, s.last) {
		s.last = data
		s.view, s.err = s.parse(data)
	}
	view := s.view
	view.Keys = maps.Clone(view.Keys) // that is the asker's
	return view, s.err
}

func (d fileDocument) view() (view cluster.View, err error) {
	view = cluster.View{Store: "file", Revision: 1, Keys: map[string]cluster.Value{}, Complete: true, Fixed: true}
	put := func(key string, value any) {
		data, marshalErr := json.Marshal(value)
		if marshalErr != nil {
			err = marshalErr
		}
		view.Keys[key] = cluster.Value{Data: data, Revision: 1}
	}
	put(cluster.KeyConfig, d.Config)
	for _, n := range d.Nodes {
		put(cluster.PrefixNodes+n.Name, cluster.Node{
			ID:       n.Name,
			Name:     n.Name,
			Underlay: n.Underlay,
			MTU:      n.MTU,
			MAC:      overlay.MAC(n.Name),
			WGKey:    n.WGKey,
			NAT:      n.NAT,
			Subnets:  n.owned(),
		})
		for _, o := range n.owned() {
			put(cluster.ClaimKey(o.Network, o.Subnet), map[string]string{"node": n.Name, "nonce": o.Nonce})
		}
	}
	return view, err
}

// Commit always fails: a host has something to write only if the list lacks it or its
// subnets, and only the administrator can add these.
func (s *fileStore) Commit(context.Context, cluster.Txn) (bool, error) {
	return false, fmt.Errorf("%s does not list this host with the subnets that it has: %w", s.path, cluster.ErrReadOnly)
}

// Watch returns errChanged when the file is written or replaced. It watches the directory,
// since a rename replaces the file's inode.
func (s *fileStore) Watch(ctx context.Context, _ string, _ int64, _ func([]cluster.Change)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.path, err)
	}
	defer func() { _ = watcher.Close() }() // only listened to
	if err := watcher.Add(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("watch %s: %w", s.path, err)
	}
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if data, err := rawfile.Read(s.path); err != nil || !bytes.Equal(data, last) {
		return errChanged // meanwhile
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event := <-watcher.Events:
			if event.Name == s.path {
				return errChanged
			}
		case err := <-watcher.Errors:
			return fmt.Errorf("watch %s: %w", s.path, err)
		}
	}
}

// Announce writes nothing: a file has no signs of life. It only waits for ctx to end.
func (s *fileStore) Announce(ctx context.Context, _ string, _ []byte, given func()) error {
	given()
	<-ctx.Done()
	return ctx.Err()
}
