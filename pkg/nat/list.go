package nat

import (
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Recorded is what the records say that an attachment has of NAT.
type Recorded struct {
	Owner cni.Owner
	Stamp record.Stamp
	// Released says that the attachment was deleted, and that what is left of it could
	// not be reached then.
	Released bool
	// Masquerade is the backend that has the network's masquerade rule; empty where the
	// attachment has none.
	Masquerade Backend
	// PortBackend has the mapped ports.
	PortBackend Backend
	Mappings    []Mapping
}

// List gives all that is recorded in the store, for people. It takes no lock and
// changes nothing.
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
