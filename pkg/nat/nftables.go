package nat

import (
	"errors"
	"slices"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// nfTables is the backend for nftables: table inet trestle.
type nfTables struct{ h *Host }

func (n nfTables) apply(c change) error {
	inUse := n.h.isInUse
	if c.recorded {
		inUse = nobody
	}
	return n.h.conn.Commit(changesOf(c), inUse)
}

func nobody(string) (bool, error) { return false, nil }

// changesOf returns the elements of the wanted mappings, those to remove of the unwanted
// ones, and the table if any rule is wanted.
func changesOf(c change) nft.Changes {
	var changes nft.Changes
	networks := append(slices.Clone(c.want.Networks), c.unwanted.Networks...)
	switch {
	case len(c.want.Ports) > 0:
		changes.Tables = natTables(networks...)
	case len(networks) > 0:
		changes.Tables = []nft.Table{masqueradeTable(networks...)}
	}
	const each = 3 // elements of a typical port mapping
	changes.Create = make([]nft.Element, 0, each*len(c.want.Ports))
	for _, p := range c.want.Ports {
		changes.Create = append(changes.Create, p.elements()...)
	}
	for _, p := range c.unwanted.Ports {
		changes.Remove = append(changes.Remove, p.elements()...)
	}
	return changes.With(c.also)
}

// loopbackChanges returns what port mappings in iptables need in nftables.
func loopbackChanges(want, unwanted []ownedPorts) nft.Changes {
	var changes nft.Changes
	for _, p := range want {
		changes.Create = append(changes.Create, p.loopbackElements()...)
	}
	if len(changes.Create) > 0 {
		changes.Tables = []nft.Table{loopbackTable()}
	}
	for _, p := range unwanted {
		changes.Remove = append(changes.Remove, p.loopbackElements()...)
	}
	return changes
}

func (n nfTables) diff(want ruleset) ([]string, error) {
	return n.h.conn.Diff(changesOf(change{want: want}))
}

// usable asks the kernel; no program is needed.
func (n nfTables) usable() error {
	err := n.h.conn.Usable()
	if errors.Is(err, nft.ErrUnsupported) {
		return errors.New("the kernel has no nf_tables")
	}
	return err
}
