package nat

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Protocol is what has ports.
type Protocol string

// The protocols that can be mapped.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// number is the protocol's in IP headers (IANA, Assigned Internet Protocol Numbers).
func (p Protocol) number() byte {
	return map[Protocol]byte{TCP: 6, UDP: 17, SCTP: 132}[p]
}

// Mapping leads one port of the host to one of a container.
type Mapping struct {
	Protocol Protocol
	// Host is where it is reached. The unspecified address of a family is any
	// address of the host in that family.
	Host netip.AddrPort
	// Container is of the same family.
	Container netip.AddrPort
}

func (m Mapping) String() string {
	return fmt.Sprintf("%s %s to %s", m.Protocol, m.Host, m.Container)
}

// anyHost says whether the mapping is for every address of the host.
func (m Mapping) anyHost() bool { return m.Host.Addr().IsUnspecified() }

// Ports is what a container has mapped, and how.
type Ports struct {
	Mappings []Mapping
	// Subnets are the container's addresses with the lengths of their subnets.
	Subnets []netip.Prefix
	// Bridge is the host's interface by which 127.0.0.1 gets to the container;
	// AddPorts asks the kernel's routes for it.
	Bridge string
	// HostLinks are the host's ends of the attachment; AddPorts lets the bridge
	// send back by the port that a frame came from where br_netfilter wants that.
	HostLinks []string
	PortOptions
}

// AddPorts maps the owner's ports. A port that another container holds is an
// error with code 102 that names it; nothing is changed then. One that the same
// container holds by another network stays with that one. It may be called
// again, also with other ports.
func (h *Host) AddPorts(owner cni.Owner, p Ports) error {
	if len(p.Mappings) == 0 {
		return h.ReleasePorts(owner)
	}
	backend, err := h.wanted()
	if err != nil {
		return err
	}
	if err := p.fits(backend); err != nil {
		return err
	}
	if p.Bridge, err = loopbackBridge(p); err != nil {
		return err
	}
	return h.locked(func() error { return h.addForward(backend, Forward{owner, p}) })
}

// addForward runs under the lock.
func (h *Host) addForward(backend Backend, f Forward) (err error) {
	r := h.records(backend)
	k, err := h.kernel(backend)
	if err != nil {
		return err
	}
	if f.Mappings, err = h.claims().free(f); err != nil {
		return err
	}
	if err := h.releaseOther(backend, f); err != nil || len(f.Mappings) == 0 {
		return err
	}
	var undo cni.Undo
	defer undo.OnError(&err)
	undo.Push("forget what was to be mapped", func() error { return h.forget(r, f.Owner, f, portsOnly) })
	if err := r.addForward(f); err != nil {
		return err
	}
	if err := h.claims().take(r, f); err != nil {
		return err
	}
	if err := k.add(f.rules()); err != nil {
		return err
	}
	undo.Push("release what was mapped", func() error { return h.release(backend, f.Owner, portsOnly) })
	if err := h.openLoopback(f.Bridge); err != nil {
		return err
	}
	if err := letHairpin(f); err != nil {
		return err
	}
	return forgetFlows(f.Mappings, staleAtAdd)
}

// releaseOther releases what the owner had mapped otherwise, or by the other
// backend, by an ADD of which there was no DEL.
func (h *Host) releaseOther(backend Backend, f Forward) error {
	for _, b := range []Backend{NFTables, IPTables} {
		had, whole, err := h.records(b).forward(f.Owner)
		if err != nil {
			return err
		}
		if !whole || b == backend && reflect.DeepEqual(had, f) {
			continue
		}
		if err := h.release(b, f.Owner, portsOnly); err != nil {
			return err
		}
	}
	return nil
}

// CheckPorts says what is not as AddPorts(owner, p) leaves it.
func (h *Host) CheckPorts(owner cni.Owner, p Ports) ([]string, error) {
	backend, err := h.wanted()
	if err != nil || len(p.Mappings) == 0 {
		return nil, err
	}
	k, err := h.kernel(backend)
	if err != nil {
		return nil, err
	}
	var diffs []string
	for _, m := range p.Mappings {
		diff, err := h.claims().difference(h.records(backend), owner, m)
		if err != nil {
			return nil, err
		}
		diffs = append(diffs, diff...)
	}
	had, whole, err := h.records(backend).forward(owner)
	if err != nil || !whole {
		return diffs, err // the claims lead to the record
	}
	lost, err := k.differences(had.rules())
	if err != nil {
		return nil, err
	}
	closed, err := loopbackDifference(had.Bridge)
	return slices.Concat(diffs, lost, closed), err
}

func (r records) ports(network string) string { return filepath.Join(r.network(network), "ports") }

func (r records) forwardFile(o cni.Owner) string { return filepath.Join(r.ports(o.Network), key(o)) }

// forward reads what the owner has mapped; whole is false where there is no
// record, or one that an ADD was killed over before it made anything.
func (r records) forward(o cni.Owner) (f Forward, whole bool, err error) {
	whole, err = read(r.forwardFile(o), &f)
	return f, whole, err
}

// addForward records the mappings, and their part in what others need too.
func (r records) addForward(f Forward) error {
	if err := write(r.forwardFile(f.Owner), f); err != nil {
		return err
	}
	for _, dir := range r.sharedBy(f) {
		if err := write(filepath.Join(dir, key(f.Owner)), ownerRecord{f.Owner}); err != nil {
			return err
		}
	}
	return nil
}

// sharedBy are the directories of the rules that f shares with others; each
// holds one file for each owner that needs the rule.
func (r records) sharedBy(f Forward) []string {
	var dirs []string
	for _, subnet := range f.rules().Hairpins {
		dirs = append(dirs, r.hairpin(subnet))
	}
	for _, bridge := range f.rules().Bridges {
		dirs = append(dirs, r.bridge(bridge))
	}
	return dirs
}

func (r records) hairpin(subnet netip.Prefix) string {
	return filepath.Join(r.dir, "hairpins", fmt.Sprintf("%s-%d", subnet.Addr(), subnet.Bits()))
}

func (r records) bridge(name string) string { return filepath.Join(r.dir, "bridges", name) }
