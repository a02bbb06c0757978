package overlay

import (
	"fmt"
	"net/netip"
	"slices"
)

// Changes are what Apply has to do to get from what the kernel has to what is wanted.
type Changes struct {
	// Make and Remove are the tunnel to be added and removed: both, the removal first, where
	// it exists with other settings. Set is the tunnel whose MAC, MTU, alias or state changes.
	Make, Remove, Set *Tunnel
	// Renamed is the name of our tunnel that is in the way of the one to be made.
	Renamed string
	// The same for the WireGuard device, whose settings and peers are in Want.
	MakeWireGuard, RemoveWireGuard, SetWireGuard bool

	SetPeers []WireGuardPeer // new and changed ones; without an endpoint: leave it as it is
	DelPeers []string        // keys
	// The addresses are those of the device that is wanted.
	AddAddresses  []netip.Prefix
	DelAddresses  []netip.Prefix
	AddRoutes     []Route // new ones, and those that replace another of ours
	DelRoutes     []Route
	AddFDB        []FDBEntry
	DelFDB        []FDBEntry
	AddNeighbours []Neighbour
	DelNeighbours []Neighbour
	// Peers says that the nftables table differs from Want.Peers and Want.Port.
	Peers      bool
	Forwarding Families // to be switched on
	Want       State
}

// Empty says whether there is nothing to do.
func (c Changes) Empty() bool { return c.Count() == 0 }

// Count is the number of changes.
func (c Changes) Count() int {
	n := len(c.AddAddresses) + len(c.DelAddresses) + len(c.AddRoutes) + len(c.DelRoutes) + len(c.SetPeers) + len(c.DelPeers) +
		len(c.AddFDB) + len(c.DelFDB) + len(c.AddNeighbours) + len(c.DelNeighbours)
	for _, more := range []bool{
		c.Make != nil, c.Remove != nil, c.Set != nil, c.Renamed != "", c.Peers, c.Forwarding.IPv4, c.Forwarding.IPv6,
		c.MakeWireGuard, c.RemoveWireGuard, c.SetWireGuard,
	} {
		if more {
			n++
		}
	}
	return n
}

// Strings describes the changes for people, one line each; of many of one kind the first few.
func (c Changes) Strings() []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if c.Remove != nil {
		say("remove %s", TunnelName)
	}
	if c.Renamed != "" {
		say("remove %s, which was %s", c.Renamed, TunnelName)
	}
	if c.Make != nil {
		say("make %s, VNI %d, port %d, from %s", TunnelName, c.Make.VNI, c.Make.Port, c.Make.Local)
	}
	if c.Set != nil {
		say("set %s: up, MTU %d, MAC %s", TunnelName, c.Set.MTU, c.Set.MAC)
	}
	if c.RemoveWireGuard {
		say("remove %s", WireGuardName)
	}
	if w := c.Want.WireGuard; c.MakeWireGuard {
		say("make %s, port %d, key %s", WireGuardName, w.Port, w.PublicKey)
	} else if c.SetWireGuard {
		say("set %s: up, port %d, MTU %d, key %s", WireGuardName, w.Port, w.MTU, w.PublicKey)
	}
	some(say, "add address %v to "+c.Want.device(), c.AddAddresses)
	some(say, "remove address %v from "+c.Want.device(), c.DelAddresses)
	some(say, "set peer %v of "+WireGuardName, c.SetPeers)
	some(say, "remove peer %v of "+WireGuardName, c.DelPeers)
	some(say, "add route %v", c.AddRoutes)
	some(say, "remove route %v", c.DelRoutes)
	some(say, "add %v", c.AddFDB)
	some(say, "remove %v", c.DelFDB)
	some(say, "add %v", c.AddNeighbours)
	some(say, "remove %v", c.DelNeighbours)
	if c.Peers {
		say("let VXLAN in from %d peers alone", len(c.Want.Peers))
	}
	if c.Forwarding.IPv4 || c.Forwarding.IPv6 {
		say("switch forwarding on")
	}
	return all
}

const shown = 3

func some[T any](say func(string, ...any), format string, all []T) {
	for i, one := range all {
		if i == shown {
			say("… and %d more", len(all)-shown)
			return
		}
		say(format, one)
	}
}

func (f FDBEntry) String() string  { return fmt.Sprintf("forwarding entry %s at %s", f.MAC, f.Remote) }
func (n Neighbour) String() string { return fmt.Sprintf("neighbour %s with %s", n.Addr, n.MAC) }

func (p WireGuardPeer) String() string {
	text := p.Key + " with " + join(p.Allowed)
	if p.Endpoint.IsValid() {
		text += " at " + p.Endpoint.String()
	}
	return text
}

