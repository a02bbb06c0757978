package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// survey is all that the directory holds: the truth (the leases' files) and the
// index beside it.
type survey struct {
	network string
	files   map[netip.Addr]leaseFile
	records map[string]record // by name
	torn    []string          // records that cannot be read
	blocks  []string          // names of the bitmap's blocks
}

type leaseFile struct {
	kind  leaseKind
	owner cni.Owner
	time  unix.Timespec
}

// tiedTo says whether the file was written together with the record.
func (f leaseFile) tiedTo(r record) bool {
	return r.ours() && f.time.Sec == r.Time.Unix() && f.time.Nsec == 0
}

// readLease reads the lease of one address; ok is false where nobody has it.
func readLease(net dir, network string, a netip.Addr) (f leaseFile, ok bool, err error) {
	data, stat, err := net.readStat(a.String(), leaseMax)
	switch {
	case errors.Is(err, unix.ENOENT):
		return f, false, nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO): // a link, a directory, a socket
		return leaseFile{kind: leaseOdd, owner: cni.Owner{Network: network}}, true, nil
	case err != nil:
		return f, false, err
	}
	f.owner, f.kind = parseLease(network, data)
	f.time = stat.Mtim
	return f, true, nil
}

// takeSurvey reads everything. Without an index of ours, own.fd is negative.
func takeSurvey(net, own dir, network string) (survey, error) {
	s := survey{network: network, files: map[netip.Addr]leaseFile{}, records: map[string]record{}}
	names, err := net.names()
	if err != nil {
		return s, err
	}
	for _, name := range names {
		a, isLease := parseLeaseName(name)
		if !isLease {
			continue
		}
		f, ok, err := readLease(net, network, a)
		if err != nil {
			return s, err
		}
		if ok {
			s.files[a] = f
		}
	}
	if own.fd < 0 {
		return s, nil
	}
	return s, s.readIndex(own)
}

func (s *survey) readIndex(own dir) error {
	names, err := own.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case isBlockName(name):
			s.blocks = append(s.blocks, name)
		case strings.HasPrefix(name, recordPrefix):
			r, ok, err := readRecord(own, s.network, name)
			if err != nil {
				return err
			}
			if ok {
				s.records[name] = r
			} else {
				s.torn = append(s.torn, name)
			}
		}
	}
	return nil
}

// readRecord reads one record; ok is false where it cannot be understood. The
// error is ENOENT where there is none.
func readRecord(own dir, network, name string) (r record, ok bool, err error) {
	data, err := own.read(name, recordMax)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENXIO) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	r, ok = decodeRecord(network, name, data)
	return r, ok, nil
}

// mending is what makes index and leases agree, and the picture that results.
type mending struct {
	taken   []netip.Addr         // every address that is not free
	owners  map[cni.Owner]record // every owner's record
	problem []Problem

	dropFiles   []netip.Addr
	dropRecords []string
	write       []record

	nameless bool
}

// Problem is something in the directory that is not as it should be.
type Problem struct {
	File string // relative to the network's directory
	What string
}

// String shows the problem as "file: what".
func (p Problem) String() string { return p.File + ": " + p.What }

func (m *mending) dropFile(a netip.Addr, why string) {
	m.dropFiles = append(m.dropFiles, a)
	m.problem = append(m.problem, Problem{a.String(), why})
}

func (m *mending) note(name, format string, args ...any) {
	m.problem = append(m.problem, Problem{indexDir + "/" + name, fmt.Sprintf(format, args...)})
}

// mend plans the repair. boot is this boot's id, lastBoot that of the index, if
// it had a header that could be read.
//
// Leases that say that they are of another boot go; so do those whose record
// was torn when that boot ended. A record that does not agree with the leases of
// its owner gives way to one that claims to know nothing but the addresses.
func (s survey) mend(boot, lastBoot string) mending {
	m := mending{owners: map[cni.Owner]record{}}
	dead := s.dead(boot, lastBoot)
	held := map[cni.Owner][]netip.Addr{}
	for a, f := range s.files {
		switch {
		case f.kind == leaseGarbage:
			m.dropFile(a, "empty or torn")
		case dead[a]:
			m.dropFile(a, "a lease of an earlier boot")
		case f.kind == leaseHeld:
			held[f.owner] = append(held[f.owner], a)
			fallthrough
		default:
			m.taken = append(m.taken, a)
		}
	}
	s.mendRecords(&m, held)
	m.sort()
	return m
}

// dead is the set of addresses whose leases are of an earlier boot.
func (s survey) dead(boot, lastBoot string) map[netip.Addr]bool {
	dead := map[netip.Addr]bool{}
	for _, r := range s.records {
		if !r.ours() || r.Boot == boot {
			continue
		}
		for _, a := range r.Addresses {
			f, ok := s.files[a]
			dead[a] = dead[a] || ok && f.owner == r.owner(s.network) && f.tiedTo(r)
		}
	}
	if lastBoot == "" || lastBoot == boot || len(s.torn) == 0 {
		return dead
	}
	for a, f := range s.files {
		if f.kind == leaseHeld && slices.Contains(s.torn, recordName(f.owner)) {
			dead[a] = true
		}
	}
	return dead
}

// mendRecords makes a record for each owner of what is held, and no other.
func (s survey) mendRecords(m *mending, held map[cni.Owner][]netip.Addr) {
	for o, addresses := range held {
		name := recordName(o)
		have, ok := s.records[name]
		want := s.recordFor(o, addresses, have)
		m.owners[o] = want
		m.nameless = m.nameless || o.IfName == ""
		if ok && have.equal(want) {
			continue
		}
		m.write = append(m.write, want)
		if ok {
			m.note(name, "does not agree with the leases of %s", o)
		}
	}
	for name, r := range s.records {
		if o := r.owner(s.network); len(held[o]) == 0 {
			m.dropRecords = append(m.dropRecords, name)
			m.note(name, "%s has no lease", o)
		}
	}
	for _, name := range s.torn {
		m.dropRecords = append(m.dropRecords, name)
		m.note(name, "empty or torn")
	}
}

// recordFor is the record of an owner who holds these addresses and had this one.
func (s survey) recordFor(o cni.Owner, addresses []netip.Addr, have record) record {
	slices.SortFunc(addresses, netip.Addr.Compare)
	foreign := record{ContainerID: o.ContainerID, IfName: o.IfName, Addresses: addresses}
	for _, a := range addresses {
		if !slices.Contains(have.Addresses, a) || !s.files[a].tiedTo(have) {
			return foreign
		}
	}
	have.Addresses = slices.DeleteFunc(slices.Clone(have.Addresses), func(a netip.Addr) bool { return !slices.Contains(addresses, a) })
	return have
}

// sort makes the plan the same each time.
func (m *mending) sort() {
	slices.SortFunc(m.taken, netip.Addr.Compare)
	slices.SortFunc(m.dropFiles, netip.Addr.Compare)
	slices.Sort(m.dropRecords)
	slices.SortFunc(m.write, func(a, b record) int {
		return cmp.Or(strings.Compare(a.ContainerID, b.ContainerID), strings.Compare(a.IfName, b.IfName))
	})
	slices.SortFunc(m.problem, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
}
