package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// missing are the planned gateway addresses that the link does not have.
func (at site) missing(b Bridge) []netip.Prefix {
	var missing []netip.Prefix
	for _, g := range b.Gateways {
		if !slices.Contains(at.has, g) {
			missing = append(missing, g)
		}
	}
	return missing
}

// ensureGateways adds the missing gateway addresses to the link and, with forceAddress,
// deletes those that the network gave it before.
func (h *Host) ensureGateways(b Bridge, at *site, undo *cni.Undo) error {
	if err := h.ensureGatewayLink(b, at, undo); err != nil {
		return err
	}
	missing := at.missing(b)
	if len(missing) == 0 {
		return adoptGateways(b, at)
	}
	former := at.formerGateways(b)
	// checked again: if the link was created now, another program may have been faster
	if err := h.checkOverlap(b, *at, missing); err != nil {
		return err
	}
	if err := h.pinMAC(at.bridge); err != nil {
		return err
	}
	for _, gateway := range missing {
		gone := slices.DeleteFunc(slices.Clone(former), func(p netip.Prefix) bool { return p.Addr().Is4() != gateway.Addr().Is4() })
		// pushed first, in case the kernel's answer is lost
		undo.Push(fmt.Sprintf("delete gateway %s of %s", gateway, at.gateway.name), func() error {
			return h.dropGateway(b, gateway, gone)
		})
		if err := h.addGateway(b, at.gateway, gateway, gone); err != nil {
			return err
		}
		if gateway.Addr().Is6() {
			at.added = append(at.added, gateway.Addr())
		}
	}
	return nil
}

func (h *Host) addGateway(b Bridge, on link, gateway netip.Prefix, gone []netip.Prefix) error {
	for _, a := range gone {
		if err := h.deleteAddress(on, a); err != nil {
			return err
		}
	}
	if err := recordGateway(on.index, gateway, b.Network); err != nil {
		return err
	}
	// without duplicate address detection, which would not end while the bridge has no port
	// and therefore no carrier
	add := addAddress(on.index, on.name, gateway, false)
	add.tolerate = []unix.Errno{unix.EEXIST} // another ADD was faster
	_, err := h.rt.do(add)
	return err
}

