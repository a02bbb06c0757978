package ipam

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// record is what we know of one owner beyond its leases' files: which addresses
// those are, and what proves that it is dead.
type record struct {
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifname"`
	Addresses   []netip.Addr `json:"addresses"`
	NetNS       netNS        `json:"netns,omitzero"`
	// Boot is the boot id of the ADD; empty where somebody else wrote the
	// leases, of whom then nothing can be proved.
	Boot string `json:"boot,omitempty"`
	// Time is that of the ADD, in whole seconds. The leases' files carry it as
	// their modification time, which ties them to this record: a file that
	// host-local wrote meanwhile for the same owner has another.
	Time time.Time `json:"time,omitzero"`
}

const (
	recordPrefix = "owner."
	recordMax    = 16 << 10 // a path has up to 4,096 bytes (PATH_MAX)
)

// recordName is the name of the owner's record.
func recordName(o cni.Owner) string { return recordPrefix + o.Hash(40) }

func (r record) owner(network string) cni.Owner {
	return cni.Owner{Network: network, ContainerID: r.ContainerID, IfName: r.IfName}
}

// ours says whether the leases were written by us and say so.
func (r record) ours() bool { return r.Boot != "" }

func (r record) equal(other record) bool {
	return r.ContainerID == other.ContainerID && r.IfName == other.IfName && r.NetNS == other.NetNS &&
		r.Boot == other.Boot && r.Time.Equal(other.Time) && slices.Equal(r.Addresses, other.Addresses)
}

func (r record) encode() []byte {
	data, err := json.Marshal(r)
	if err != nil { // strings, addresses and a time of four-digit year: all of it can be written
		panic(err)
	}
	return append(data, '\n')
}

// decodeRecord reads the record called name.
func decodeRecord(network, name string, data []byte) (record, bool) {
	var r record
	if len(data) >= recordMax || json.Unmarshal(data, &r) != nil {
		return record{}, false
	}
	strange := slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool {
		_, ok := parseLeaseName(a.String()) // a zone could be a path
		return !ok
	})
	return r, !strange && recordName(r.owner(network)) == name
}
