package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// Observe reads what the kernel has of ours, and what of others is in the way of want. The
// error names a device that has our name and that Trestle did not make.
func (h *Host) Observe(want State) (Found, error) { return h.observe(want, false) }

// observe is Observe. If leaving, everything of ours is to be removed, and another program's
// device with our name is no error.
func (h *Host) observe(want State, leaving bool) (Found, error) {
	var f Found
	tunnel, err := h.observeTunnel(&f, want, leaving)
	if err != nil {
		return f, err
	}
	wireGuard, err := h.observeWireGuard(&f, want.WireGuard != nil)
	if err != nil {
		return f, err
	}
	if err := h.observeRoutes(&f, map[int]Kind{tunnel: ByTunnel, wireGuard: ByWireGuard}, want); err != nil {
		return f, err
	}
	if tunnel != 0 {
		if err := h.observeNeighbours(&f, tunnel); err != nil {
			return f, err
		}
	}
	if err := h.observePeers(&f, want); err != nil {
		return f, err
	}
	f.Forwarding = Families{IPv4: readSysctl(forward4) != "0", IPv6: readSysctl(forward6) != "0"}
	f.sort()
	return f, nil
}

// observeTunnel reads the VXLAN device. It is ours by its alias or by its MAC, a hash of this
// host's id: the kernel takes no alias in the message that adds a device, and Apply may be
// killed right after that.
func (h *Host) observeTunnel(f *Found, want State, leaving bool) (index int, err error) {
	link, err := h.link(TunnelName)
	if err != nil || link == nil {
		return 0, err
	}
	vx, ok := link.(*netlink.Vxlan)
	isOurs := ok && (vx.Alias == alias || want.Tunnel != nil && vx.HardwareAddr.String() == want.Tunnel.MAC)
	if !isOurs && (leaving || want.Tunnel == nil) {
		return 0, nil
	}
	if !isOurs {
		return 0, fmt.Errorf("%s is a device of type %s that Trestle did not make; rename or delete it", TunnelName, link.Type())
	}
	f.TunnelUp = vx.Flags&net.FlagUp != 0 && vx.Alias == alias
	f.Tunnel = &Tunnel{VNI: vx.VxlanId, Port: vx.Port, MTU: vx.MTU, Local: addrOf(vx.SrcAddr), MAC: vx.HardwareAddr.String()}
	f.Tunnel.NoTxChecksum = f.Tunnel.Local.Is4() && !vx.UDPCSum || f.Tunnel.Local.Is6() && vx.UDP6ZeroCSumTx
	if f.Tunnel.Addresses, err = h.addressesOf(link); err != nil {
		return 0, err
	}
	return vx.Index, nil
}

// observeRoutes reads the main table: our routes, and others' to wanted destinations.
// devices maps the indices of our devices to the kind of route that leads through them.
func (h *Host) observeRoutes(f *Found, devices map[int]Kind, want State) error {
	wanted := map[netip.Prefix]bool{}
	for _, r := range want.Routes {
		wanted[r.Dst] = true
	}
	f.Foreign = map[netip.Prefix]string{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump.Complete(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			dst, ok := prefixOf(r.Dst)
			if !ok {
				continue
			}
			if r.Protocol == Protocol {
				f.Routes = append(f.Routes, routeOf(dst, r, devices))
			} else if wanted[dst] {
				f.Foreign[dst] = r.Protocol.String()
			}
		}
	}
	return nil
}

func routeOf(dst netip.Prefix, r netlink.Route, devices map[int]Kind) Route {
	route := Route{Dst: dst, Kind: Direct, Via: addrOf(r.Gw), MTU: r.MTU}
	if via, ok := r.Via.(*netlink.Via); ok {
		route.Via = addrOf(via.Addr)
	}
	if r.Type == unix.RTN_UNREACHABLE {
		route.Kind = Unreachable
	} else if kind, ok := devices[r.LinkIndex]; ok && r.LinkIndex != 0 {
		route.Kind = kind
	}
	return route
}

func (h *Host) observeNeighbours(f *Found, tunnel int) error {
	forwards, err := dump.Complete(func() ([]netlink.Neigh, error) { return h.nl.NeighList(tunnel, unix.AF_BRIDGE) })
	if err != nil {
		return fmt.Errorf("list the forwarding database of %s: %w", TunnelName, err)
	}
	for _, n := range forwards {
		f.FDB = append(f.FDB, FDBEntry{n.HardwareAddr.String(), addrOf(n.IP)})
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		neighbours, err := dump.Complete(func() ([]netlink.Neigh, error) { return h.nl.NeighList(tunnel, family) })
		if err != nil {
			return fmt.Errorf("list neighbours on %s: %w", TunnelName, err)
		}
		for _, n := range neighbours {
			if n.State&netlink.NUD_PERMANENT != 0 {
				f.Neighbours = append(f.Neighbours, Neighbour{addrOf(n.IP), n.HardwareAddr.String()})
			}
		}
	}
	return nil
}

// Uplink is the link that leads to the other hosts.
type Uplink struct {
	Name      string
	MTU       int
	Addresses []netip.Prefix // the first of each family that others can reach
	Up        bool
}

// FindUplink finds the link with this name or, where name is "", the link with the address
// only or, where that is not given either, the link of the default route. With only, no
// other address is taken.
func (h *Host) FindUplink(name string, only ...netip.Addr) (Uplink, error) {
	link, err := h.uplink(name, only)
	if err != nil {
		return Uplink{}, err
	}
	attrs := link.Attrs()
	u := Uplink{Name: attrs.Name, MTU: attrs.MTU, Up: attrs.Flags&net.FlagUp != 0}
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, unix.AF_UNSPEC) })
	if err != nil {
		return Uplink{}, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
	}
	for _, a := range addresses {
		p, ok := prefixOf(a.IPNet)
		temporary := a.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0
		if !ok || temporary || p.Addr().IsLinkLocalUnicast() || p.Addr().IsLoopback() || len(only) > 0 && !slices.Contains(only, p.Addr()) {
			continue
		}
		if !slices.ContainsFunc(u.Addresses, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }) {
			u.Addresses = append(u.Addresses, p)
		}
	}
	if len(u.Addresses) == 0 {
		return u, fmt.Errorf("uplink %s: no address that others could reach", u.Name)
	}
	return u, nil
}

func (h *Host) uplink(name string, only []netip.Addr) (netlink.Link, error) {
	if name != "" {
		link, err := h.link(name)
		if err == nil && link == nil {
			err = fmt.Errorf("uplink: no device %s; set \"interface\" in node.json to the one that leads to the other hosts", name)
		}
		return link, err
	}
	if len(only) > 0 {
		return h.linkWith(only[0])
	}
	return h.defaultLink()
}

func (h *Host) linkWith(addr netip.Addr) (netlink.Link, error) {
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, familyOf(addr)) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if addrOf(a.IP) != addr {
			continue
		}
		if link, err := h.linkAt(a.LinkIndex); err != nil || link != nil {
			return link, err
		}
	}
	return nil, fmt.Errorf("uplink: no device has the address %s (\"address\" in node.json)", addr)
}

func (h *Host) defaultLink() (netlink.Link, error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump.Complete(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); ok && p.Bits() != 0 || r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST {
				continue
			}
			if link, err := h.linkAt(r.LinkIndex); err != nil || link != nil {
				return link, err
			}
		}
	}
	return nil, errors.New("uplink: there is no default route; set \"interface\" in node.json to the device that leads to the other hosts")
}
