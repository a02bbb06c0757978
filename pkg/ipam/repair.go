package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// repairs are the changes that make index and leases agree, and the state afterwards.
type repairs struct {
	taken   []netip.Addr              // all addresses that are not free
	owners  map[cni.Owner]ownerRecord // the records of all owners
	problem []Problem

	dropFiles   []netip.Addr
	dropRecords []string
	write       []ownerRecord

	nameless bool
	host     record.Host
}

// Problem is an inconsistency in the network's directory.
type Problem struct {
	File string // relative to the network's directory
	What string
}

// String shows the problem as "file: what".
func (p Problem) String() string { return p.File + ": " + p.What }

func (m *repairs) dropFile(a netip.Addr, why string) {
	m.dropFiles = append(m.dropFiles, a)
	m.problem = append(m.problem, Problem{a.String(), why})
}

func (m *repairs) note(name, format string, args ...any) {
	m.problem = append(m.problem, Problem{indexDir + "/" + name, fmt.Sprintf(format, args...)})
}

// planRepairs plans how index and leases are made to agree. last is the index's header, zero
// if it could not be read.
//
// It removes leases whose record is of an earlier boot of this machine, and those whose record
// was truncated when that boot ended. A record that is inconsistent with the leases of its
// owner is replaced by one that has only the addresses.
func (s snapshot) planRepairs(host record.Host, last header) repairs {
	m := repairs{owners: map[cni.Owner]ownerRecord{}, host: host}
	dead := s.dead(host, last)
	held := map[cni.Owner][]netip.Addr{}
	for a, f := range s.files {
		switch {
		case f.kind == leaseGarbage:
			m.dropFile(a, "empty or truncated")
		case dead[a]:
			m.dropFile(a, "a lease of an earlier boot")
		case f.kind == leaseHeld:
			held[f.owner] = append(held[f.owner], a)
			fallthrough
		default:
			m.taken = append(m.taken, a)
		}
	}
	s.planRecords(&m, held)
	m.sort()
	return m
}

// dead is the set of addresses whose leases are of an earlier boot.
func (s snapshot) dead(host record.Host, last header) map[netip.Addr]bool {
	dead := map[netip.Addr]bool{}
	for _, r := range s.records {
		if !host.Outlived(r.Stamp) {
			continue
		}
		for _, a := range r.Addresses {
			f, ok := s.files[a]
			dead[a] = dead[a] || ok && f.owner == r.owner(s.network) && f.tiedTo(r)
		}
	}
	for a, f := range s.files {
		lost := record.Stamp{Boot: last.Boot, Machine: last.Machine, Time: time.Unix(f.time.Unix())}
		if f.kind == leaseHeld && slices.Contains(s.damaged, recordName(f.owner)) && host.Outlived(lost) {
			dead[a] = true
		}
	}
	return dead
}

// planRecords plans a record for each owner that has leases, and removes all others.
func (s snapshot) planRecords(m *repairs, held map[cni.Owner][]netip.Addr) {
	for o, addresses := range held {
		name := recordName(o)
		have, ok := s.records[name]
		want := s.recordFor(o, addresses, have)
		m.owners[o] = want
		m.nameless = m.nameless || o.IfName == ""
		if ok && !have.equal(want) {
			m.note(name, "does not agree with the leases of %s", o)
		}
		if want.Boot == m.host.Boot && want.Machine == "" { // by a release that wrote no machine
			want.Machine = m.host.Machine
			m.owners[o] = want
		}
		if !ok || !have.equal(want) {
			m.write = append(m.write, want)
		}
	}
	for name, r := range s.records {
		if o := r.owner(s.network); len(held[o]) == 0 {
			m.dropRecords = append(m.dropRecords, name)
			m.note(name, "%s has no lease", o)
		}
	}
	for _, name := range s.damaged {
		m.dropRecords = append(m.dropRecords, name)
		m.note(name, "empty or truncated")
	}
}

// recordFor is the record of an owner that has these addresses and had the record have.
func (s snapshot) recordFor(o cni.Owner, addresses []netip.Addr, have ownerRecord) ownerRecord {
	slices.SortFunc(addresses, netip.Addr.Compare)
	plain := ownerRecord{ContainerID: o.ContainerID, IfName: o.IfName, Addresses: addresses}
	for _, a := range addresses {
		if !slices.Contains(have.Addresses, a) || !s.files[a].tiedTo(have) {
			return plain
		}
	}
	have.Addresses = slices.DeleteFunc(slices.Clone(have.Addresses), func(a netip.Addr) bool { return !slices.Contains(addresses, a) })
	return have
}

// sort makes the plan deterministic.
func (m *repairs) sort() {
	slices.SortFunc(m.taken, netip.Addr.Compare)
	slices.SortFunc(m.dropFiles, netip.Addr.Compare)
	slices.Sort(m.dropRecords)
	slices.SortFunc(m.write, func(a, b ownerRecord) int {
		return cmp.Or(strings.Compare(a.ContainerID, b.ContainerID), strings.Compare(a.IfName, b.IfName))
	})
	slices.SortFunc(m.problem, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
}
