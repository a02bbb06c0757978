package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Node is a host's record in the store, which the other hosts read.
type Node struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Underlay are its addresses, with prefix lengths, on the link that leads to the others:
	// two hosts with the same prefix are on one link.
	Underlay []netip.Prefix `json:"underlay"`
	// MTU is that link's.
	MTU int `json:"mtu"`
	// MAC is its VXLAN device's, derived from the id: the same after each boot.
	MAC string `json:"mac,omitempty"`
	// WGKey is the public key of its WireGuard device, in base64.
	WGKey string `json:"wgKey,omitempty"`
	// NAT says that others cannot reach Underlay: the host sends first.
	NAT     bool    `json:"nat,omitempty"`
	Subnets []Owned `json:"subnets"`
	Version string  `json:"version,omitempty"`

	extra extra
}

// leastMTU is the packet size that every IPv4 host accepts (RFC 791, section 3.2).
const leastMTU = 576

// ParseNode reads and checks a record.
func ParseNode(data []byte) (Node, error) {
	var n Node
	if err := json.Unmarshal(data, &n); err != nil {
		return Node{}, err
	}
	if n.ID == "" {
		return Node{}, errors.New("id: missing")
	}
	if n.MTU != 0 && n.MTU < leastMTU {
		return Node{}, fmt.Errorf("mtu: %d is less than %d, which every host accepts", n.MTU, leastMTU)
	}
	for _, a := range n.Underlay {
		if !a.IsValid() {
			return Node{}, errors.New("underlay: an address is empty")
		}
	}
	for _, s := range n.Subnets {
		if !s.Subnet.IsValid() || s.Subnet != s.Subnet.Masked() {
			return Node{}, fmt.Errorf("subnets: %q is not a prefix", s.Subnet)
		}
	}
	return n, nil
}

// has says whether the address is one of the node's.
func (n Node) has(a netip.Addr) bool {
	return slices.ContainsFunc(n.Underlay, func(p netip.Prefix) bool { return p.Addr() == a })
}

// Equal says whether both records are the same. It compares fields rather than JSON, since
// each change of one peer compares all of a thousand.
func (n Node) Equal(other Node) bool {
	return n.ID == other.ID && n.Name == other.Name && slices.Equal(n.Underlay, other.Underlay) && n.MTU == other.MTU &&
		n.MAC == other.MAC && n.WGKey == other.WGKey && n.NAT == other.NAT && slices.Equal(n.Subnets, other.Subnets) &&
		n.Version == other.Version && n.extra.equal(other.extra)
}

// MarshalJSON writes keys of newer releases as they were read.
func (n Node) MarshalJSON() ([]byte, error) {
	type plain Node
	return n.extra.marshal(plain(n))
}

// UnmarshalJSON keeps the keys that this release does not know.
func (n *Node) UnmarshalJSON(data []byte) error {
	type plain Node
	var p plain
	e, err := unmarshalKeeping(data, &p)
	if err != nil {
		return err
	}
	*n = Node(p)
	n.extra = e
	return nil
}

// claim is the value of a claim's key.
type claim struct {
	Node     string `json:"node,omitempty"`
	Nonce    string `json:"nonce"`
	Reserved string `json:"reserved,omitempty"` // why hosts may not claim it
	// For is the address of the one host that may take a reserved subnet.
	For netip.Addr `json:"for,omitzero"`

	raw Value
	// owned is read from the claim's key; it is the zero value if the key cannot be read.
	owned Owned
}

// Reservation is a subnet that no host has, and why.
type Reservation struct {
	Owned
	Reserved string `json:"reserved"`
}

// reservations are those among the claims, sorted.
func reservations(claims map[string]claim) (all []Reservation) {
	for _, c := range claims {
		if c.Node == "" && c.Reserved != "" && c.owned.Subnet.IsValid() {
			all = append(all, Reservation{c.owned, c.Reserved})
		}
	}
	slices.SortFunc(all, func(a, b Reservation) int { return compareOwned(a.Owned, b.Owned) })
	return all
}

// Unreserved are the reservations that Restore does not make again: those of subnets that no host
// is known to have taken.
func (s *State) Unreserved() []Reservation {
	return slices.DeleteFunc(slices.Clone(s.Reserved), func(r Reservation) bool {
		return slices.ContainsFunc(append([]Node{s.Self}, s.Peers...), func(n Node) bool {
			return slices.ContainsFunc(n.Subnets, func(o Owned) bool { return o.Subnet.Overlaps(r.Subnet) })
		})
	})
}

// holder says who has the subnet, for messages.
func (c claim) holder() string {
	if c.Node == "" {
		return "reserved: " + c.Reserved
	}
	return "taken by node " + c.Node
}

// tombstone is the value of a tombstone's key.
type tombstone struct {
	Node  string    `json:"node"`
	Nonce string    `json:"nonce"`
	At    time.Time `json:"at"`
}

// freeze is the value of KeyFrozen.
type freeze struct {
	By  string `json:"by"`
	Why string `json:"why"`
}
