// Package inventory reads the state of the host and joins it by owner: which networks
// there are, which containers are attached to them, with which addresses, links, ports
// and rules, and whether they are alive. It changes nothing, holds a lock no longer than
// it reads, and returns plain data for commands to show.
//
// Start at Source.Take. It does not read what is expensive for a thousand attachments (the
// inside of namespaces, rules of iptables, conntrack); commands read that for the container in
// question.
package inventory

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/pkg/ipam"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Source has the paths that are read. Links and rules are read in the caller's network
// namespace.
type Source struct {
	Lists   []string // directories of network lists
	Results string   // libcni's cache: a file for each attachment
	Leases  string   // host-local's default directory
	Records string   // Trestle's records
	// Node is trestle-node's status file, and NodeSettings its configuration, which says that the
	// host should run it.
	Node, NodeSettings string
}

// DefaultSource has the paths that runtimes and plugins use by default.
func DefaultSource() Source {
	return Source{
		Lists:   []string{network.DefaultDir},
		Results: libcni.CacheDir + "/results",
		Leases:  ipam.DefaultDataDir,
		Records: record.DefaultDir,

		Node:         hosts.StatusPath,
		NodeSettings: hosts.SettingsPath,
	}
}

// Snapshot is the host at one moment.
type Snapshot struct {
	Time        time.Time    `json:"time"`
	Networks    []Network    `json:"networks"`
	Attachments []Attachment `json:"attachments"`
	// Links are all links of the host's namespace, not only those of networks.
	Links  []Link  `json:"links"`
	Routes []Route `json:"routes"`
	// Elements are the elements of Trestle's nftables tables, each with its owner.
	Elements []Element `json:"elements"`
	// Node is the host's part in networks over several hosts; nil if it has none.
	Node *Node `json:"node,omitempty"`
	// Problems say what could not be read; everything else is correct.
	Problems []string `json:"problems,omitempty"`
	// denied are those of Problems that this user may not read.
	denied map[string]bool
}

// IsDenied says that a problem is only that this user may not read something.
func (s *Snapshot) IsDenied(problem string) bool { return s.denied[problem] }

// Network is a network with a list, or one without of which leases, records or links are left.
type Network struct {
	Name string `json:"name"`
	// File is the list's file; "" if there is none any more.
	File       string `json:"file,omitempty"`
	CNIVersion string `json:"cniVersion,omitempty"`
	// Created is when "network create" wrote the list; zero for other lists.
	Created time.Time         `json:"created,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`
	Plugins []string          `json:"plugins,omitempty"`
	// Driver is the type of the first plugin.
	Driver        string `json:"driver,omitempty"`
	Bridge        string `json:"bridge,omitempty"`
	MTU           int    `json:"mtu,omitempty"`
	Masquerade    bool   `json:"masquerade"`
	Gateway       bool   `json:"gateway"`
	Ports         bool   `json:"ports"`
	Internal      bool   `json:"internal"`
	IngressPolicy string `json:"ingressPolicy,omitempty"`
	IPAM          string `json:"ipam,omitempty"`
	DataDir       string `json:"dataDir,omitempty"`
	Pools         []Pool `json:"pools,omitempty"`
	// Reserved are addresses that a person took out of the pools by a lease file that
	// names no container.
	Reserved []netip.Addr `json:"reserved,omitempty"`
	// Faults are inconsistencies in its lease files.
	Faults []ipam.Problem `json:"-"`
	// Attachments counts all attachments, Dead those that are proved dead.
	Attachments int `json:"attachments"`
	Dead        int `json:"dead"`
}

// PoolSets are the network's pools by range set. A container gets one address of each set, so none
// can be attached once all pools of one set are full.
func (n Network) PoolSets() []PoolSet {
	var sets []PoolSet
	for i, p := range n.Pools {
		if i == 0 || p.Set != n.Pools[i-1].Set {
			sets = append(sets, nil)
		}
		sets[len(sets)-1] = append(sets[len(sets)-1], p)
	}
	return sets
}

// PoolSet is the pools of one range set.
type PoolSet []Pool

// Size is the number of addresses that can be leased; math.MaxUint64 stands for more.
func (s PoolSet) Size() uint64 {
	var size uint64
	for _, p := range s {
		size += min(p.Size, math.MaxUint64-size)
	}
	return size
}

// InUse is the number of addresses that an ADD could not lease. A dead container's is not one of
// them: an ADD that finds the set full reclaims it.
func (s PoolSet) InUse() uint64 {
	var n uint64
	for _, p := range s {
		n += p.Used - min(p.Dead, p.Used)
	}
	return n
}

// Full says that an ADD finds no address in the set.
func (s PoolSet) Full() bool { return s.Size() > 0 && s.InUse() >= s.Size() }

