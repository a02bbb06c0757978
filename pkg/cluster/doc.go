// Package cluster decides which host has which subnet of a network that spans
// several hosts, and which peers a host believes in. It does not touch the kernel and knows
// no particular store: a Store is a few keys with compare-and-set, be it etcd, a file, or
// memory in a test.
//
// Start at Member.Reconcile, which finds or claims this host's subnets, and at
// State.Believe, which turns what a store lists into the peers to be reached.
//
// Two rules keep subnets apart, whatever fails:
//
//   - A claim has no time to live. It ends when its owner leaves, or when an
//     administrator releases a host that is dead, and by nothing else.
//   - A host that the store lists is believed at once. A host that it does not list any more
//     is only believed gone with a proof: a tombstone with the nonce of each claim, another
//     owner of the subnet, or the administrator's word.
package cluster

import "net/netip"

// Family is an address family, as it is written in configurations.
type Family string

// The families, in the order in which both are listed everywhere.
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
	// Nonce distinguishes this claim from a later one of the same subnet.
	Nonce string `json:"nonce"`
}

// slot is a network and family: a host has one subnet of each.
type slot struct {
	network string
	family  Family
}

func (o Owned) slot() slot { return slot{o.Network, FamilyOf(o.Subnet.Addr())} }
