package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"

	"github.com/trestle-cni/trestle/cmd/trestle/network"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/ipam"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Take reads the host. The error says that links, addresses or routes could not be read; its
// Problems say what else could not.
func (s Source) Take() (*Snapshot, error) {
	t := taking{
		source:   s,
		snapshot: &Snapshot{Time: time.Now(), denied: map[string]bool{}},
		byLabel:  map[string]*Attachment{},
		networks: map[string]*Network{},
	}
	if err := t.links(); err != nil {
		return nil, err
	}
	t.lists()
	t.results()
	t.leases()
	t.records()
	t.aliases()
	t.peers()
	t.elements()
	t.node()
	return t.finish(), nil
}

// taking is a snapshot under construction. Attachments are joined by their owners' labels,
// since links and elements have only the label.
type taking struct {
	source   Source
	snapshot *Snapshot
	byLabel  map[string]*Attachment
	order    []*Attachment
	networks map[string]*Network
	names    []string // of networks, in order
	probe    record.Prober
}

func (t *taking) problem(err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			t.problem(one)
		}
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !slices.Contains(t.snapshot.Problems, line) {
			t.snapshot.Problems = append(t.snapshot.Problems, line)
		}
		if errors.Is(err, os.ErrPermission) {
			t.snapshot.denied[line] = true
		}
	}
}

// at returns the attachment with that owner, and adds it if it is new.
func (t *taking) at(o cni.Owner) *Attachment {
	label := o.String()
	if a := t.byLabel[label]; a != nil {
		return a
	}
	a := &Attachment{Network: o.Network, Container: o.ContainerID, IfName: o.IfName, State: Unknown, Addresses: []netip.Addr{}}
	t.byLabel[label] = a
	t.order = append(t.order, a)
	t.network(o.Network)
	return a
}

// network returns the network with that name, and adds it if it is new.
func (t *taking) network(name string) *Network {
	if n := t.networks[name]; n != nil {
		return n
	}
	n := &Network{Name: name}
	t.networks[name] = n
	t.names = append(t.names, name)
	return n
}

// lists reads the network lists. Of two with one name the first counts, as it does for
// runtimes.
func (t *taking) lists() {
	lists, err := network.Read(t.source.Lists)
	t.problem(err)
	for _, list := range lists {
		n := t.network(list.Name)
		if n.File != "" {
			t.problem(fmt.Errorf("%s: network %q is also in %s, which runtimes use", list.File, list.Name, n.File))
			continue
		}
		facts, err := list.Facts()
		if err != nil {
			t.problem(fmt.Errorf("%s: %w", list.File, err))
		}
		*n = Network{
			Name: list.Name, File: list.File, CNIVersion: list.CNIVersion, Plugins: list.Types(),
			Driver: facts.Driver, Bridge: facts.Bridge, MTU: facts.MTU, Masquerade: facts.Masquerade, Gateway: facts.Gateway,
			Ports: facts.Ports, Internal: facts.Internal, IngressPolicy: facts.IngressPolicy, IPAM: facts.IPAM, DataDir: facts.DataDir,
		}
		if list.Mark != nil {
			n.Created, n.Labels = list.Mark.Created, list.Mark.Labels
		}
		n.Pools = poolsOf(facts.Sets)
	}
}

func poolsOf(sets []ipam.Set) []Pool {
	var pools []Pool
	for i, set := range sets {
		for _, r := range set {
			pools = append(pools, Pool{
				Set:     i,
				Subnet:  r.Subnet,
				First:   r.First,
				Last:    r.Last,
				Gateway: r.Gateway,
				Size:    r.Size(),
				Range:   r,
			})
		}
	}
	return pools
}

// leases reads the leases of each network that has a list or a directory of leases.
func (t *taking) leases() {
	entries, err := os.ReadDir(t.source.Leases)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.problem(fmt.Errorf("look for leases: %w", err))
		for _, name := range t.names {
			t.unread(t.source.Leases, name)
		}
	}
	for _, entry := range entries {
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			t.leasesIn(t.source.Leases, entry.Name())
		}
	}
	for _, name := range slices.Clone(t.names) {
		if dir := t.leaseDir(t.networks[name]); dir != t.source.Leases {
			t.leasesIn(dir, name)
		}
	}
}

// leaseDir is the directory in which an ADD on the network looks for leases.
func (t *taking) leaseDir(n *Network) string {
	if dir := filepath.Clean(n.DataDir); n.DataDir != "" && dir != ipam.DefaultDataDir {
		return dir
	}
	return t.source.Leases
}

// patience is how long to wait for a lock of leases; a longer holder is stuck.
const patience = 3 * time.Second

