package bridge

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// Observe reads from the kernel the links that the plan names, as a State; what does not
// exist is zero. It changes nothing.
func (h *Host) Observe(plan State, container *netns.Handle) (State, error) {
	var s State
	var err error
	if s.Bridge, err = h.observeBridge(plan.Bridge); err != nil {
		return State{}, err
	}
	if s.Port, err = h.observePort(plan.Port, s.Bridge.DefaultVLAN); err != nil {
		return State{}, err
	}
	if s.Container, err = observeContainer(container, plan.Container); err != nil {
		return State{}, err
	}
	s.Forward4, s.Forward6 = h.forwards4, h.forwards6
	return s, nil
}

func (h *Host) observeBridge(plan Bridge) (Bridge, error) {
	at, err := h.look(plan)
	if err != nil || at.bridge.index == 0 {
		return Bridge{}, err
	}
	l := at.bridge
	found := Bridge{
		Name: l.name, Up: l.isUp(), MAC: l.mac, MTU: l.mtu, Promisc: l.promiscuity > 0,
		VLANFiltering: l.filtersVLANs, DefaultVLAN: l.defaultVLAN, Gateways: at.has,
	}
	found.VLANInterface, found.VLAN, err = h.observeGatewayVLAN(plan, at)
	return found, err
}

// GatewayName is the name of the link that has the gateway addresses.
func (b Bridge) GatewayName() string {
	if b.VLANInterface != "" {
		return b.VLANInterface
	}
	return b.Name
}

// observePort reads the port, with its VLANs if the plan has any.
func (h *Host) observePort(plan Port, vlanByDefault int) (Port, error) {
	l, there, err := h.rt.find(lookUp(plan.Name))
	if err != nil || !there {
		return Port{}, err
	}
	p := Port{Name: l.name, Up: l.isUp(), Alias: l.alias, MAC: l.mac, MTU: l.mtu, Hairpin: l.hairpin, Isolated: l.isolated}
	if master, there, err := h.rt.find(lookUpIndex(l.master)); there && err == nil {
		p.Bridge = master.name
	}
	p.VLAN, err = observeVLAN(l.index, vlanByDefault, plan.VLAN)
	return p, err
}

func observeContainer(container *netns.Handle, plan Interface) (found Interface, err error) {
	err = container.Do(func(h *netlink.Handle) error {
		link, err := h.LinkByName(plan.Name)
		if netns.IsLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", plan.Name, container, err)
		}
		attrs := link.Attrs()
		found = Interface{Name: attrs.Name, MAC: attrs.HardwareAddr, MTU: attrs.MTU, Up: attrs.Flags&net.FlagUp != 0}
		addresses, err := dump.Complete(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list addresses of %s in %s: %w", plan.Name, container, err)
		}
		for _, a := range addresses {
			if p, ok := toPrefix(*a.IPNet); ok {
				found.Addresses = append(found.Addresses, Address{Prefix: p})
			}
		}
		found.Routes, err = observeRoutes(h, attrs.Index, plan)
		return err
	})
	return found, err
}

// observeRoutes reads the tables in which the plan has routes; all tables if the plan does
// not know them.
func observeRoutes(h *netlink.Handle, linkIndex int, plan Interface) ([]Route, error) {
	if plan.AnyRouteFields && len(plan.Routes) > 0 {
		return routesOf(h, linkIndex, unix.RT_TABLE_UNSPEC)
	}
	var found []Route
	read := map[int]bool{}
	for _, r := range plan.Routes {
		if read[r.Table] {
			continue
		}
		read[r.Table] = true
		routes, err := routesOf(h, linkIndex, r.Table)
		if err != nil {
			return nil, err
		}
		found = append(found, routes...)
	}
	return found, nil
}
