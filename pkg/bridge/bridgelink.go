package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// ensureBridge finds the bridge, or makes it. An existing one keeps its MTU and
// its MAC; a hundred ADDs at once make one.
func (h *Host) ensureBridge(b Bridge, undo *cni.Undo) (*netlink.Bridge, error) {
	link, err := h.findBridge(b.Name)
	if isLinkGone(err) {
		link, err = h.createBridge(b, undo)
	}
	if err != nil {
		return nil, err
	}
	return link, h.adaptBridge(b, link, undo)
}

func (h *Host) findBridge(name string) (*netlink.Bridge, error) {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("look up bridge %s: %w", name, err)
	}
	bridge, ok := link.(*netlink.Bridge)
	if !ok {
		return nil, cni.ConflictErrorf("bridge: %s exists already and is a %s, not a bridge; choose another name", name, link.Type())
	}
	return bridge, nil
}

// createBridge makes the bridge with a MAC of its own that marks it. Undone, it
// goes again if nobody has put a port on it meanwhile.
func (h *Host) createBridge(b Bridge, undo *cni.Undo) (*netlink.Bridge, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Flags = b.Name, b.MTU, newBridgeMAC(), net.FlagUp
	link := &netlink.Bridge{LinkAttrs: attrs}
	if b.VLANFiltering {
		link.VlanFiltering = &b.VLANFiltering
	}
	// pushed first, for an answer of the kernel's that does not arrive; a bridge
	// that is in use, or not ours, is left alone
	undo.Push("delete bridge "+b.Name, func() error { return h.ReapBridge(b.Name) })
	if err := h.nl.LinkAdd(link); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("create bridge %s: %w", b.Name, err)
	}
	return h.findBridge(b.Name)
}

// adaptBridge sets what this network needs of a bridge that may be another's.
// Undone, that is as it was, unless a container has come to use it.
func (h *Host) adaptBridge(b Bridge, link *netlink.Bridge, undo *cni.Undo) error {
	acceptRA := "ipv6/conf/" + b.Name + "/accept_ra"
	if before, err := readSysctl(acceptRA); err == nil && before != "0" {
		undo.Push("set accept_ra of bridge "+b.Name, func() error {
			return h.whileUnused(b.Name, func(netlink.Link) error { return setSysctl(acceptRA, before) })
		})
	}
	if err := quietIPv6(b.Name, isOurBridge(link.HardwareAddr)); err != nil {
		return err
	}
	if link.Flags&net.FlagUp == 0 {
		undo.Push("set bridge "+b.Name+" down", func() error { return h.whileUnused(b.Name, h.nl.LinkSetDown) })
		if err := h.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("set bridge %s up: %w", b.Name, err)
		}
	}
	if b.Promisc && link.Promisc == 0 {
		undo.Push("set bridge "+b.Name+" not promiscuous", func() error { return h.whileUnused(b.Name, h.nl.SetPromiscOff) })
		if err := h.nl.SetPromiscOn(link); err != nil {
			return fmt.Errorf("set bridge %s promiscuous: %w", b.Name, err)
		}
	}
	if b.VLANFiltering && !filtersVLANs(link) {
		return h.startFiltering(link, undo)
	}
	return nil
}

// quietIPv6 is for the links by which the host reaches containers: none of them
// shall give the host a default route (CVE-2020-10749). Where the link is ours and
// not yet up, its link-local address is usable at once: without one the host could
// not ask for its containers' MACs for up to two seconds (ndisc_solicit,
// net/ipv6/ndisc.c).
func quietIPv6(link string, ours bool) error {
	if err := setSysctl("ipv6/conf/"+link+"/accept_ra", "0"); err != nil || !ours {
		return err
	}
	return setSysctl("ipv6/conf/"+link+"/accept_dad", "0")
}

// ensureGateways gives the bridge those of its planned addresses that it lacks.
func (h *Host) ensureGateways(b Bridge, bridge *netlink.Bridge, undo *cni.Undo) error {
	link, err := h.gatewayLink(b, bridge, undo)
	if err != nil {
		return err
	}
	for _, gateway := range b.Gateways {
		have, err := addressesOf(link.Attrs().Index, gateway.Addr().Is4())
		if err != nil {
			return err
		}
		if slices.Contains(have, gateway) {
			continue
		}
		gone, err := h.overlapping(b, link, gateway, have)
		if err != nil {
			return err
		}
		if err := h.pinMAC(bridge); err != nil {
			return err
		}
		// pushed first, for an answer of the kernel's that does not arrive
		undo.Push(fmt.Sprintf("delete gateway %s of %s", gateway, link.Attrs().Name), func() error {
			return h.dropGateway(b, gateway, gone)
		})
		if err := h.addGateway(link, gateway, gone); err != nil {
			return err
		}
	}
	return nil
}

