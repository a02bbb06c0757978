// Package cluster decides which host has which subnet of a network that spans
// several hosts, and which peers a host believes in. It touches no kernel and knows no
// store: a Store is a few keys with compare-and-set, be it etcd, a file, or memory in a
// test.
//
// Start at Member.Reconcile, which finds or claims this host's subnets, and at
// State.Believe, which turns what a store lists into the peers to be reached.
//
// Two rules keep subnets apart, whatever fails:
//
//   - A claim has no time to live. It goes by its owner's leave, or by an
//     administrator's release of a host that is dead, and by nothing else.
//   - The store is a hint to add; to remove takes a proof: a tombstone with the nonce
//     of the claim, another owner of the subnet, or the administrator's word.
package cluster

import "net/netip"

// Family is one of the two kinds of address, as it is written in configurations.
type Family string

// The families, and their order wherever both are listed.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Owned is one subnet that a host has.
type Owned struct {
	Network string       `json:"network"`
	Subnet  netip.Prefix `json:"subnet"`
	// Nonce is what tells this claim from a later one on the same subnet.
	Nonce string `json:"nonce"`
}

// slot is what a host has one subnet of: a network's family.
type slot struct {
	network string
	family  Family
}

func (o Owned) slot() slot { return slot{o.Network, FamilyOf(o.Subnet.Addr())} }
