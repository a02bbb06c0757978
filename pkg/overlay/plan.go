// Package overlay configures the kernel of one host so that it reaches the subnets of its
// peers: directly where both are on one link, through a VXLAN device elsewhere, or through a
// WireGuard device. It does not know how peers are found.
//
//	Plan(self, peers) → State        pure: routes, tunnel, neighbours, as plain data
//	Host.Observe(want) → Found       what the kernel has of it, and what is in the way
//	Diff(want, found) → Changes      pure
//	Host.Apply(changes)
//
// Everything made here can be recognized without a record: routes by protocol 116, a device
// by its name and alias, and the nftables table is "inet trestle-node". What others made is
// reported and never replaced. All of it works on when the process has ended.
package overlay

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Backend is how peers are reached.
type Backend string

// The backends, as the cluster's configuration names them.
const (
	Auto          Backend = "auto"
	HostGW        Backend = "host-gw"
	VXLAN         Backend = "vxlan"
	WireGuardOnly Backend = "wireguard"
)

// TunnelName is the name of the VXLAN device.
const TunnelName = "trestle-vx"

// Self is this host.
type Self struct {
	Subnets []netip.Prefix
	// Pools are the networks' pools, from which this host and the peers have their subnets.
	Pools []netip.Prefix
	// Underlay are its addresses, with prefix lengths, on the link named Uplink, and MTU is
	// that link's.
	Underlay []netip.Prefix
	Uplink   string
	MTU      int
	MAC      string
	// Key is the public key of its WireGuard device. NAT says that peers cannot reach
	// Underlay; this host then sends keepalives to each of them.
	Key string
	NAT bool

	Backend      Backend
	VNI, Port    int
	NoTxChecksum bool
	// NoIPv6 says that the kernel has no IPv6; then the tunnel's neighbours have IPv4
	// addresses.
	NoIPv6 bool
}

// Peer is another host.
type Peer struct {
	Name     string
	Underlay []netip.Prefix
	Subnets  []netip.Prefix
	MTU      int
	MAC      string
	Key      string // of WireGuard, public, in base64
	NAT      bool   // Underlay cannot be reached from outside: the peer sends first
}

// State is what the kernel is to have, or has.
type State struct {
	Tunnel     *Tunnel    // nil: none
	WireGuard  *WireGuard // nil: none
	Routes     []Route
	FDB        []FDBEntry
	Neighbours []Neighbour
	// Peers are the addresses from which VXLAN is accepted on Port; with port 0 there is no
	// table, and it is accepted from all.
	Peers []netip.Addr
	Port  int
	// Forwarding are the families with forwarding switched on.
	Forwarding Families
}

// Families is a set of address families.
type Families struct{ IPv4, IPv6 bool }

// Tunnel is the VXLAN device.
type Tunnel struct {
	VNI, Port, MTU int
	Local          netip.Addr
	MAC            string
	NoTxChecksum   bool
	// Learning is never wanted: a packet of one peer could take another's place.
	Learning bool
	// Addresses give the host's own packets a source that the peers have a route to.
	Addresses []netip.Prefix
}

// Kind is where a route leads.
type Kind string

// The kinds of routes.
const (
	Direct      Kind = "direct"
	ByTunnel    Kind = "tunnel"
	ByWireGuard Kind = "wireguard"
	Unreachable Kind = "unreachable" // a pool's: packets to a subnet that no host has must not take the default route
)

// Route leads to a peer's subnet, or makes a pool unreachable.
type Route struct {
	Dst  netip.Prefix
	Kind Kind
	Via  netip.Addr
	MTU  int // 0: the link's
}

// FDBEntry says which host the tunnel's frames to a MAC go to.
type FDBEntry struct {
	MAC    string
	Remote netip.Addr
}

// Neighbour says which MAC an address on the tunnel has.
type Neighbour struct {
	Addr netip.Addr
	MAC  string
}

// Plan is what a host needs to reach its peers. problems name the peers that cannot be
// reached, and why.
func Plan(self Self, peers []Peer) (s State, problems []string) {
	p := &planner{self: self, keys: map[string]string{}}
	switch self.Backend {
	case HostGW:
	case WireGuardOnly:
		p.wireGuard()
	default:
		p.tunnel()
	}
	for _, pool := range self.Pools {
		p.Routes = append(p.Routes, Route{Dst: pool, Kind: Unreachable})
		p.Forwarding.IPv4 = p.Forwarding.IPv4 || pool.Addr().Is4()
		p.Forwarding.IPv6 = p.Forwarding.IPv6 || pool.Addr().Is6()
	}
	for _, peer := range peers {
		p.peer(peer)
	}
	p.sort()
	return p.State, p.problems
}

type planner struct {
	State
	self     Self
	keys     map[string]string // the peer of each WireGuard key
	problems []string
}

