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
)

// missing are the planned gateways that the link does not have.
func (at site) missing(b Bridge) []netip.Prefix {
	var missing []netip.Prefix
	for _, g := range b.Gateways {
		if !slices.Contains(at.has, g) {
			missing = append(missing, g)
		}
	}
	return missing
}

// ensureGateways gives the link those of its planned addresses that it lacks, and
// takes those away that the network gave it before where forceAddress says so.
func (h *Host) ensureGateways(b Bridge, at *site, undo *cni.Undo) error {
	if err := h.ensureGatewayLink(b, at, undo); err != nil {
		return err
	}
	missing := at.missing(b)
	if len(missing) == 0 {
		return adoptGateways(b, at)
	}
	former := at.formerGateways(b)
	// checked again: another ADD may have made the bridge since the first look
	if err := h.checkOverlap(b, *at, missing); err != nil {
		return err
	}
	if err := h.pinMAC(at.bridge); err != nil {
		return err
	}
	for _, gateway := range missing {
		gone := slices.DeleteFunc(slices.Clone(former), func(p netip.Prefix) bool { return p.Addr().Is4() != gateway.Addr().Is4() })
		// pushed before the address is added, in case the kernel's answer is lost
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
	// a bridge without ports has no carrier, and detection would never end
	add := addAddress(on.index, on.name, gateway, false)
	add.bear = []unix.Errno{unix.EEXIST} // another ADD was faster
	_, err := h.rt.do(add)
	return err
}

// adoptGateways records gateways that are there already, where the record was lost: an
// idle bridge with an address of which nobody knows would stay for ever. On a bridge
// that is not ours somebody else may have given them.
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

// AdoptGateways is that for a network which no further ADD may come to: GC looks then
// whether the bridge is idle. The gateways are those that the configuration gives; what
// else the link has stays somebody else's.
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
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("delete address %s of %s: %w", a, on.name, err)
	}
	return nil
}

// dropGateway removes an address that an ADD gave to the bridge, and restores those that
// it replaced, unless a container, of whichever network, uses it by now: several networks
// may share a gateway.
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
			again.bear = []unix.Errno{unix.EEXIST}
			if _, err := h.rt.do(again); err != nil {
				return fmt.Errorf("give address %s back to %s: %w", a, on.name, err)
			}
		}
		return forgetGateway(on.index, gateway)
	})
}

// hasContainers says whether a container could use the gateways: one on the
// bridge, and in their VLAN where they have one.
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
		in := func(r vlanRange) bool { return r.first <= b.VLAN && b.VLAN <= r.last }
		if err != nil || slices.ContainsFunc(vlans, in) {
			return true, err
		}
	}
	return false, nil
}

// checkOverlap is an error where an address of the link overlaps a gateway that it
// lacks, and is not one that goes: it says who may be using it.
func (h *Host) checkOverlap(b Bridge, at site, missing []netip.Prefix) error {
	former := at.formerGateways(b)
	for _, gateway := range missing {
		for _, a := range at.has {
			if !a.Overlaps(gateway) || a.Addr().IsLinkLocalUnicast() || slices.Contains(former, a) {
				continue
			}
			name := at.gateway.name
			force := ""
			if isGiven(at.gateway.index, a, b.Network) {
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

// needsIPv6 is an error where the host is to have an IPv6 gateway and cannot.
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

// lackOfIPv6 says what keeps the gateways' link from IPv6, and the way out; "" if
// nothing does.
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

// addresses lists the addresses of one link; the kernel picks them out (strict
// checking, Linux 4.20), so that the host's other links, each with an address,
// cost nothing. AF_UNSPEC asks for both families.
func (c *rtnl) addresses(linkIndex, family int) ([]netip.Prefix, error) {
	// an older kernel does not know the option and sends all; they are sorted out below
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	replies, err := c.dump(fmt.Sprintf("list addresses of link %d", linkIndex), func() *nl.NetlinkRequest {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
		msg := nl.NewIfAddrmsg(family)
		msg.Index = uint32(linkIndex)
		req.AddData(msg)
		return req
	}, unix.RTM_NEWADDR)
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

// parseAddress reads an RTM_NEWADDR: the local address where there is one
// (point to point), or else the address (rtnetlink(7)).
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
