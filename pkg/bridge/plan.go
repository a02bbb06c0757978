package bridge

import (
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// State is one attachment with what it needs of its host: as planned (NewPlan), or as found
// in the kernel (Host.Observe). It is plain data, so that Diff can compare the two.
type State struct {
	Bridge    Bridge
	Port      Port
	Container Interface
	Forward4  bool // net.ipv4.ip_forward
	Forward6  bool // net.ipv6.conf.all.forwarding
}

// Bridge is the bridge of the network.
type Bridge struct {
	Name          string
	Up            bool
	MAC           net.HardwareAddr
	MTU           int // as configured, or 0; setMTU replaces it by that of the bridge
	Promisc       bool
	VLANFiltering bool
	// VLANInterface is the link over the bridge that has the gateways, for VLAN; empty if
	// the bridge itself has them.
	VLANInterface string
	VLAN          int
	// DefaultVLAN is the VLAN of a new port, 0 for none; it is observed, not planned.
	DefaultVLAN int
	// Gateways are the containers' gateways, each with the prefix length of its subnet.
	Gateways []netip.Prefix
	// ForceAddress lets Gateways replace addresses that the network gave the bridge before.
	ForceAddress bool
	// Network is recorded as the one that gave the bridge its gateways. IPv6Field is the
	// field of the configuration that asks for IPv6.
	Network, IPv6Field string
}

// Port is the host veth, a port of the bridge.
type Port struct {
	Name     string
	Bridge   string // IFLA_MASTER
	Up       bool
	Alias    string
	MAC      net.HardwareAddr
	MTU      int
	Hairpin  bool
	Isolated bool
	VLAN     VLAN
	// SpoofCheck lets only frames from the container's MAC in. Observe does not read it;
	// SpoofChecks.Diff compares it.
	SpoofCheck bool
}

// VLAN is the VLAN membership of a port, on a bridge with VLAN filtering.
type VLAN struct {
	Access      int   // the VLAN of untagged frames; 0: the network does not use VLANs
	Trunk       []int // pass tagged; ascending, without Access
	KeepDefault bool  // the port stays in the bridge's default VLAN
}

// filters says whether the port needs VLAN filtering on its bridge.
func (v VLAN) filters() bool { return v.Access != 0 }

// Interface is the container's end of the veth pair.
type Interface struct {
	Name      string
	MAC       net.HardwareAddr // nil: not planned; Attach chooses one
	MTU       int
	Up        bool
	WasUp     bool // it was up already before it gets its addresses (State.WithLease)
	DAD       bool // wait for the end of duplicate address detection
	LinkLocal bool // the kernel may add link-local addresses
	// Announce are addresses to announce (gratuitous ARP, unsolicited NA), because the
	// MAC is not derived from them: neighbours may have an entry for their last user.
	Announce  []netip.Addr
	Addresses []Address
	Routes    []Route
	// AddedDefaults are the gateways of those Routes that isDefaultGateway has added.
	AddedDefaults []netip.Addr
	// AnyRouteFields says that fields of Routes other than destination and gateway are only
	// known if they are set; see Route.mayBe.
	AnyRouteFields bool
}

// Route is one of the container's routes, with every field resolved.
type Route struct {
	Dst      netip.Prefix
	Gateway  netip.Addr // zero: directly on the link
	MTU      int
	AdvMSS   int
	Priority int
	Table    int
	Scope    int // rtnetlink(7), enum rt_scope_t
}

const mainTable = unix.RT_TABLE_MAIN

// NewPlan is the plan of an ADD. Attach fills in the MTU, which is that of the bridge
// (setMTU).
func NewPlan(c Config, o cni.Owner, l Lease) (State, error) {
	vlan := planVLAN(c)
	addresses, err := withGateways(l.Addresses, c.Gateway)
	if err != nil {
		return State{}, err
	}
	s := State{
		Bridge: Bridge{
			Name:          c.Bridge,
			Up:            true,
			MTU:           c.MTU,
			Promisc:       c.Promisc,
			VLANFiltering: vlan.filters(),
			ForceAddress:  c.ForceAddress,
			Network:       o.Network,
			IPv6Field:     c.IPv6Field,
		},
		Port: Port{
			Name: HostName(o), Bridge: c.Bridge, Up: true, Alias: aliasOf(o), Hairpin: c.Hairpin, Isolated: c.Isolated,
			VLAN: vlan, SpoofCheck: c.MACSpoofCheck,
		},
		Container: Interface{
			Name: o.IfName, MAC: c.MAC, Up: !c.InterfaceDown, DAD: c.DAD, LinkLocal: c.IPv6LinkLocal,
		},
	}
	s.planAddresses(addresses, c.Gateway)
	if c.DefaultGateway {
		s.Container.AddedDefaults = missingDefaults(l.Routes, addresses)
	}
	s.Container.Routes = routes(l.Routes, addresses, s.Container.AddedDefaults)
	if c.VLAN != 0 && len(s.Bridge.Gateways) > 0 {
		s.Bridge.VLANInterface, s.Bridge.VLAN = vlanInterface(c.Bridge, c.VLAN), c.VLAN
	}
	return s, s.checkMTU("mtu", c.MTU)
}

// setMTU plans the bridge's MTU for both ends of the veth pair: if the ports of a bridge have
// different MTUs, it drops large packets between them.
func (s *State) setMTU(mtu int) error {
	s.Bridge.MTU, s.Port.MTU, s.Container.MTU = mtu, mtu, mtu
	return s.checkMTU("bridge "+s.Bridge.Name+" has mtu", mtu)
}

// defaultMTU is the MTU of a new bridge if the configuration has none: that of the host's
// uplink, but with IPv6 at least what that needs.
func (s *State) defaultMTU(uplink int) int {
	if s.Container.hasIPv6() {
		return max(uplink, cni.MinMTUIPv6)
	}
	return uplink
}

// planAddresses plans the container's addresses, their gateways on the bridge, forwarding
// for their families, and the MAC.
func (s *State) planAddresses(addresses []Address, gateway bool) {
	for _, a := range addresses {
		s.Container.Addresses = append(s.Container.Addresses, a)
		if !gateway || !a.Gateway.IsValid() {
			continue
		}
		s.Bridge.Gateways = append(s.Bridge.Gateways, netip.PrefixFrom(a.Gateway, a.Prefix.Bits()))
		if a.Prefix.Addr().Is4() {
			s.Forward4 = true
		} else {
			s.Forward6 = true
		}
	}
	s.planMAC(addresses)
}

// planMAC derives the MAC from the first IPv4 address, or else from the first address,
// unless a MAC is asked for. On a layer 2 network there is no address, and Attach chooses the
// MAC.
func (s *State) planMAC(addresses []Address) {
	asked := s.Container.MAC != nil
	of := max(0, slices.IndexFunc(addresses, func(a Address) bool { return a.Prefix.Addr().Is4() }))
	for i, a := range addresses {
		if i == of && !asked {
			s.Container.MAC = macFromAddress(a.Prefix.Addr())
		} else {
			s.Container.Announce = append(s.Container.Announce, a.Prefix.Addr())
		}
	}
}

func (s *State) checkMTU(what string, mtu int) error {
	v6 := slices.IndexFunc(s.Container.Addresses, func(a Address) bool { return a.Prefix.Addr().Is6() })
	if v6 >= 0 && mtu != 0 && mtu < cni.MinMTUIPv6 {
		return cni.ConfigErrorf("%s: %d is too small for the IPv6 address %s; use %d or more", what, mtu, s.Container.Addresses[v6].Prefix, cni.MinMTUIPv6)
	}
	return nil
}

// withGateways chooses, if the bridge is to be the gateway, one for each address for which
// IPAM has named none: the first address of the subnet after the network's own.
func withGateways(addresses []Address, gateway bool) ([]Address, error) {
	named := slices.Clone(addresses)
	for i, a := range named {
		if a.Gateway.IsValid() || !gateway {
			continue
		}
		g := a.Prefix.Masked().Addr().Next()
		if g == a.Prefix.Addr() || !a.Prefix.Contains(g) {
			g = a.Prefix.Masked().Addr() // the other address of a subnet with two (RFC 3021)
		}
		if g == a.Prefix.Addr() {
			return nil, cni.ConfigErrorf("isGateway: %s leaves no address for the gateway; lease from a larger subnet, or have ipam name a gateway", a.Prefix)
		}
		named[i].Gateway = g
	}
	for _, a := range named {
		// a gateway outside the subnet is no error: the container gets a route to it
		if gateway && a.Gateway == a.Prefix.Addr() {
			return nil, cni.ConfigErrorf("isGateway: the gateway %s is the container's own address %s; lease another address, or set isGateway and isDefaultGateway to false and give routes in ipam", a.Gateway, a.Prefix)
		}
	}
	return named, nil
}

// routes resolves each leased route, adds the default routes of isDefaultGateway and routes
// to gateways outside their subnets, and leaves out duplicates.
func routes(leased []LeasedRoute, addresses []Address, defaults []netip.Addr) []Route {
	var resolved []Route
	add := func(r Route) {
		if !slices.Contains(resolved, r) {
			resolved = append(resolved, r)
		}
	}
	for _, a := range addresses {
		if a.Gateway.IsValid() && !a.Prefix.Contains(a.Gateway) {
			// first, since the kernel refuses a route by a gateway that it cannot reach
			add(LeasedRoute{Route: Route{Dst: netip.PrefixFrom(a.Gateway, a.Gateway.BitLen()), Table: mainTable}}.resolve(nil))
		}
	}
	for _, r := range leased {
		add(r.resolve(addresses))
	}
	for _, gateway := range defaults {
		add(defaultRoute(gateway))
	}
	return resolved
}

// missingDefaults are the gateways of the default routes that isDefaultGateway adds: the
// first gateway of each family, unless IPAM gave a default route of that family for the main
// table.
func missingDefaults(leased []LeasedRoute, addresses []Address) []netip.Addr {
	var missing []netip.Addr
	for _, ipv4 := range []bool{true, false} {
		has := slices.ContainsFunc(leased, func(r LeasedRoute) bool {
			return r.Dst.Bits() == 0 && r.Dst.Addr().Is4() == ipv4 && r.Table == mainTable
		})
		if gateway := firstGateway(addresses, ipv4); !has && gateway.IsValid() {
			missing = append(missing, gateway)
		}
	}
	return missing
}

func defaultRoute(gateway netip.Addr) Route {
	zero := netip.IPv6Unspecified()
	if gateway.Is4() {
		zero = netip.IPv4Unspecified()
	}
	r := LeasedRoute{Route: Route{Dst: netip.PrefixFrom(zero, 0), Gateway: gateway, Table: mainTable}}
	return r.resolve(nil)
}

// resolve fills in what the route leaves open: as gateway that of the first address of its
// family (CNI spec, "Result", routes[].gw), for other fields the kernel's defaults.
func (r LeasedRoute) resolve(addresses []Address) Route {
	route := r.Route
	onLink := r.scopeSet && r.Scope == unix.RT_SCOPE_LINK
	if !route.Gateway.IsValid() && !onLink {
		route.Gateway = firstGateway(addresses, route.Dst.Addr().Is4())
	}
	if route.Dst.Addr().Is6() {
		return route.withIPv6Defaults()
	}
	if !r.scopeSet && !route.Gateway.IsValid() {
		route.Scope = unix.RT_SCOPE_LINK
	}
	return route
}

// withIPv6Defaults fills in what the kernel does: IPv6 routes have no scope, and priority 0
// stands for its default (IP6_RT_PRIO_USER, linux/ipv6_route.h).
func (r Route) withIPv6Defaults() Route {
	r.Scope = unix.RT_SCOPE_UNIVERSE
	if r.Priority == 0 {
		r.Priority = 1024
	}
	return r
}

func firstGateway(addresses []Address, ipv4 bool) netip.Addr {
	for _, a := range addresses {
		if a.Gateway.IsValid() && a.Gateway.Is4() == ipv4 {
			return a.Gateway
		}
	}
	return netip.Addr{}
}
