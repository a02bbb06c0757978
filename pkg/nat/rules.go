package nat

import (
	"net/netip"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Rules is NAT as it is wanted, whichever backend has it in the kernel. Values
// are compared with those of the kernel, so that ADD, CHECK and Restore mean
// the same.
type Rules struct {
	Networks []NetworkRule
}

// NetworkRule is the masquerade of one network.
type NetworkRule struct {
	Network string
	Masquerade
}

// Masquerade is what leaves a network with the host's address instead of its own.
type Masquerade struct {
	// Prefixes are the network's subnets. What goes from one of them to none
	// of them is masqueraded; multicast is not.
	Prefixes []netip.Prefix
	// Exclude are further destinations that see the containers' own addresses.
	Exclude []netip.Prefix
	// SNAT4 and SNAT6 are fixed source addresses; the zero Addr means that of
	// the interface by which the packet leaves.
	SNAT4, SNAT6 netip.Addr
	// RandomFully asks the kernel to choose source ports at random.
	RandomFully bool
}

// family is what differs between IPv4 and IPv6.
type family struct {
	is4       bool
	multicast netip.Prefix
	loopback  netip.Prefix
}

// families are what every rule is made for, in turn.
func families() []family {
	return []family{
		{true, netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("127.0.0.0/8")}, // RFC 5771; RFC 1122, 3.2.1.3
		{false, netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("::1/128")},       // RFC 4291, 2.7 and 2.5.3
	}
}

func (f family) has(p netip.Prefix) bool { return p.Addr().Is4() == f.is4 }

func (f family) only(list []netip.Prefix) []netip.Prefix {
	var own []netip.Prefix
	for _, p := range list {
		if f.has(p) {
			own = append(own, p.Masked())
		}
	}
	return own
}

// snat is the fixed source address of the family.
func (m Masquerade) snat(f family) netip.Addr {
	if f.is4 {
		return m.SNAT4
	}
	return m.SNAT6
}

// keeps are the destinations that see containers' own addresses.
func (m Masquerade) keeps(f family) []netip.Prefix {
	return append(append(f.only(m.Prefixes), f.multicast), f.only(m.Exclude)...)
}

// label is what the network's rules carry as comment.
func (n NetworkRule) label() string { return cni.NetworkLabel(n.Network) }
