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
)

// findBridge asks the kernel's routes for the interface of the attachment that leads to
// the container, and for the host's address there. Both stay empty where the host is no
// part of the container's network, and where nothing needs them.
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
		return nil // a network that the host is not part of
	}
	if err != nil {
		return fmt.Errorf("ask for the route to the container's address %s: %w", to, err)
	}
	if len(routes) == 0 || routes[0].Gw != nil {
		return nil // likewise: a default route would lead to somebody else
	}
	link, err := h.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return fmt.Errorf("look up the interface that leads to %s: %w", to, err)
	}
	name := link.Attrs().Name
	if !slices.ContainsFunc(p.HostLinks, func(own string) bool { return leadsBy(own, name) }) {
		return nil // "default dev eth0" leads everywhere, and is not the container's
	}
	p.Bridge = name
	if source, ok := netip.AddrFromSlice(routes[0].Src); ok && source.Unmap().Is4() {
		p.HostAddress = source.Unmap()
	}
	return nil
}

// leadsBy says whether an interface is one of the attachment's, or a VLAN's over it.
func leadsBy(own, name string) bool {
	vlan, over := strings.CutPrefix(name, own+".")
	return name == own || over && vlan != "" && strings.Trim(vlan, "0123456789") == ""
}
