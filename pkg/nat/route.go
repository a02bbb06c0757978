package nat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// findBridge looks up the route to the container: the interface, which has to be the
// attachment's, and the host's address there. Both stay empty if the host has no address in
// the container's network, or if no option needs them.
func (p *Ports) findBridge() error {
	if p.Bridge != "" || !p.SNAT || len(p.HostLinks) == 0 {
		return nil
	}
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	for _, subnet := range p.Subnets {
		if err := p.findBridgeTo(h, subnet.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func (p *Ports) findBridgeTo(h *netlink.Handle, to netip.Addr) error {
	routes, err := h.RouteGet(net.IP(to.AsSlice()))
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		return nil // the host has no address in that network
	}
	if err != nil {
		return fmt.Errorf("ask for the route to the container's address %s: %w", to, err)
	}
	if len(routes) == 0 || routes[0].Gw != nil {
		return nil // likewise: a gateway is not the container
	}
	link, err := h.LinkByIndex(routes[0].LinkIndex)
	if netns.IsLinkGone(err) {
		return nil // and the route with it
	}
	if err != nil {
		return fmt.Errorf("look up the interface that leads to %s: %w", to, err)
	}
	name := link.Attrs().Name
	if !slices.ContainsFunc(p.HostLinks, func(own string) bool { return leadsBy(own, name) }) {
		return nil // such as "default dev eth0", which any address would match
	}
	p.Bridge = name
	if source, ok := netip.AddrFromSlice(routes[0].Src); ok && source.Unmap().Is4() {
		p.HostAddress = source.Unmap()
	}
	return nil
}

// leadsBy says whether the interface name is own, or a VLAN interface on it.
func leadsBy(own, name string) bool {
	vlan, over := strings.CutPrefix(name, own+".")
	return name == own || over && vlan != "" && strings.Trim(vlan, "0123456789") == ""
}
