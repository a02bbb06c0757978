package bridge

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// Observe finds in the kernel what a plan names: the same type, and zero values
// where there is nothing. It changes nothing.
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

// GatewayName is the link that has the gateway addresses.
func (b Bridge) GatewayName() string {
	if b.VLANInterface != "" {
		return b.VLANInterface
	}
	return b.Name
}

// observePort asks for the port with its flags, which the library leaves out.
func (h *Host) observePort(plan Port, vlanByDefault int) (Port, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(plan.Name)))
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if netns.IsLinkGone(err) {
		return Port{}, nil
	}
	if err != nil || len(replies) == 0 {
		return Port{}, fmt.Errorf("look up %s: %w", plan.Name, err)
	}
	link, err := netlink.LinkDeserialize(nil, replies[0])
	if err != nil {
		return Port{}, fmt.Errorf("read %s: %w", plan.Name, err)
	}
	attrs := link.Attrs()
	p := Port{Name: attrs.Name, Up: attrs.Flags&net.FlagUp != 0, Alias: attrs.Alias, MAC: attrs.HardwareAddr, MTU: attrs.MTU}
	if master, err := h.nl.LinkByIndex(attrs.MasterIndex); attrs.MasterIndex != 0 && err == nil {
		p.Bridge = master.Attrs().Name
	}
	if err := p.readFlags(replies[0]); err != nil {
		return Port{}, fmt.Errorf("read port flags of %s: %w", plan.Name, err)
	}
	p.VLAN, err = observeVLAN(attrs.Index, vlanByDefault, plan.VLAN)
	return p, err
}

// readFlags descends to IFLA_LINKINFO, IFLA_INFO_SLAVE_DATA (linux/if_link.h).
func (p *Port) readFlags(reply []byte) error {
	attrs, err := nl.ParseRouteAttr(reply[unix.SizeofIfInfomsg:])
	for _, wanted := range []uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_SLAVE_DATA} {
		if err != nil {
			return err
		}
		var inner []byte
		for _, a := range attrs {
			if a.Attr.Type&^unix.NLA_F_NESTED == wanted {
				inner = a.Value
			}
		}
		attrs, err = nl.ParseRouteAttr(inner)
	}
	for _, a := range attrs {
		on := len(a.Value) > 0 && a.Value[0] != 0
		switch a.Attr.Type {
		case nl.IFLA_BRPORT_MODE:
			p.Hairpin = on
		case nl.IFLA_BRPORT_ISOLATED:
			p.Isolated = on
		}
	}
	return err
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

// observeRoutes reads the tables that the plan has routes in, and all where it
// does not tell.
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
