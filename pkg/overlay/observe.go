package overlay

import (
	"fmt"
	"net"
	"net/netip"

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
	wireGuard, err := h.observeWireGuard(&f, want)
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
	if err == nil && link == nil {
		f.Renamed, err = h.renamedTunnel(want)
	}
	if err != nil || link == nil {
		return 0, err
	}
	vx, isOurs := ourTunnel(link, want)
	if !isOurs && (leaving || want.Tunnel == nil) {
		return 0, nil
	}
	if !isOurs {
		return 0, fmt.Errorf("%s is a device of type %s that Trestle did not make; rename or delete it", TunnelName, link.Type())
	}
	f.TunnelUp = works(vx.Attrs(), want)
	f.Tunnel = &Tunnel{
		VNI:      vx.VxlanId,
		Port:     vx.Port,
		MTU:      vx.MTU,
		Local:    addrOf(vx.SrcAddr),
		MAC:      vx.HardwareAddr.String(),
		Learning: vx.Learning,
	}
	f.Tunnel.NoTxChecksum = f.Tunnel.Local.Is4() && !vx.UDPCSum || f.Tunnel.Local.Is6() && vx.UDP6ZeroCSumTx
	if f.Tunnel.Addresses, err = h.addressesOf(link); err != nil {
		return 0, err
	}
	return vx.Index, nil
}

// ourTunnel is the link as a VXLAN device, and whether it is ours.
func ourTunnel(link netlink.Link, want State) (vx *netlink.Vxlan, isOurs bool) {
	vx, ok := link.(*netlink.Vxlan)
	return vx, ok && (vx.Alias == alias || want.Tunnel != nil && vx.HardwareAddr.String() == want.Tunnel.MAC)
}

// renamedTunnel finds our device under another name; "" is none.
func (h *Host) renamedTunnel(want State) (name string, err error) {
	links, err := dump.Complete(h.nl.LinkList)
	if err != nil {
		return "", fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if _, isOurs := ourTunnel(link, want); isOurs {
			return link.Attrs().Name, nil
		}
	}
	return "", nil
}

// works says whether a device of ours is up, carries our alias, is no port of a bridge or the
// like, and takes part in what is forwarded. Peers are its neighbours by IPv6, whatever family
// the routes are of.
func works(device *netlink.LinkAttrs, want State) bool {
	forwards := !want.Forwarding.IPv4 || readSysctl(forwards4(device.Name)) != "0"
	return device.Flags&net.FlagUp != 0 && device.Alias == alias && device.MasterIndex == 0 && forwards && readSysctl(noIPv6On(device.Name)) != "1"
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
		if n.Flags&netlink.NTF_SELF == 0 {
			continue // of the bridge whose port it is
		}
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
