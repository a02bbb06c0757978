package bridge

import (
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// State is one attachment and what it needs of its host: as planned, or as found
// in the kernel. It is plain data; two of them can be compared.
type State struct {
	Bridge    Bridge
	Port      Port
	Container Interface
	Forward4  bool // net.ipv4.ip_forward
	Forward6  bool // net.ipv6.conf.all.forwarding
}

// Bridge is the link that the network's ports are on.
type Bridge struct {
	Name          string
	Up            bool
	MAC           net.HardwareAddr
	MTU           int // as configured, 0 where that leaves it open; setMTU decides
	Promisc       bool
	VLANFiltering bool
	// VLANInterface over the bridge has the gateways, on VLAN; empty: the bridge.
	VLANInterface string
	VLAN          int
	// DefaultVLAN is the one that a new port is in, 0 for none; found, not planned.
	DefaultVLAN int
	// Gateways are the addresses that containers send to, each with the prefix
	// length of its subnet; on the VLAN interface where there is one.
	Gateways []netip.Prefix
	// ForceAddress lets addresses that the network itself gave the bridge before
	// give way to Gateways.
	ForceAddress bool
	// Network is who gives the bridge its gateways, and IPv6Field where its
	// configuration asks for IPv6.
	Network, IPv6Field string
}

// Port is the host veth, which is a port of the bridge.
type Port struct {
	Name     string
	Bridge   string // its master
	Up       bool
	Alias    string
	MAC      net.HardwareAddr
	MTU      int
	Hairpin  bool
	Isolated bool
	VLAN     VLAN
	// SpoofCheck lets nothing in but what comes from the container's MAC. It is not
	// observed with the rest: SpoofChecks.Differences tells.
	SpoofCheck bool
}

// VLAN is a port's part in a bridge with VLAN filtering.
type VLAN struct {
	Access      int   // untagged frames belong to it; 0: there is nothing to filter
	Trunk       []int // pass tagged; ascending, without Access
	KeepDefault bool  // the bridge's default VLAN stays on the port
}

// filters says whether the bridge must look at VLANs at all.
func (v VLAN) filters() bool { return v.Access != 0 }

// Interface is the container's end.
type Interface struct {
	Name      string
	MAC       net.HardwareAddr // nil: the kernel's choice
	MTU       int
	Up        bool
	WasUp     bool // since before it gets its addresses
	DAD       bool // wait until IPv6 addresses are found to be unique
	LinkLocal bool
	// Announce are addresses to announce (gratuitous ARP, unsolicited NA), because the
	// MAC is not derived from them: neighbours may have an entry for their last user.
	Announce  []netip.Addr
	Addresses []Address
	Routes    []Route
	// AddedDefaults are the gateways of those of Routes that isDefaultGateway added.
	AddedDefaults []netip.Addr
	// AnyRouteFields says that of Routes no more is known than destination and
	// gateway, and those other fields that are set.
	AnyRouteFields bool
}

// Route is one of the container's routes, with nothing left to choose.
type Route struct {
	Dst      netip.Prefix
	Gateway  netip.Addr // zero: on the link
	MTU      int
	AdvMSS   int
	Priority int
	Table    int
	Scope    int // rtnetlink(7), enum rt_scope_t
}

const mainTable = unix.RT_TABLE_MAIN

// NewPlan is what an ADD brings about. The MTU is left to the bridge that is found
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

// setMTU gives both ends of the pair the MTU of the bridge: with several on one
// bridge, large packets vanish between its ports.
func (s *State) setMTU(mtu int) error {
	s.Bridge.MTU, s.Port.MTU, s.Container.MTU = mtu, mtu, mtu
	return s.checkMTU("bridge "+s.Bridge.Name+" has mtu", mtu)
}

// defaultMTU is what a new bridge gets where the configuration leaves it open:
// that of the host's uplink, but no less than IPv6 runs on.
func (s *State) defaultMTU(uplink int) int {
	if s.Container.hasIPv6() {
		return max(uplink, cni.MinMTUIPv6)
	}
	return uplink
}

// planAddresses puts the addresses where they belong.
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

// planMAC makes the MAC of the first IPv4 address, or else of the first one,
// unless one is asked for. On a layer 2 network there is no address yet, and the
// MAC is chosen when the link is made.
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

// withGateways names a gateway for each address where the bridge shall be it
// and IPAM did not say: the first address of the subnet after its own.
func withGateways(addresses []Address, gateway bool) ([]Address, error) {
	named := slices.Clone(addresses)
	for i, a := range named {
		if a.Gateway.IsValid() || !gateway {
			continue
		}
		g := a.Prefix.Masked().Addr().Next()
		if g == a.Prefix.Addr() || !a.Prefix.Contains(g) {
			g = a.Prefix.Masked().Addr() // the other one of a subnet of two (RFC 3021)
		}
		if g == a.Prefix.Addr() {
			return nil, cni.ConfigErrorf("isGateway: %s leaves no address for the gateway; lease from a larger subnet, or have ipam name a gateway", a.Prefix)
		}
		named[i].Gateway = g
	}
	for _, a := range named {
		// one outside the subnet is as good as any: the container gets a route to it
		if gateway && a.Gateway == a.Prefix.Addr() {
			return nil, cni.ConfigErrorf("isGateway: the gateway %s is the container's own address %s; lease another address, or set isGateway and isDefaultGateway to false and give routes in ipam", a.Gateway, a.Prefix)
		}
	}
	return named, nil
}

// routes resolves each route's gateway, table and scope, adds the default ones
// that isDefaultGateway asks for, and leaves out what stands there twice.
func routes(leased []LeasedRoute, addresses []Address, defaults []netip.Addr) []Route {
	var resolved []Route
	add := func(r Route) {
		if !slices.Contains(resolved, r) {
			resolved = append(resolved, r)
		}
	}
	for _, a := range addresses {
		if a.Gateway.IsValid() && !a.Prefix.Contains(a.Gateway) {
			// the gateway itself must be on the link before anything goes through it
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

// missingDefaults are the gateways that isDefaultGateway adds a default route by:
// for each family the first one, unless IPAM gave a default route for that
// family's main table itself.
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

// resolve gives a route without a gateway that of the first address of its
// family (CNI spec, "Result", routes[].gw), and the kernel's defaults to the rest.
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

// withIPv6Defaults follows the kernel, which knows no scope of IPv6 routes and takes
// priority 0 for its own default (IP6_RT_PRIO_USER, linux/ipv6_route.h).
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