// overlapping are the addresses of the link whose subnets overlap the gateway's:
// an error that says who may be using them, unless forceAddress says that they go.
// Others belong to other networks on the bridge and stay.
func (h *Host) overlapping(b Bridge, link netlink.Link, gateway netip.Prefix, have []netip.Prefix) ([]netip.Prefix, error) {
	var overlap []netip.Prefix
	for _, a := range have {
		if !a.Overlaps(gateway) || a.Addr().IsLinkLocalUnicast() {
			continue
		}
		if !b.ForceAddress {
			name := link.Attrs().Name
			return nil, cni.ConflictErrorf("bridge %s has %s already, which overlaps the gateway %s (%s); give the networks different subnets or bridges, delete the old address (ip address del %s dev %s), or set forceAddress",
				name, a, gateway, h.usersOf(b.Name), a, name)
		}
		overlap = append(overlap, a)
	}
	return overlap, nil
}

// usersOf names the networks that have ports on a bridge.
func (h *Host) usersOf(bridge string) string {
	var networks []string
	ports, err := h.ports(bridge)
	for _, p := range ports {
		if label, ok := ownerLabel(p.Attrs().Alias); ok {
			network, _, _ := strings.Cut(label, "/") // a person may have written the alias
			networks = append(networks, network)
		}
	}
	slices.Sort(networks)
	networks = slices.Compact(networks)
	switch {
	case err != nil:
		return "its networks could not be found: " + err.Error()
	case len(networks) == 0:
		return "no network has containers on the bridge"
	default:
		return "networks with containers on the bridge: " + strings.Join(networks, ", ")
	}
}

func (h *Host) addGateway(link netlink.Link, gateway netip.Prefix, gone []netip.Prefix) error {
	for _, a := range gone {
		if err := h.nl.AddrDel(link, &netlink.Addr{IPNet: toIPNet(a)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete address %s of %s: %w", a, link.Attrs().Name, err)
		}
	}
	// a bridge without ports has no carrier, and detection would never end
	err := h.nl.AddrAdd(link, newAddr(gateway, false))
	if err != nil && !errors.Is(err, unix.EEXIST) { // another ADD was faster
		return fmt.Errorf("add gateway %s to %s: %w", gateway, link.Attrs().Name, err)
	}
	return nil
}

// pinMAC fixes the MAC of a bridge that is not ours before it becomes anybody's
// gateway. An unpinned one has the MAC of its lowest port, and none at all
// without ports, where setting it to itself would fail.
func (h *Host) pinMAC(link netlink.Link) error {
	mac := link.Attrs().HardwareAddr
	if isOurBridge(mac) {
		return nil // pinned at its birth
	}
	if len(mac) != 6 || slices.Max(mac) == 0 {
		mac = randomMAC()
	}
	if err := h.nl.LinkSetHardwareAddr(link, mac); err != nil {
		return fmt.Errorf("pin MAC %s of bridge %s: %w", mac, link.Attrs().Name, err)
	}
	return nil
}

// addressesOf lists the addresses of one link and family; the kernel picks them
// out (strict checking, Linux 4.20), so that the host's other links, each with
// an IPv6 address, cost nothing.
func addressesOf(linkIndex int, ipv4 bool) ([]netip.Prefix, error) {
	family := unix.AF_INET6
	if ipv4 {
		family = unix.AF_INET
	}
	socket, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer socket.Close()
	// an older kernel does not know the option and sends all; they are sorted out below
	_ = unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	msg := nl.NewIfAddrmsg(family)
	msg.Index = uint32(linkIndex)
	req.AddData(msg)
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, fmt.Errorf("list addresses of link %d: %w", linkIndex, err)
	}
	var list []netip.Prefix
	for _, reply := range replies {
		if p, ok := parseAddress(reply, linkIndex); ok {
			list = append(list, p)
		}
	}
	return list, nil
}

// parseAddress reads an RTM_NEWADDR: the local address where there is one
// (point to point), or else the address (rtnetlink(7)).
func parseAddress(reply []byte, linkIndex int) (netip.Prefix, bool) {
	msg := nl.DeserializeIfAddrmsg(reply)
	attrs, err := nl.ParseRouteAttr(reply[msg.Len():])
	if err != nil || int(msg.Index) != linkIndex {
		return netip.Prefix{}, false
	}
	var address, local netip.Addr
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFA_ADDRESS:
			address = toAddr(a.Value)
		case unix.IFA_LOCAL:
			local = toAddr(a.Value)
		}
	}
	if local.IsValid() {
		address = local
	}
	p := netip.PrefixFrom(address, int(msg.Prefixlen))
	return p, p.IsValid()
}

// ports lists the links on a bridge; the kernel picks them out, but looks at
// every link of the host to do so: not for the way of every ADD and DEL.
func (h *Host) ports(bridge string) ([]netlink.Link, error) {
	link, err := h.nl.LinkByName(bridge)
	if isLinkGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", bridge, err)
	}
	index := link.Attrs().Index
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(index))))
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("list ports of bridge %s: %w", bridge, err)
	}
	var ports []netlink.Link
	for _, reply := range replies {
		link, err := netlink.LinkDeserialize(nil, reply)
		if err != nil {
			return nil, fmt.Errorf("read port of bridge %s: %w", bridge, err)
		}
		if link.Attrs().MasterIndex == index {
			ports = append(ports, link)
		}
	}
	return ports, nil
}