// adoptGateways records gateway addresses that the link has already, if their records were
// lost: without these, the addresses would keep an idle bridge for ever. It does nothing on
// a bridge that is not ours, where somebody else may have added them.
func adoptGateways(b Bridge, at *site) error {
	if !IsOurs(at.bridge.mac) {
		return nil
	}
	for _, gateway := range b.Gateways {
		recorded, err := isRecorded(at.gateway.index, gateway)
		if err == nil && !recorded {
			err = recordGateway(at.gateway.index, gateway, b.Network)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// AdoptGateways records again those of the network's configured gateway addresses that its
// bridge has. GC calls it before it deletes an idle bridge, since no further ADD of the
// network may do so. Other addresses of the bridge are somebody else's.
func (h *Host) AdoptGateways(c Config, network string, gateways []netip.Prefix) error {
	b := Bridge{Name: c.Bridge, Network: network}
	if c.VLAN != 0 {
		b.VLANInterface = vlanInterface(c.Bridge, c.VLAN)
	}
	bridge, there, err := h.rt.find(lookUp(b.Name))
	if err != nil || !there || !c.Gateway {
		return err
	}
	on, there, err := h.rt.find(lookUp(b.GatewayName()))
	if err != nil || !there {
		return err
	}
	has, err := h.rt.addresses(on.index, unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	for _, gateway := range gateways {
		if slices.Contains(has, gateway) {
			b.Gateways = append(b.Gateways, gateway)
		}
	}
	return adoptGateways(b, &site{bridge: bridge, gateway: on})
}

func (h *Host) deleteAddress(on link, a netip.Prefix) error {
	err := h.nl.AddrDel(on.device(), &netlink.Addr{IPNet: toIPNet(a)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !netns.IsLinkGone(err) {
		return fmt.Errorf("delete address %s of %s: %w", a, on.name, err)
	}
	return nil
}

// dropGateway is the inverse of addGateway: it deletes the address, and adds those again that
// it replaced (gone). It does nothing if a container of any network may use the address by
// now, since networks may share a gateway.
func (h *Host) dropGateway(b Bridge, gateway netip.Prefix, gone []netip.Prefix) error {
	return whileIdle(func() error {
		used, err := h.hasContainers(b)
		if err != nil || used {
			return err
		}
		on, there, err := h.rt.find(lookUp(b.GatewayName()))
		if err != nil || !there {
			return err
		}
		if err := h.deleteAddress(on, gateway); err != nil {
			return err
		}
		for _, a := range gone {
			again := addAddress(on.index, on.name, a, false)
			again.tolerate = []unix.Errno{unix.EEXIST, unix.ENODEV} // the link may be gone, with all its addresses
			if _, err := h.rt.do(again); err != nil {
				return fmt.Errorf("give address %s back to %s: %w", a, on.name, err)
			}
		}
		return forgetGateway(on.index, gateway)
	})
}

// hasContainers says whether a container could use the gateways: one on the bridge, and in
// the gateways' VLAN if they have one.
func (h *Host) hasContainers(b Bridge) (bool, error) {
	ports, err := h.ports(b.Name)
	if err != nil {
		return false, err
	}
	for _, p := range ports {
		if !isContainer(p) {
			continue
		}
		if b.VLANInterface == "" {
			return true, nil
		}
		vlans, err := vlansOf(p.index)
		if err != nil || slices.ContainsFunc(vlans, func(r vlanRange) bool { return r.has(b.VLAN) }) {
			return true, err
		}
	}
	return false, nil
}

// checkOverlap is an error if an address of the link overlaps a missing gateway and is not
// about to be deleted. The message names the networks that may be using it.
func (h *Host) checkOverlap(b Bridge, at site, missing []netip.Prefix) error {
	former := at.formerGateways(b)
	for _, gateway := range missing {
		for _, a := range at.has {
			if !a.Overlaps(gateway) || a.Addr().IsLinkLocalUnicast() || slices.Contains(former, a) {
				continue
			}
			name := at.gateway.name
			force := ""
			if isGatewayOf(b.Network, at.gateway.index, a) {
				force = ", or set forceAddress: it is this network's own former address"
			}
			return cni.ConflictErrorf("bridge %s has %s already, which overlaps the gateway %s (%s); give the networks different subnets or bridges, delete the old address (ip address del %s dev %s)%s",
				name, a, gateway, h.usersOf(b.Name), a, name, force)
		}
	}
	return nil
}

// usersOf names the networks that have ports on a bridge.
func (h *Host) usersOf(bridge string) string {
	var networks []string
	ports, err := h.ports(bridge)
	for _, p := range ports {
		if label, ok := Label(p.alias); ok {
			network, _, _ := strings.Cut(label, "/") // not ParseOwner: somebody may have edited the alias
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

// needsIPv6 is an error if an IPv6 gateway is missing and IPv6 is off on its link.
func (at site) needsIPv6(b Bridge, missing []netip.Prefix) error {
	v6 := slices.IndexFunc(missing, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if v6 < 0 {
		return nil
	}
	if lack := at.lackOfIPv6(); lack != "" {
		return cni.UnsupportedErrorf("%s: the gateway %s needs IPv6 on this host, %s, or take the IPv6 range out of the network", orIPAM(b.IPv6Field), missing[v6], lack)
	}
	return nil
}

func orIPAM(field string) string {
	if field == "" {
		return "ipam"
	}
	return field
}

// lackOfIPv6 says why the gateways' link cannot have IPv6, and the way out; "" if it can.
func (at site) lackOfIPv6() string {
	if l := at.gateway; l.hasIPv6() {
		if l.inet6Is(confDisableIPv6, 0) {
			return ""
		}
		return fmt.Sprintf("which is off on %s; switch it on (sysctl -w net.ipv6.conf.%s.disable_ipv6=0)", l.name, strings.ReplaceAll(l.name, ".", "/"))
	}
	off, err := readSysctl("ipv6/conf/default/disable_ipv6")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "whose kernel has none (ipv6.disable=1 on its command line, or no CONFIG_IPV6); boot it with IPv6"
	case err == nil && off != "0":
		return "which is off for new links; switch it on (sysctl -w net.ipv6.conf.default.disable_ipv6=0)"
	}
	return ""
}

// addresses lists the addresses of one link, of both families for AF_UNSPEC. The kernel
// filters them by link (strict checking, Linux 4.20), so that the number of links on the
// host does not matter. A link that is gone has none.
func (c *rtnl) addresses(linkIndex, family int) ([]netip.Prefix, error) {
	// older kernels do not know the option and send all addresses; parseAddress filters them
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	replies, err := c.dump(fmt.Sprintf("list addresses of link %d", linkIndex), func() *nl.NetlinkRequest {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
		msg := nl.NewIfAddrmsg(family)
		msg.Index = uint32(linkIndex)
		req.AddData(msg)
		return req
	}, unix.RTM_NEWADDR)
	if netns.IsLinkGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	for _, reply := range replies {
		if p, ok := parseAddress(reply, linkIndex); ok {
			list = append(list, p)
		}
	}
	return list, nil
}

// parseAddress reads an RTM_NEWADDR: IFA_LOCAL if there is one, or else IFA_ADDRESS, which
// on a point-to-point link is the peer's (rtnetlink(7)). ok is false for another link.
func parseAddress(reply []byte, linkIndex int) (netip.Prefix, bool) {
	if len(reply) < unix.SizeofIfAddrmsg {
		return netip.Prefix{}, false
	}
	msg := nl.DeserializeIfAddrmsg(reply)
	if int(msg.Index) != linkIndex {
		return netip.Prefix{}, false
	}
	var address, local netip.Addr
	for a := range attributes(reply[unix.SizeofIfAddrmsg:]) {
		switch a.kind {
		case unix.IFA_ADDRESS:
			address = toAddr(a.data)
		case unix.IFA_LOCAL:
			local = toAddr(a.data)
		}
	}
	if local.IsValid() {
		address = local
	}
	p := netip.PrefixFrom(address, int(msg.Prefixlen))
	return p, p.IsValid()
}