// device is the name of the device that leads to peers, "" where all are reached directly.
func (s State) device() string {
	switch {
	case s.Tunnel != nil:
		return TunnelName
	case s.WireGuard != nil:
		return WireGuardName
	}
	return ""
}

func (r Route) String() string {
	switch r.Kind {
	case Unreachable:
		return fmt.Sprintf("%s unreachable", r.Dst)
	case ByTunnel:
		return fmt.Sprintf("%s by %s, MTU %d", r.Dst, TunnelName, r.MTU)
	case ByWireGuard:
		return fmt.Sprintf("%s by %s, MTU %d", r.Dst, WireGuardName, r.MTU)
	}
	return fmt.Sprintf("%s via %s", r.Dst, r.Via)
}

// Found is what the kernel has.
type Found struct {
	State
	// TunnelUp and WireGuardUp say that the device is up, has our alias and no master, and
	// forwards (works).
	TunnelUp, WireGuardUp bool
	// Renamed is the name that somebody gave to our tunnel.
	Renamed   string
	Endpoints Endpoints
	// Foreign are other programs' routes to wanted destinations, and their protocols.
	Foreign map[netip.Prefix]string
}

// Diff compares what is wanted with what the kernel has. No route is added where another
// program has one to the same destination.
func Diff(want State, have Found) Changes {
	c := Changes{Want: want}
	c.tunnel(want.Tunnel, have)
	c.diffWireGuard(want.WireGuard, have)
	if c.Remove != nil { // its entries and neighbours go with it
		have.FDB, have.Neighbours = nil, nil
	}
	have.Routes = slices.DeleteFunc(slices.Clone(have.Routes), func(r Route) bool {
		return c.Remove != nil && r.Kind == ByTunnel || c.RemoveWireGuard && r.Kind == ByWireGuard
	})
	c.AddRoutes, c.DelRoutes = compare(want.Routes, have.Routes)
	c.AddRoutes = slices.DeleteFunc(c.AddRoutes, func(r Route) bool { return have.Foreign[r.Dst] != "" })
	replaced := map[netip.Prefix]bool{}
	for _, r := range c.AddRoutes {
		replaced[r.Dst] = true
	}
	c.DelRoutes = slices.DeleteFunc(c.DelRoutes, func(r Route) bool { return replaced[r.Dst] })
	c.AddFDB, c.DelFDB = compare(want.FDB, have.FDB)
	c.AddNeighbours, c.DelNeighbours = compare(want.Neighbours, have.Neighbours)
	c.DelNeighbours = slices.DeleteFunc(c.DelNeighbours, func(n Neighbour) bool { // it is replaced, too
		return slices.ContainsFunc(c.AddNeighbours, func(a Neighbour) bool { return a.Addr == n.Addr })
	})
	c.Peers = want.Port != have.Port || !slices.Equal(want.Peers, have.Peers)
	c.Forwarding.IPv4 = want.Forwarding.IPv4 && !have.Forwarding.IPv4
	c.Forwarding.IPv6 = want.Forwarding.IPv6 && !have.Forwarding.IPv6
	return c
}

func (c *Changes) tunnel(want *Tunnel, have Found) {
	c.Renamed = have.Renamed
	found := have.Tunnel
	switch {
	case want == nil && found == nil:
		return
	case want == nil:
		c.Remove = found
		return
	case found == nil:
		c.Make = want
	case !want.sameDevice(*found):
		c.Remove, c.Make = found, want
	case want.MTU != found.MTU || want.MAC != found.MAC || !have.TunnelUp:
		c.Set = want
	}
	if c.Make != nil {
		c.AddAddresses = want.Addresses
		return
	}
	c.AddAddresses, c.DelAddresses = compare(want.Addresses, found.Addresses)
}

// sameDevice says whether both agree in all that cannot be changed after the device is made.
func (t Tunnel) sameDevice(other Tunnel) bool {
	return t.VNI == other.VNI && t.Port == other.Port && t.Local == other.Local && t.NoTxChecksum == other.NoTxChecksum && t.Learning == other.Learning
}

// compare returns what of want is missing in have, and what have has beyond want.
func compare[T comparable](want, have []T) (add, del []T) {
	left := map[T]bool{}
	for _, h := range have {
		left[h] = true
	}
	for _, w := range want {
		if left[w] {
			delete(left, w)
		} else {
			add = append(add, w)
		}
	}
	for _, h := range have {
		if left[h] {
			del = append(del, h)
		}
	}
	return add, del
}
