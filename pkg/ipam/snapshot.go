package ipam

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// snapshot is the content of the network's directory: the files of the leases, which are the
// truth, and the index.
type snapshot struct {
	network string
	files   map[netip.Addr]leaseFile
	records map[string]ownerRecord // by file name
	damaged []string               // the names of truncated records
	blocks  []string               // the names of the bitmap's blocks
}

type leaseFile struct {
	kind  leaseKind
	owner cni.Owner
	time  unix.Timespec
}

// tiedTo says whether the file was written together with the record.
func (f leaseFile) tiedTo(r ownerRecord) bool {
	return r.ours() && isSecond(f.time, r.Time.Unix())
}

// isOf says whether the lease is that of the owner, whose record has its address. host-local
// before 0.8, which wrote no interface name, may have replaced the file.
func (f leaseFile) isOf(o cni.Owner) bool {
	return f.owner == o || f.kind == leaseHeld && f.owner.IfName == "" && f.owner.ContainerID == o.ContainerID
}

// readLease reads the lease of one address; ok is false if there is none.
func readLease(net dir, network string, a netip.Addr) (f leaseFile, ok bool, err error) {
	data, stat, err := net.readStat(a.String(), make([]byte, leaseMax))
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

// takeSnapshot reads everything. If there is no index, own.fd is negative.
func takeSnapshot(net, own dir, network string) (snapshot, error) {
	s := snapshot{network: network, files: map[netip.Addr]leaseFile{}, records: map[string]ownerRecord{}}
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

func (s *snapshot) readIndex(own dir) error {
	names, err := own.names()
	if err != nil {
		return err
	}
	s.blocks = slices.DeleteFunc(names, func(name string) bool { return !isBlockName(name) })
	records, damaged, err := readRecords(own, s.network, nil)
	for _, r := range records {
		s.records[recordName(r.owner(s.network))] = r
	}
	s.damaged = damaged
	return err
}

// readRecords reads all records except those with a kept name; damaged are the names of those
// that cannot be decoded.
func readRecords(own dir, network string, kept map[string]bool) (all []ownerRecord, damaged []string, err error) {
	names, err := own.names()
	if err != nil {
		return nil, nil, err
	}
	file := recordReader{own, network, json.Unmarshal, make([]byte, recordMax)}
	for _, name := range names {
		if !strings.HasPrefix(name, recordPrefix) || kept[name] {
			continue
		}
		r, ok, err := file.read(name)
		switch {
		case errors.Is(err, unix.ENOENT): // removed meanwhile
		case err != nil:
			return nil, nil, err
		case ok:
			all = append(all, r)
		default:
			damaged = append(damaged, name)
		}
	}
	return all, damaged, nil
}

// recordReader reads records of a network from the index's directory: one by cni.UnmarshalOnce, or
// many by the library.
type recordReader struct {
	own       dir
	network   string
	unmarshal func(data []byte, v any) error
	buf       []byte
}

// readRecord reads the owner's record, as recordReader.read does.
func readRecord(own dir, o cni.Owner) (r ownerRecord, ok bool, err error) {
	return recordReader{own, o.Network, cni.UnmarshalOnce, make([]byte, recordMax)}.read(recordName(o))
}

// read reads one record; ok is false if it cannot be decoded. If there is none, the error is
// ENOENT.
func (f recordReader) read(name string) (r ownerRecord, ok bool, err error) {
	data, err := f.own.read(name, f.buf)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENXIO) {
		return ownerRecord{}, false, nil
	}
	if err != nil {
		return ownerRecord{}, false, err
	}
	r, ok = decodeRecord(f.network, name, data, f.unmarshal)
	return r, ok, nil
}