func (t *taking) leasesIn(dir, name string) {
	leases, faults, err := ipam.NewStore(dir, name, patience).Inspect()
	if err != nil {
		t.problem(fmt.Errorf("network %s: %w", name, err))
		t.unread(dir, name)
	}
	if len(leases)+len(faults) == 0 {
		return
	}
	n := t.network(name)
	n.Faults = faults
	for _, lease := range leases {
		if lease.Owner.ContainerID == "" {
			n.Reserved = append(n.Reserved, lease.Address)
			continue
		}
		a := t.at(t.withIfName(lease.Owner))
		a.Evidence.Lease = true
		a.addAddress(lease.Address)
		a.note(lease.NetNS, lease.Time)
		a.State = stateOf(lease.Life, a.State)
		a.ByTrestle = a.ByTrestle || !lease.Time.IsZero()
	}
	if dir != t.leaseDir(n) {
		return // of before its dataDir was changed: they take no address away
	}
	for i, use := range ipam.Count([]ipam.Set{rangesOf(n.Pools)}, leases) {
		n.Pools[i].Used += use.Used
		n.Pools[i].Dead += use.Dead
	}
}

func rangesOf(pools []Pool) ipam.Set {
	var set ipam.Set
	for _, p := range pools {
		set = append(set, p.Range)
	}
	return set
}

// unread notes that the network's leases in the directory could not be read.
func (t *taking) unread(dir, name string) {
	n := t.networks[name]
	if n == nil || dir != t.leaseDir(n) {
		return
	}
	for i := range n.Pools {
		n.Pools[i].Unread = true
	}
}

// withIfName completes the owner of a lease without an interface name, if the container
// has one attachment to the network.
func (t *taking) withIfName(o cni.Owner) cni.Owner {
	if o.IfName != "" {
		return o
	}
	for _, a := range t.order {
		if a.Network == o.Network && a.Container == o.ContainerID {
			o.IfName = a.IfName
		}
	}
	return o
}

// records reads NAT's records.
func (t *taking) records() {
	all, err := nat.List(record.Open(t.source.Records))
	t.problem(err)
	for _, r := range all {
		a := t.at(r.Owner)
		a.Evidence.Record, a.ByTrestle = true, true
		a.Masquerade = string(r.Masquerade)
		a.note(r.Stamp.NetNS.Path, r.Stamp.Time)
		if a.State == Unknown {
			life, err := t.probe.Life(r.Stamp)
			t.problem(err)
			a.State = stateOf(life, a.State)
		}
		if r.Released {
			a.State = Dead
		}
		if len(r.Mappings) > 0 {
			a.Ports = nil // the cache only has the ports that were asked for
		}
		for _, m := range r.Mappings {
			a.Ports = append(a.Ports, Port{
				Protocol:  string(m.Protocol),
				Host:      m.Host,
				Container: m.Container,
				Backend:   string(r.PortBackend),
			})
		}
	}
}

func stateOf(life record.Life, otherwise State) State {
	switch life {
	case record.Alive:
		return Alive
	case record.Dead:
		return Dead
	default:
		return otherwise
	}
}

// elements lists the elements of Trestle's nftables tables.
func (t *taking) elements() {
	conn := nft.Open("")
	for _, table := range []nft.Table{
		{Family: nftables.TableFamilyINet, Name: "trestle"}, {Family: nftables.TableFamilyBridge, Name: "trestle"},
	} {
		elements, err := conn.ListAll(table)
		t.problem(err)
		for _, e := range elements {
			t.snapshot.Elements = append(t.snapshot.Elements, Element{Table: table.String(), Set: e.Set, Owner: e.Owner})
		}
	}
	conn.Close()
}

// addAddress adds an address, unless the attachment has it.
func (a *Attachment) addAddress(address netip.Addr) {
	if address.IsValid() && !slices.Contains(a.Addresses, address) {
		a.Addresses = append(a.Addresses, address)
	}
}

// note sets the namespace, if none is known yet, and the earliest time.
func (a *Attachment) note(netns string, since time.Time) {
	if a.NetNS == "" {
		a.NetNS = netns
	}
	if !since.IsZero() && (a.Since.IsZero() || since.Before(a.Since)) {
		a.Since = since
	}
}

// finish sorts and counts. An attachment whose state is unknown is alive if its link exists,
// since the link's peer must be in some namespace, or if its path is still a network namespace.
func (t *taking) finish() *Snapshot {
	s := t.snapshot
	for _, a := range t.order {
		if a.State == Unknown && (a.Evidence.Link || a.NetNS != "" && cni.IsNetNSAt(a.NetNS)) {
			a.State = Alive
		}
		slices.SortFunc(a.Addresses, netip.Addr.Compare)
		slices.SortFunc(a.Ports, func(x, y Port) int {
			return cmp.Or(cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Host.Port(), y.Host.Port()), x.Host.Compare(y.Host))
		})
		n := t.networks[a.Network]
		n.Attachments++
		if a.State == Dead {
			n.Dead++
		}
		s.Attachments = append(s.Attachments, *a)
	}
	slices.SortFunc(s.Attachments, func(x, y Attachment) int {
		return cmp.Or(cmp.Compare(x.Network, y.Network), cmp.Compare(x.Container, y.Container), cmp.Compare(x.IfName, y.IfName))
	})
	slices.Sort(t.names)
	for _, name := range t.names {
		s.Networks = append(s.Networks, *t.networks[name])
	}
	return s
}
