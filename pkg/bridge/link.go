package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// link is a link as an RTM_NEWLINK describes it, with the attributes that matter here. We
// decode it ourselves, because the library does not decode the IPv6 settings, for each of
// which we would have to read a file of /proc/sys, and because its decoding would take most
// of the time of a GC that looks at a thousand links.
type link struct {
	index, master   int
	iflink          int  // IFLA_LINK: the link below this one, or a veth's peer
	iflinkElsewhere bool // iflink is in another namespace
	iflinkNSID      int  // the number of that namespace in ours; -1 if it has none
	name, alias     string
	kind            string // "bridge", "veth" …
	mac             net.HardwareAddr
	idMAC           net.HardwareAddr // of a bridge: the MAC in its id; zero if it never had a port, see pinMAC
	mtu             int
	flags           uint32 // IFF_*
	operational     bool   // the operational state is "up": a port forwards
	promiscuity     int
	vlan            int // the ID of a VLAN interface
	filtersVLANs    bool
	hairpin         bool // of a port of a bridge, as isolated
	isolated        bool
	defaultVLAN     int    // of a bridge: the VLAN of a new port, 0 for none
	inet6           []byte // IFLA_INET6_CONF; see inet6At
}

func (l link) isUp() bool { return l.flags&unix.IFF_UP != 0 }

// device is the link as the library's functions take it.
func (l link) device() netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Index, attrs.Name = l.index, l.name
	return &netlink.Device{LinkAttrs: attrs}
}

// The indices of settings in IFLA_INET6_CONF (linux/ipv6.h, DEVCONF_*).
const (
	confAcceptRA    = 3
	confDisableIPv6 = 26
	confAcceptDAD   = 27
)

// inet6At is an IPv6 setting of the link, 0 if it is not known.
func (l link) inet6At(conf int) int32 {
	if at := 4 * conf; len(l.inet6) >= at+4 {
		return int32(binary.NativeEndian.Uint32(l.inet6[at:]))
	}
	return 0
}

// inet6Is says whether an IPv6 setting of the link is known and has the value.
func (l link) inet6Is(conf int, value int32) bool {
	return len(l.inet6) >= 4*conf+4 && l.inet6At(conf) == value
}

// hasIPv6 says whether the link can have IPv6 at all, be it on or off. It cannot if the
// kernel has no IPv6, or if the MTU is too small.
func (l link) hasIPv6() bool { return len(l.inet6) > 0 }

// skipStatistics is RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h). Without it, most of the
// answer would be counters, which the kernel sums up over all CPUs.
const skipStatistics = 1 << 3

// attribute is a netlink attribute.
type attribute struct {
	kind uint16
	data []byte
}

func (a attribute) number() int {
	switch len(a.data) {
	case 1:
		return int(a.data[0])
	case 2:
		return int(binary.NativeEndian.Uint16(a.data))
	case 4:
		return int(binary.NativeEndian.Uint32(a.data))
	}
	return 0
}

func (a attribute) text() string { return strings.TrimRight(string(a.data), "\x00") }

// attributes iterates over a sequence of struct nlattr, up to the first that is malformed.
func attributes(b []byte) iter.Seq[attribute] {
	return func(yield func(attribute) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofNlAttr || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(attribute{kind, b[unix.SizeofNlAttr:length]}) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

// readLink reads an RTM_NEWLINK (struct ifinfomsg and attributes).
func readLink(b []byte) (link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return link{}, fmt.Errorf("a message of %d bytes is too short for a link", len(b))
	}
	l := link{index: int(int32(binary.NativeEndian.Uint32(b[4:]))), flags: binary.NativeEndian.Uint32(b[8:])}
	for a := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch a.kind {
		case unix.IFLA_IFNAME:
			l.name = a.text()
		case unix.IFLA_IFALIAS:
			l.alias = a.text()
		case unix.IFLA_MASTER:
			l.master = a.number()
		case unix.IFLA_LINK:
			l.iflink = a.number()
		case unix.IFLA_LINK_NETNSID:
			l.iflinkElsewhere, l.iflinkNSID = true, int(int32(a.number()))
		case unix.IFLA_ADDRESS:
			l.mac = net.HardwareAddr(a.data)
		case unix.IFLA_MTU:
			l.mtu = a.number()
		case unix.IFLA_OPERSTATE:
			l.operational = a.number() == netlink.OperUp
		case unix.IFLA_PROMISCUITY:
			l.promiscuity = a.number()
		case unix.IFLA_LINKINFO:
			l.readInfo(a.data)
		case unix.IFLA_AF_SPEC:
			l.readInet6(a.data)
		}
	}
	return l, nil
}

func (l *link) readInfo(b []byte) {
	master := ""
	for a := range attributes(b) { // a kind precedes its data, whose meaning it determines
		switch {
		case a.kind == nl.IFLA_INFO_KIND:
			l.kind = a.text()
		case a.kind == nl.IFLA_INFO_DATA:
			l.readKind(a.data)
		case a.kind == nl.IFLA_INFO_SLAVE_KIND:
			master = a.text()
		case a.kind == nl.IFLA_INFO_SLAVE_DATA && master == "bridge":
			l.readPort(a.data)
		}
	}
}

func (l *link) readKind(b []byte) {
	for a := range attributes(b) {
		switch {
		case l.kind == "bridge" && a.kind == nl.IFLA_BR_VLAN_FILTERING:
			l.filtersVLANs = a.number() != 0
		case l.kind == "bridge" && a.kind == nl.IFLA_BR_BRIDGE_ID && len(a.data) == 8: // struct ifla_bridge_id: priority and MAC
			l.idMAC = net.HardwareAddr(a.data[2:])
		case l.kind == "bridge" && a.kind == nl.IFLA_BR_VLAN_DEFAULT_PVID:
			l.defaultVLAN = a.number()
		case l.kind == "vlan" && a.kind == nl.IFLA_VLAN_ID:
			l.vlan = a.number()
		}
	}
}

