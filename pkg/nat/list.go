package nat

import (
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Recorded is the NAT of an attachment according to its record.
type Recorded struct {
	Owner cni.Owner
	Stamp record.Stamp
	// Released says that the attachment was deleted, but some of its rules in iptables
	// could not be.
	Released bool
	// Masquerade is the backend of the network's masquerade; empty if it has none.
	Masquerade Backend
	// PortBackend is the backend of Mappings; empty if there are none.
	PortBackend Backend
	Mappings    []Mapping
}

// List returns all records of the store, for people. It takes no lock and changes nothing.
func List(store record.Store) ([]Recorded, error) {
	records, err := record.List[translation](store, place, "")
	var all []Recorded
	for _, rec := range records {
		one := Recorded{Owner: rec.Owner, Stamp: rec.Stamp, Released: rec.Value.Released}
		if m := rec.Value.Masquerade; m != nil {
			one.Masquerade = m.Backend
		}
		if p := rec.Value.Ports; p != nil {
			one.PortBackend, one.Mappings = p.Backend, p.Mappings
		}
		all = append(all, one)
	}
	return all, err
}