// Pool is one range of addresses and its use.
type Pool struct {
	// Set is the number of the range set that it belongs to, from 0. Those of one set are beside
	// each other.
	Set     int          `json:"set"`
	Subnet  netip.Prefix `json:"subnet"`
	First   netip.Addr   `json:"first"`
	Last    netip.Addr   `json:"last"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	// Size is the number of addresses that can be leased; math.MaxUint64 stands for more.
	Size uint64 `json:"size"`
	Used uint64 `json:"used"`
	// Dead counts those of Used that an ADD reclaims when the pool is full.
	Dead uint64 `json:"dead"`
	// Unread says that the leases could not be read, so that Used and Dead are not known.
	Unread bool `json:"unread,omitempty"`
	// Range is the same range as pkg/ipam has it.
	Range ipam.Range `json:"-"`
}

// Free is the number of addresses that are not leased.
func (p Pool) Free() uint64 { return p.Size - min(p.Used, p.Size) }

// State says whether the container of an attachment is alive.
type State string

// The states. Unknown is what cannot be proved either way; it counts as in use.
const (
	Unknown State = "unknown"
	Alive   State = "alive"
	Dead    State = "dead"
)

// Attachment is one interface of one container on a network, joined from leases, links,
// records and the runtimes' cache.
type Attachment struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	// IfName is the interface in the container; empty in leases of host-local before 0.8.
	IfName string `json:"ifname"`
	// Pod is "namespace/name" under Kubernetes; Name is what another runtime calls the
	// container.
	Pod  string `json:"pod,omitempty"`
	Name string `json:"name,omitempty"`

	NetNS string    `json:"netns,omitempty"` // the path that the runtime gave
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"`

	Addresses []netip.Addr `json:"addresses"` // never nil
	// MAC is the container's, if the runtime's cache has it.
	MAC string `json:"mac,omitempty"`
	// HostLink is the host veth, and Bridge the bridge that it is a port of; empty if
	// there is no such link.
	HostLink string `json:"hostLink,omitempty"`
	Bridge   string `json:"bridge,omitempty"`
	Ports    []Port `json:"ports,omitempty"`
	// Traffic is counted from the container's side.
	Traffic Traffic `json:"traffic"`

	// ByTrestle says that Trestle made it rather than another suite.
	ByTrestle bool `json:"byTrestle"`
	// Masquerade is the backend of its masquerade, by Trestle's records.
	Masquerade string `json:"masquerade,omitempty"`
	// Evidence says where the attachment was found.
	Evidence Evidence `json:"evidence"`
}

// Called is the name for people: the pod, the container's name, or the beginning of an id
// of 64 hex digits.
func (a Attachment) Called() string {
	switch {
	case a.Pod != "":
		return a.Pod
	case a.Name != "":
		return a.Name
	case len(a.Container) == 64:
		return a.Container[:12]
	}
	return a.Container
}

// Evidence says where an attachment was found. A complete one has everything that its
// network's plugins make.
type Evidence struct {
	Lease  bool `json:"lease"`
	Record bool `json:"record"` // of NAT
	Link   bool `json:"link"`
	Cache  bool `json:"cache"` // a result in libcni's cache
}

// Port is a mapped host port.
type Port struct {
	Protocol string `json:"protocol"`
	// Host has an unspecified address if the port is mapped on all of the host's.
	Host      netip.AddrPort `json:"host"`
	Container netip.AddrPort `json:"container"`
	// Backend has the rule, "nftables" or "iptables"; empty if only the runtime's cache
	// names the port.
	Backend string `json:"backend,omitempty"`
}

// Traffic is what an interface has transferred since it was created.
type Traffic struct {
	RxBytes   uint64 `json:"rxBytes"`
	TxBytes   uint64 `json:"txBytes"`
	RxPackets uint64 `json:"rxPackets"`
	TxPackets uint64 `json:"txPackets"`
	RxDropped uint64 `json:"rxDropped"`
	TxDropped uint64 `json:"txDropped"`
}

// Element is an element of a set or map in one of Trestle's tables.
type Element struct {
	Table string `json:"table"` // "inet trestle"
	Set   string `json:"set"`
	// Owner is the label of an attachment ("network/container/ifname"), or of a network.
	Owner string `json:"owner"`
}

// NetworkOf is the network with that name.
func (s *Snapshot) NetworkOf(name string) (*Network, bool) {
	i := slices.IndexFunc(s.Networks, func(n Network) bool { return n.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Networks[i], true
}

// LinkOf is the link with that name.
func (s *Snapshot) LinkOf(name string) (*Link, bool) {
	i := slices.IndexFunc(s.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Links[i], true
}

// GatewayLink is the interface by which the host reaches the containers on a bridge: the one
// with such an address that is a VLAN interface over the bridge, as Trestle makes it for a network
// in a VLAN, or whose veth peer is a port of the bridge, as the reference plugin does; or else the
// bridge.
func (s *Snapshot) GatewayLink(bridge string, such func(netip.Prefix) bool) string {
	b, ok := s.LinkOf(bridge)
	for _, l := range s.Links {
		if ok && l.PeerNetNS < 0 && (l.VLAN != 0 && l.Peer == b.Index || s.leadsTo(l, bridge)) && slices.ContainsFunc(l.Addresses, such) {
			return l.Name
		}
	}
	return bridge
}

// leadsTo says whether the link is a veth whose peer, on the host too, is a port of the bridge.
func (s *Snapshot) leadsTo(l Link, bridge string) bool {
	return l.Kind == "veth" && slices.ContainsFunc(s.Links, func(peer Link) bool { return peer.Index == l.Peer && peer.Master == bridge })
}

// On are the attachments to a network.
func (s *Snapshot) On(name string) []Attachment {
	var on []Attachment
	for _, a := range s.Attachments {
		if a.Network == name {
			on = append(on, a)
		}
	}
	return on
}

// Of returns the attachments of a container, given by id, name, pod ("namespace/name" or
// the name), path of its namespace, or address; or else those of all containers whose id begins
// with the argument.
func (s *Snapshot) Of(container string) []Attachment {
	var of, begin []Attachment
	for _, a := range s.Attachments {
		_, podName, _ := strings.Cut(a.Pod, "/")
		named := slices.Contains([]string{a.Container, a.Name, a.Pod, podName, a.NetNS}, container) && container != ""
		address, err := netip.ParseAddr(container)
		switch {
		case named || err == nil && slices.Contains(a.Addresses, address.Unmap()):
			of = append(of, a)
		case container != "" && strings.HasPrefix(a.Container, container):
			begin = append(begin, a)
		}
	}
	if len(of) == 0 {
		return begin
	}
	return of
}
