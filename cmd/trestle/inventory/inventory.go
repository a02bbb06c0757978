// Package inventory takes one look at the host and joins what it finds by owner: which
// networks there are, who is attached to them, with which addresses, links, ports and
// rules, and whether they are alive. It changes nothing, takes no lock for longer than
// it reads, and prints nothing: what it gives is plain data, for views.
//
// Start at Source.Take. What is not to be had in one look at a thousand attachments (the
// inside of namespaces, rules of iptables, conntrack) is not here: who needs it asks for
// the container in question.
package inventory

import (
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

// Source says where on the host things are kept. Links and rules are those of the
// caller's network namespace.
type Source struct {
	Lists   []string // directories of network lists
	Results string   // libcni's cache: a file for each attachment
	Leases  string   // host-local's default directory
	Records string   // Trestle's
	// Node is the status of trestle-node, and NodeSettings what says that there shall be one.
	Node, NodeSettings string
}

// DefaultSource is where runtimes and plugins keep things unless told otherwise.
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

// Snapshot is the host at one time.
type Snapshot struct {
	Time        time.Time    `json:"time"`
	Networks    []Network    `json:"networks"`
	Attachments []Attachment `json:"attachments"`
	// Links are all those of the host's namespace, not only of networks.
	Links  []Link  `json:"links"`
	Routes []Route `json:"routes"`
	// Elements are what Trestle's tables of nftables hold, each with its owner.
	Elements []Element `json:"elements"`
	// Node is the host's part in networks over several hosts; nil where it has none.
	Node *Node `json:"node,omitempty"`
	// Problems say what could not be read; the rest is right.
	Problems []string `json:"problems,omitempty"`
}

// Network is a network list, or a network of which only leases, records or links are
// left.
type Network struct {
	Name string `json:"name"`
	// File is where the list stands; empty where there is none any more.
	File       string `json:"file,omitempty"`
	CNIVersion string `json:"cniVersion,omitempty"`
	// Created is when network create made it, zero for any other.
	Created time.Time         `json:"created,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`
	Plugins []string          `json:"plugins,omitempty"`
	// Driver is the first of the plugins.
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
	// Reserved are addresses that a person took out of the pools by a file of host-local's
	// that names no container.
	Reserved []netip.Addr `json:"reserved,omitempty"`
	// Faults are what is wrong with the files of its leases.
	Faults []ipam.Problem `json:"-"`
	// Attachments is how many there are, Dead how many of them are proved dead.
	Attachments int `json:"attachments"`
	Dead        int `json:"dead"`
}

// Pool is one range of addresses, and how much of it is taken.
type Pool struct {
	Subnet  netip.Prefix `json:"subnet"`
	First   netip.Addr   `json:"first"`
	Last    netip.Addr   `json:"last"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	// Size counts what can be leased at all; math.MaxUint64 stands for more.
	Size uint64 `json:"size"`
	Used uint64 `json:"used"`
	// Dead are those of Used that the next one who finds the pool full may take.
	Dead uint64 `json:"dead"`
	// Range is the same for who asks of single addresses.
	Range ipam.Range `json:"-"`
}

// Free is how many addresses can still be leased.
func (p Pool) Free() uint64 { return p.Size - min(p.Used, p.Size) }

// State is whether a container's network namespace is there.
type State string

// The states. What has no proof either way is Unknown, and in use until there is one.
const (
	Unknown State = "unknown"
	Alive   State = "alive"
	Dead    State = "dead"
)

// Attachment is one interface of one container on a network, joined from all that
// names it.
type Attachment struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	// IfName is the interface in the container; empty in leases of host-local before 0.8.
	IfName string `json:"ifname"`
	// Pod is "namespace/name" where the runtime is Kubernetes', and Name what else a
	// runtime calls the container.
	Pod  string `json:"pod,omitempty"`
	Name string `json:"name,omitempty"`

	NetNS string    `json:"netns,omitempty"` // the path that the runtime gave
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"`

	Addresses []netip.Addr `json:"addresses"` // never nil
	// MAC is the container's, where the runtime's cache has it.
	MAC string `json:"mac,omitempty"`
	// HostLink is the host's end of the interface, and Bridge what it is a port of;
	// empty where there is no such link.
	HostLink string `json:"hostLink,omitempty"`
	Bridge   string `json:"bridge,omitempty"`
	Ports    []Port `json:"ports,omitempty"`
	// Traffic is as the container sees it.
	Traffic Traffic `json:"traffic"`

	// ByTrestle says that Trestle made it; another suite did otherwise.
	ByTrestle bool `json:"byTrestle"`
	// Masquerade is the backend that has its masquerade, by Trestle's records.
	Masquerade string `json:"masquerade,omitempty"`
	// Evidence is what names the attachment.
	Evidence Evidence `json:"evidence"`
}

// Called is what people call the container: its pod, its name, or the beginning of its
// id, where that is as long as runtimes make them (64 hex digits).
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

// Evidence is where an attachment was found. One that is alive and whole has all that
// its network's plugins make.
type Evidence struct {
	Lease  bool `json:"lease"`
	Record bool `json:"record"` // of NAT
	Link   bool `json:"link"`
	Cache  bool `json:"cache"` // a runtime's: libcni's result
}

// Port is a mapped host port.
type Port struct {
	Protocol string `json:"protocol"`
	// Host has an unspecified address where the port is on each of the host's.
	Host      netip.AddrPort `json:"host"`
	Container netip.AddrPort `json:"container"`
	// Backend has the rule, "nftables" or "iptables"; empty where only the runtime's cache
	// tells of the port.
	Backend string `json:"backend,omitempty"`
}

// Traffic is what passed an interface since it was made.
type Traffic struct {
	RxBytes   uint64 `json:"rxBytes"`
	TxBytes   uint64 `json:"txBytes"`
	RxPackets uint64 `json:"rxPackets"`
	TxPackets uint64 `json:"txPackets"`
	RxDropped uint64 `json:"rxDropped"`
	TxDropped uint64 `json:"txDropped"`
}

// Element is an element or entry of one of Trestle's tables of nftables.
type Element struct {
	Table string `json:"table"` // "inet trestle"
	Set   string `json:"set"`
	// Owner is the label of an attachment ("network/container/ifname"), or of a network.
	Owner string `json:"owner"`
}

// NetworkOf is the network of that name.
func (s *Snapshot) NetworkOf(name string) (*Network, bool) {
	i := slices.IndexFunc(s.Networks, func(n Network) bool { return n.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Networks[i], true
}

// LinkOf is the link of that name.
func (s *Snapshot) LinkOf(name string) (*Link, bool) {
	i := slices.IndexFunc(s.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Links[i], true
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

// Of are the attachments of a container, by its id, its name, its pod ("namespace/name"
// or the name), its namespace's path or an address; else those of all containers whose
// id begins so.
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
