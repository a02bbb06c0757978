package bridge

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
)

// reach is what the host reaches by a link: the network of an address or of a route, or a
// router.
type reach struct {
	what   string // "the route 10.0.0.0/8"
	prefix netip.Prefix
	link   int
	router bool
}

// isCutBy says whether a new gateway would make it unreachable. A single address does not
// count, since an overlay's interface has one out of the network itself (flannel.1); nor
// does a tunnel's route to an aggregate of which this host has a subnet.
func (r reach) isCutBy(gateway netip.Prefix, isTunnel func(link int) bool) bool {
	same := r.prefix.Addr() == gateway.Addr()
	if r.router || same {
		return same
	}
	if !r.prefix.Masked().Overlaps(gateway.Masked()) || r.prefix.IsSingleIP() || r.prefix.Addr().IsLinkLocalUnicast() {
		return false
	}
	return r.prefix.Bits() >= gateway.Bits() || !isTunnel(r.link)
}

// checkRoutes is an error if a new gateway would cut the host off from what it reaches by
// another link, as an address out of its own LAN would. It lists all addresses and routes,
// but only if a gateway is missing, that is, for the first ADD of a network.
func (h *Host) checkRoutes(b Bridge, at site, missing []netip.Prefix) error {
	for _, gateway := range missing {
		reached, err := h.reached(familyOf(gateway.Addr()), at.gateway.index)
		if err != nil {
			return err
		}
		for _, r := range reached {
			if !r.isCutBy(gateway, h.isTunnel) {
				continue
			}
			if err := h.conflict(b, gateway, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// reached lists what the host reaches by links other than the one with index but. It leaves
// default routes out, which more specific ones never cut.
func (h *Host) reached(family, but int) ([]reach, error) {
	routes, err := dump.Complete(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []reach
	for _, a := range addresses {
		if p, ok := toPrefix(*a.IPNet); ok && a.LinkIndex != but {
			list = append(list, reach{"the address " + p.String(), p, a.LinkIndex, false})
		}
	}
	for _, r := range routes {
		list = append(list, reachedBy(r)...)
	}
	return slices.DeleteFunc(list, func(r reach) bool { return r.link == 0 || r.link == but }), nil
}

// reachedBy are the routers of a route and, unless it is a default route, its network.
func reachedBy(r netlink.Route) []reach {
	if r.Type != unix.RTN_UNICAST {
		return nil
	}
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	var dst netip.Prefix
	if r.Dst != nil {
		dst, _ = toPrefix(*r.Dst) // stays invalid if it is no prefix
	}
	var list []reach
	for _, hop := range hops {
		if via := toAddr(hop.Gw); via.IsValid() {
			list = append(list, reach{"the router " + via.String(), netip.PrefixFrom(via, via.BitLen()), hop.LinkIndex, true})
		}
		if dst.IsValid() && dst.Bits() > 0 {
			list = append(list, reach{"the route " + dst.String(), dst, hop.LinkIndex, false})
		}
	}
	return list
}

// isTunnel says whether the link has no neighbours, so that a route over it need not be a
// network of its own.
func (h *Host) isTunnel(index int) bool {
	l, err := h.rt.link(lookUpIndex(index))
	return err == nil && l.flags&(unix.IFF_NOARP|unix.IFF_POINTOPOINT) != 0
}

// conflict is the error of a gateway that cuts r. It is nil if the link is the network's
// own after all, because another ADD has made it since, or if it is gone by now.
func (h *Host) conflict(b Bridge, gateway netip.Prefix, r reach) error {
	l, there, err := h.rt.find(lookUpIndex(r.link))
	if err != nil || !there || l.name == b.GatewayName() {
		return err
	}
	wayOut := "give the network another subnet"
	if l.kind == "bridge" {
		wayOut += fmt.Sprintf(", or delete %s if no network needs it any more (ip link del %s)", l.name, l.name)
	}
	return cni.ConflictErrorf("ipam: the gateway %s overlaps %s of %s, and the host would lose what it reaches there; %s", gateway, r.what, l.name, wayOut)
}
