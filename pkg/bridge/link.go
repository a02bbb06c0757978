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

// link is what an RTM_NEWLINK says of one, as far as it matters here. The
// library's reading of it lacks the IPv6 settings, for which a file of /proc/sys
// each would have to be opened, and takes most of the time of a GC that looks at a
// thousand.
type link struct {
	index, master int
	below         int  // IFLA_LINK: the link that it is over, or a veth's other end
	elsewhere     bool // which is in another namespace
	belowNS       int  // by its id here; -1 where it has none
	name, alias   string
	kind          string // "bridge", "veth" …
	mac           net.HardwareAddr
	mtu           int
	flags         uint32 // IFF_*
	operational   bool
	promiscuity   int
	vlan          int // of a VLAN interface
	filtersVLANs  bool
	defaultVLAN   int // of a bridge: the one that a new port is in, 0 for none
	inet6         []byte
}

func (l link) isUp() bool { return l.flags&unix.IFF_UP != 0 }

// device is the link for the library's functions that change one.
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

// inet6At is an IPv6 setting of the link, 0 where it is not known.
func (l link) inet6At(conf int) int32 {
	if at := 4 * conf; len(l.inet6) >= at+4 {
		return int32(binary.NativeEndian.Uint32(l.inet6[at:]))
	}
	return 0
}

// inet6Is says whether an IPv6 setting of the link is known to have a value.
func (l link) inet6Is(conf int, value int32) bool {
	return len(l.inet6) >= 4*conf+4 && l.inet6At(conf) == value
}

// hasIPv6 says whether the link knows IPv6 at all: not without it in the kernel,
// nor with an MTU that is too small for it.
func (l link) hasIPv6() bool { return len(l.inet6) > 0 }

// skipStatistics is RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h): counters of each
// CPU and protocol are most of what there is to say of a link.
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

// attributes are a run of them (struct nlattr), up to what is none.
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
		return link{}, fmt.Errorf("a message of %d bytes is no link", len(b))
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
			l.below = a.number()
		case unix.IFLA_LINK_NETNSID:
			l.elsewhere, l.belowNS = true, int(int32(a.number()))
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
	for a := range attributes(b) {
		switch a.kind {
		case nl.IFLA_INFO_KIND:
			l.kind = a.text()
		case nl.IFLA_INFO_DATA: // after the kind, which says what it means
			for d := range attributes(a.data) {
				switch {
				case l.kind == "bridge" && d.kind == nl.IFLA_BR_VLAN_FILTERING:
					l.filtersVLANs = d.number() != 0
				case l.kind == "bridge" && d.kind == nl.IFLA_BR_VLAN_DEFAULT_PVID:
					l.defaultVLAN = d.number()
				case l.kind == "vlan" && d.kind == nl.IFLA_VLAN_ID:
					l.vlan = d.number()
				}
			}
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

// link does a step that asks for one; netns.IsLinkGone tells the error where there is
// none.
func (c *rtnl) link(s step) (link, error) {
	replies, err := c.do(s)
	if err != nil {
		return link{}, err
	}
	return readLink(replies[0])
}

// find is link, where there may be none.
func (c *rtnl) find(s step) (l link, there bool, err error) {
	l, err = c.link(s)
	if netns.IsLinkGone(err) {
		return link{}, false, nil
	}
	return l, err == nil, err
}

// links does steps that ask for links; a zero link stands for the answer that was
// not asked for, or to a refusal that the step bears.
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

// orNone lets a look-up find nothing.
func (s step) orNone() step {
	s.bear = append(s.bear, unix.ENODEV)
	return s
}

// list lists the links of the namespace; on the bridge of that index alone where
// it is not 0, but the kernel looks at all of them to find those: not for the way
// of every ADD and DEL.
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

// listBut lists the links of the namespace but those of the names, of which there may be
// a thousand: what RTM_GETLINK says of a link takes the kernel ten times as long as its
// index and its name, and of a veth the longer the more namespaces there are
// (peernet2id, net/core/net_namespace.c).
func (c *rtnl) listBut(names map[string]bool) ([]link, error) {
	const few = 32 // answers that fit into the socket's buffer
	indices, err := c.indices()
	if err != nil {
		return c.list(0) // a kernel that does not list them so
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
	if !named || len(others) > few { // lo has a name
		return c.list(0)
	}
	found, err := c.links(others...)
	return slices.DeleteFunc(found, func(l link) bool { return l.index == 0 }), err
}

// indices are those of the namespace's links that can have IPv4, which a port of a bridge
// can.
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

// nameOf is the link's name (netdevice(7)).
func (c *rtnl) nameOf(index int) (string, error) {
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	request.SetUint32(uint32(index))
	err = unix.IoctlIfreq(c.fd, unix.SIOCGIFNAME, request)
	return request.Name(), err
}
