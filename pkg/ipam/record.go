package ipam

import (
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// ownerRecord has the addresses of one owner, and the stamp that can prove it dead. The stamp
// is empty if somebody else wrote the leases; then nothing can be proved. The files of the
// leases have the stamp's time as modification time, which ties them to the record: a file
// that host-local has written since for the same owner has another time.
type ownerRecord struct {
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifname"`
	Addresses   []netip.Addr `json:"addresses"`
	// Take is a random number of the ADD that took the leases. A repeated ADD, which finds
	// them there, keeps it.
	Take uint32 `json:"take,omitempty"`
	// Again counts the repeated ADDs. The leases are released only when all of the ADDs are
	// undone.
	Again int `json:"again,omitempty"`
	// Caller is the process that executed the latest of these ADDs; zero if it was ours.
	Caller Process `json:"caller,omitzero"`
	record.Stamp
}

const (
	recordPrefix = "owner."
	recordMax    = 16 << 10 // a path has up to 4,096 bytes (PATH_MAX)
)

// recordName is the name of the owner's record.
func recordName(o cni.Owner) string { return recordPrefix + o.Hash(40) }

func (r ownerRecord) owner(network string) cni.Owner {
	return cni.Owner{Network: network, ContainerID: r.ContainerID, IfName: r.IfName}
}

// ours says whether the record has a stamp, so that its leases were written by us.
func (r ownerRecord) ours() bool { return r.Boot != "" }

func (r ownerRecord) equal(other ownerRecord) bool {
	return r.ContainerID == other.ContainerID && r.IfName == other.IfName && r.Equal(other.Stamp) &&
		r.Take == other.Take && r.Again == other.Again && r.Caller == other.Caller && slices.Equal(r.Addresses, other.Addresses)
}

func (r ownerRecord) encode() []byte {
	data, err := cni.MarshalOnce(r)
	if err != nil {
		panic(err) // impossible: strings, numbers, addresses, and a time whose year has four digits
	}
	return append(record.AddSum(data), '\n')
}

// decodeRecord reads the record with that file name; the second result is false if it is
// truncated, damaged or another's. It decodes by unmarshal: cni.UnmarshalOnce for one record,
// the library for many.
func decodeRecord(network, name string, data []byte, unmarshal func([]byte, any) error) (ownerRecord, bool) {
	var r ownerRecord
	if len(data) >= recordMax || !record.IsIntact(data) || unmarshal(data, &r) != nil {
		return ownerRecord{}, false
	}
	strange := slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool {
		_, ok := parseLeaseName(a.String()) // the zone of an address could contain a path
		return !ok
	})
	return r, !strange && recordName(r.owner(network)) == name
}