func (l *link) readPort(b []byte) {
	for a := range attributes(b) {
		switch a.kind {
		case nl.IFLA_BRPORT_MODE:
			l.hairpin = a.number() != 0
		case nl.IFLA_BRPORT_ISOLATED:
			l.isolated = a.number() != 0
		}
	}
}

func (l *link) readInet6(b []byte) {
	const conf = 2 // IFLA_INET6_CONF, linux/if_link.h
	for family := range attributes(b) {
		if family.kind != unix.AF_INET6 {
			continue
		}
		for a := range attributes(family.data) {
			if a.kind == conf {
				l.inet6 = a.data
			}
		}
	}
}

// lookUp asks for a link by its name, without its statistics.
func lookUp(name string) step {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return step{what: "look up " + name, req: req, reply: unix.RTM_NEWLINK}
}

func lookUpIndex(index int) step {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
	return step{what: fmt.Sprintf("look up link %d", index), req: req, reply: unix.RTM_NEWLINK}
}

// link does a step that asks for a link. netns.IsLinkGone recognizes the error if there is
// none.
func (c *rtnl) link(s step) (link, error) {
	replies, err := c.do(s)
	if err != nil {
		return link{}, err
	}
	return readLink(replies[0])
}

// find is link, but there is false, without an error, if there is none.
func (c *rtnl) find(s step) (l link, there bool, err error) {
	l, err = c.link(s)
	if netns.IsLinkGone(err) {
		return link{}, false, nil
	}
	return l, err == nil, err
}

// links does the steps and returns the link that answers each; a zero link for a step that
// asks for none, and for an error that the step tolerates.
func (c *rtnl) links(steps ...step) ([]link, error) {
	replies, err := c.do(steps...)
	if err != nil {
		return nil, err
	}
	list := make([]link, len(steps))
	for i, reply := range replies {
		if steps[i].reply != unix.RTM_NEWLINK || reply == nil {
			continue
		}
		if list[i], err = readLink(reply); err != nil {
			return nil, fmt.Errorf("%s: %w", steps[i].what, err)
		}
	}
	return list, nil
}

// orNone makes a look-up tolerate that there is no such link.
func (s step) orNone() step {
	s.tolerate = append(s.tolerate, unix.ENODEV)
	return s
}

// list lists the links of the namespace or, if master is not 0, the ports of the bridge with
// that index. To find these, too, the kernel looks at all links, so it is not for every ADD
// and DEL.
func (c *rtnl) list(master int) ([]link, error) {
	replies, err := c.dump("list links", func() *nl.NetlinkRequest {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
		if master != 0 {
			req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
		}
		return req
	}, unix.RTM_NEWLINK)
	if err != nil {
		return nil, err
	}
	var list []link
	for _, reply := range replies {
		l, err := readLink(reply)
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		if master == 0 || l.master == master {
			list = append(list, l)
		}
	}
	return list, nil
}

// listBut lists the links of the namespace except those with the names, of which there may
// be a thousand. It reads all names and then looks up the few others, since an RTM_GETLINK
// takes the kernel ten times as long as index and name alone, and for a veth the longer, the
// more namespaces there are (peernet2id, net/core/net_namespace.c).
func (c *rtnl) listBut(names map[string]bool) ([]link, error) {
	const few = 32 // their answers fit into the socket's buffer
	indices, err := c.indices()
	if err != nil {
		return c.list(0) // an old kernel without RTM_GETNETCONF dumps
	}
	var others []step
	named := false
	for _, index := range indices {
		name, err := c.nameOf(index)
		if err != nil && !netns.IsLinkGone(err) {
			return nil, fmt.Errorf("look up the name of link %d: %w", index, err)
		}
		named = named || err == nil
		if err == nil && !names[name] {
			others = append(others, lookUpIndex(index).orNone())
		}
	}
	if !named || len(others) > few {
		return c.list(0) // SIOCGIFNAME does not work, as even lo has no name; or they are many
	}
	found, err := c.links(others...)
	return slices.DeleteFunc(found, func(l link) bool { return l.index == 0 }), err
}

// indices are the indices of all links of the namespace that can have IPv4; every port of a
// bridge can.
func (c *rtnl) indices() ([]int, error) {
	replies, err := c.dump("list the indices of links", func() *nl.NetlinkRequest {
		req := nl.NewNetlinkRequest(unix.RTM_GETNETCONF, 0)
		req.AddRawData([]byte{unix.AF_INET, 0, 0, 0})
		return req
	}, unix.RTM_NEWNETCONF)
	var indices []int
	for _, reply := range replies {
		for a := range attributes(reply[min(4, len(reply)):]) { // struct netconfmsg, padded
			if index := int(int32(a.number())); a.kind == netconfIndex && index > 0 { // not NETCONFA_IFINDEX_ALL or _DEFAULT
				indices = append(indices, index)
			}
		}
	}
	if err == nil && len(indices) == 0 {
		err = errors.New("list the indices of links: none, not even that of lo")
	}
	return indices, err
}

// nameOf is the name of the link with that index (netdevice(7)).
func (c *rtnl) nameOf(index int) (string, error) {
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	request.SetUint32(uint32(index))
	err = unix.IoctlIfreq(c.fd, unix.SIOCGIFNAME, request)
	return request.Name(), err
}