func (p *planner) peer(peer Peer) {
	if len(peer.Subnets) == 0 {
		return
	}
	switch p.self.Backend {
	case WireGuardOnly:
		p.byWireGuard(peer)
		return
	case Auto, HostGW:
		if p.direct(peer) {
			return
		}
	}
	if p.self.Backend == HostGW {
		p.problem(peer, "no address on one link with this host's %s; the backend host-gw needs that, auto and vxlan do not", join(p.self.Underlay))
		return
	}
	p.byTunnel(peer)
}

func (p *planner) problem(peer Peer, format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf("peer %s (%s) cannot be reached: %s", peer.Name, join(peer.Underlay), fmt.Sprintf(format, args...)))
}

func join[A fmt.Stringer](all []A) string {
	text := ""
	for i, a := range all {
		if i > 0 {
			text += ", "
		}
		text += a.String()
	}
	return text
}

// tunnel plans the VXLAN device. Its underlay has one family, as the kernel's socket has.
func (p *planner) tunnel() {
	local, ok := addressOf(p.self.Underlay, p.self.family4())
	if !ok {
		return // without an uplink there are no peers
	}
	t := &Tunnel{
		VNI: p.self.VNI, Port: p.self.Port, MTU: p.self.MTU - overhead(local), Local: local,
		MAC: p.self.MAC, NoTxChecksum: p.self.NoTxChecksum,
	}
	t.Addresses = p.self.addresses()
	p.Tunnel, p.Port = t, p.self.Port
}

// addresses are those of the device that leads to peers: the first of each subnet.
func (s Self) addresses() (all []netip.Prefix) {
	for _, subnet := range s.Subnets {
		all = append(all, netip.PrefixFrom(subnet.Addr(), subnet.Addr().BitLen()))
	}
	return all
}

// family4 says whether the tunnel's underlay is IPv4.
func (s Self) family4() bool {
	return slices.ContainsFunc(s.Underlay, func(a netip.Prefix) bool { return a.Addr().Is4() })
}

func addressOf(underlay []netip.Prefix, is4 bool) (netip.Addr, bool) {
	for _, a := range underlay {
		if a.Addr().Is4() == is4 {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// byTunnel plans the way to a peer through the tunnel: one neighbour, one entry of the
// forwarding database, and a route for each subnet.
func (p *planner) byTunnel(peer Peer) {
	if p.Tunnel == nil {
		p.problem(peer, "this host has no address on its uplink %s", p.self.Uplink)
		return
	}
	remote, ok := addressOf(peer.Underlay, p.Tunnel.Local.Is4())
	if !ok {
		p.problem(peer, "it has no address of the family of this host's %s", p.Tunnel.Local)
		return
	}
	mac, err := net.ParseMAC(peer.MAC)
	if err != nil {
		p.problem(peer, "its MAC %q is none", peer.MAC)
		return
	}
	gateway := linkLocal(mac)
	if p.self.NoIPv6 {
		if gateway, ok = addressOf(peer.Subnets, true); !ok {
			p.problem(peer, "it has no subnet of IPv4, and this kernel has no IPv6")
			return
		}
	}
	p.FDB = append(p.FDB, FDBEntry{peer.MAC, remote})
	p.Neighbours = append(p.Neighbours, Neighbour{gateway, peer.MAC})
	p.Peers = append(p.Peers, remote)
	mtu := mtuTo(p.self, peer) - overhead(remote)
	for _, s := range peer.Subnets {
		if s.Addr().Is6() && p.self.NoIPv6 {
			continue
		}
		p.Routes = append(p.Routes, Route{Dst: s, Kind: ByTunnel, Via: gateway, MTU: mtu})
	}
}

// linkLocal is the link-local address with the MAC's EUI-64 (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// MAC is the tunnel's MAC on the host with this id: the same after each boot, so that
// peers' entries stay right. It is a locally administered unicast address.
func MAC(id string) string {
	sum := sha256.Sum256([]byte("trestle-vx:" + id))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac.String()
}

func (s *State) sort() {
	slices.SortFunc(s.Routes, func(a, b Route) int { return comparePrefix(a.Dst, b.Dst) })
	slices.SortFunc(s.FDB, func(a, b FDBEntry) int { return cmp.Or(cmp.Compare(a.MAC, b.MAC), a.Remote.Compare(b.Remote)) })
	slices.SortFunc(s.Neighbours, func(a, b Neighbour) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(s.Peers, netip.Addr.Compare)
	s.Peers = slices.Compact(s.Peers)
	if s.Tunnel != nil {
		slices.SortFunc(s.Tunnel.Addresses, comparePrefix)
	}
	if s.WireGuard != nil {
		s.WireGuard.sort()
	}
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
