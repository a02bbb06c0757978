package ipam

import (
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// ownerRecord is what we know of one owner beyond its leases' files: which addresses
// those are, and what proves that it is dead. Its stamp is empty where somebody
// else wrote the leases, of whom then nothing can be proved. The leases' files carry the
// stamp's time as their modification time, which ties them to this: a file
// that host-local wrote meanwhile for the same owner has another.
type ownerRecord struct {
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifname"`
	Addresses   []netip.Addr `json:"addresses"`
	// Take tells apart the ADDs that took leases; those that found them there, and
	// share them, keep the first one's.
	Take uint32 `json:"take,omitempty"`
	// Again counts the ADDs that found the leases there. Only who undoes the last
	// that is left gives them back.
	Again int `json:"again,omitempty"`
	// Caller is who executed the last of these ADDs, if it was another process.
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

// ours says whether the leases were written by us and say so.
func (r ownerRecord) ours() bool { return r.Boot != "" }

func (r ownerRecord) equal(other ownerRecord) bool {
	return r.ContainerID == other.ContainerID && r.IfName == other.IfName && r.Equal(other.Stamp) &&
		r.Take == other.Take && r.Again == other.Again && r.Caller == other.Caller && slices.Equal(r.Addresses, other.Addresses)
}

func (r ownerRecord) encode() []byte {
	data, err := json.Marshal(r)
	if err != nil { // strings, addresses and a time of four-digit year: all of it can be written
		panic(err)
	}
	return append(data, '\n')
}

// decodeRecord reads the record called name.
func decodeRecord(network, name string, data []byte) (ownerRecord, bool) {
	var r ownerRecord
	if len(data) >= recordMax || json.Unmarshal(data, &r) != nil {
		return ownerRecord{}, false
	}
	strange := slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool {
		_, ok := parseLeaseName(a.String()) // a zone could be a path
		return !ok
	})
	return r, !strange && recordName(r.owner(network)) == name
}
