package nat

import (
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// ruleset is NAT as it is wanted, whichever backend has it in the kernel: plain data,
// which the backends render and which is compared with what the kernel has.
type ruleset struct {
	Networks []masqueradeRule
	Ports    []ownedPorts
}

// masqueradeRule is the masquerade of one network.
type masqueradeRule struct {
	Network string
	Masquerade
	// asked is what one attachment asked for, to which others' subnets were added.
	asked Masquerade
	// whole adds others' subnets, where they have not been looked up.
	whole func() (masqueradeRule, error)
}

// ownedPorts are the port mappings of one attachment.
type ownedPorts struct {
	Owner cni.Owner
	Ports
}

func (r ruleset) empty() bool { return len(r.Networks)+len(r.Ports) == 0 }

// Protocol is what has ports.
type Protocol string

// The protocols that can be mapped.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// number is the protocol's in IP headers (IANA, Assigned Internet Protocol Numbers).
func (p Protocol) number() byte {
	return map[Protocol]byte{TCP: 6, UDP: 17, SCTP: 132}[p]
}

func protocolOf(number byte) Protocol {
	return map[byte]Protocol{6: TCP, 17: UDP, 132: SCTP}[number]
}

// Mapping leads one port of the host to one of a container.
type Mapping struct {
	Protocol Protocol
	// Host is where it is reached. The unspecified address of a family is any
	// address of the host in that family.
	Host netip.AddrPort
	// Container is of the same family.
	Container netip.AddrPort
}

func (m Mapping) String() string {
	return string(m.Protocol) + " " + m.Host.String() + " to " + m.Container.String()
}

// anyHost says whether the mapping is for every address of the host.
func (m Mapping) anyHost() bool { return m.Host.Addr().IsUnspecified() }

// Ports is what a container has mapped, and how.
type Ports struct {
	Mappings []Mapping
	// Subnets are the container's addresses with the lengths of their subnets.
	Subnets []netip.Prefix
	// Bridge is the host's interface that leads to the container, by which its
	// neighbours' connections come, and HostAddress the host's IPv4 address there, by
	// which 127.0.0.1 speaks; Add finds both by HostLinks where they are not given.
	Bridge      string
	HostAddress netip.Addr
	// HostLinks are the host's interfaces of the attachment.
	HostLinks []string
	PortOptions
}

// hairpins are the container's subnets that have a mapping: within one the answer
// would not come back through the host unless the question came from it.
func (p Ports) hairpins() []netip.Prefix {
	if !p.SNAT {
		return nil
	}
	var subnets []netip.Prefix
	for _, subnet := range p.Subnets {
		mapped := func(m Mapping) bool { return subnet.Contains(m.Container.Addr()) }
		if slices.ContainsFunc(p.Mappings, mapped) && !slices.Contains(subnets, subnet.Masked()) {
			subnets = append(subnets, subnet.Masked())
		}
	}
	return subnets
}

// answersLoopback says whether the mapping is for 127.0.0.1 too, or for it alone.
func (m Mapping) answersLoopback() bool {
	return m.Host.Addr() == netip.IPv4Unspecified() || m.Host.Addr().Is4() && m.Host.Addr().IsLoopback()
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

func family4() family { // RFC 5771; RFC 1122, 3.2.1.3
	return family{true, netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4), netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)}
}

func family6() family { // RFC 4291, 2.7 and 2.5.3
	return family{false, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8), netip.PrefixFrom(netip.IPv6Loopback(), 128)}
}

// families are what every rule is made for, in turn.
func families() []family { return []family{family4(), family6()} }

func familyOf(address netip.Addr) family {
	if address.Is4() {
		return family4()
	}
	return family6()
}

// digit is what names of the family end in.
func (f family) digit() string {
	if f.is4 {
		return "4"
	}
	return "6"
}

func (f family) only(list []netip.Prefix) []netip.Prefix {
	var own []netip.Prefix
	for _, p := range list {
		if p.Addr().Is4() == f.is4 {
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

// keeps are the destinations that see containers' own addresses. A subnet of one
// address is not among them: its container does not come by here to itself, and a
// network may have any number.
func (m Masquerade) keeps(f family) []netip.Prefix {
	subnets := slices.DeleteFunc(f.only(m.Prefixes), netip.Prefix.IsSingleIP)
	return append(append(subnets, f.multicast), f.only(m.Exclude)...)
}
