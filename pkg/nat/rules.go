package nat

import (
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// ruleset is the wanted NAT as plain data, whatever the backend: backends make rules from
// it, and compare it with the kernel.
type ruleset struct {
	Networks []masqueradeRule
	Ports    []ownedPorts
}

// masqueradeRule is the masquerade of one network.
type masqueradeRule struct {
	Network string
	Masquerade
	// asked is what one attachment asked for, before subnets of others were added.
	asked Masquerade
	// complete returns the rule with the subnets of all attachments; nil if Masquerade has
	// them already.
	complete func() (masqueradeRule, error)
}

// ownedPorts are the port mappings of one attachment.
type ownedPorts struct {
	Owner cni.Owner
	Ports
}

func (r ruleset) empty() bool { return len(r.Networks)+len(r.Ports) == 0 }

// Protocol is a transport protocol with ports.
type Protocol string

// The protocols that can be mapped.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// number returns the protocol's number in IP headers (IANA, Assigned Internet Protocol
// Numbers).
func (p Protocol) number() byte {
	return map[Protocol]byte{TCP: 6, UDP: 17, SCTP: 132}[p]
}

func protocolOf(number byte) Protocol {
	return map[byte]Protocol{6: TCP, 17: UDP, 132: SCTP}[number]
}

// Mapping leads one port of the host to one of a container.
type Mapping struct {
	Protocol Protocol
	// Host is the host's address and port. The unspecified address stands for all
	// addresses of the host in that family.
	Host netip.AddrPort
	// Container is the container's address, of the same family, and port.
	Container netip.AddrPort
}

func (m Mapping) String() string {
	return string(m.Protocol) + " " + m.Host.String() + " to " + m.Container.String()
}

// anyHost says whether the mapping is for every address of the host.
func (m Mapping) anyHost() bool { return m.Host.Addr().IsUnspecified() }

// Ports are the port mappings of an attachment, and how they are made.
type Ports struct {
	Mappings []Mapping
	// Subnets are the container's addresses with the lengths of their subnets.
	Subnets []netip.Prefix
	// Bridge is the host's interface that leads to the container: connections of its
	// neighbours come in by it. HostAddress is the host's IPv4 address there, which
	// replaces 127.0.0.1 as source. If they are empty Add finds both by HostLinks.
	Bridge      string
	HostAddress netip.Addr
	// HostLinks are the host veths of the attachment.
	HostLinks []string
	PortOptions
}

// hairpins returns the container's subnets that have a port mapping. A client in one of
// them would get the answer directly, from an address that it did not ask, unless the host
// masquerades the connection.
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

// answersLoopback says whether the mapping is for all IPv4 addresses of the host, or for one
// in 127.0.0.0/8.
func (m Mapping) answersLoopback() bool {
	return m.Host.Addr() == netip.IPv4Unspecified() || m.Host.Addr().Is4() && m.Host.Addr().IsLoopback()
}

// Masquerade says which packets from a network get the host's address as source.
type Masquerade struct {
	// Prefixes are the network's subnets. Packets from them to other destinations than
	// them and multicast are masqueraded.
	Prefixes []netip.Prefix
	// Exclude are further destinations to which packets are not masqueraded.
	Exclude []netip.Prefix
	// SNAT4 and SNAT6 are fixed source addresses; the zero Addr means the address of
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

// families returns both; rules are made for each.
func families() []family { return []family{family4(), family6()} }

func familyOf(address netip.Addr) family {
	if address.Is4() {
		return family4()
	}
	return family6()
}

// digit is the last character of the family's names for sets and chains.
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

// snat returns the family's fixed source address.
func (m Masquerade) snat(f family) netip.Addr {
	if f.is4 {
		return m.SNAT4
	}
	return m.SNAT6
}

// keeps returns the destinations to which packets are not masqueraded. Subnets with a single
// address are left out: a container does not reach itself through the host, and a network
// may have any number of them.
func (m Masquerade) keeps(f family) []netip.Prefix {
	subnets := slices.DeleteFunc(f.only(m.Prefixes), netip.Prefix.IsSingleIP)
	return append(append(subnets, f.multicast), f.only(m.Exclude)...)
}
