package bridge

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The messages of ADD and DEL, each of which is a step of a batch. The library could only
// send them one by one, on a socket each, and would look up every link by its name first
// (see rtnl).

// linkUp sets a link up: the one with the index, or the one with the name if index is 0.
func linkUp(index int, name string) step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	if index == 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	return step{what: "set " + name + " up", req: req}
}

// noLinkLocal keeps the kernel from giving the link a link-local address when it
// comes up. A link that has no IPv6 gets none anyway.
func noLinkLocal(index int, name string) step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	if index == 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{nl.IN6_ADDR_GEN_MODE_NONE})
	req.AddData(spec)
	return step{what: "switch link-local addresses of " + name + " off", req: req, tolerate: []unix.Errno{unix.EAFNOSUPPORT}}
}

// deleteIndex deletes a link. It tolerates that the link is gone already.
func deleteIndex(index int, name string) step {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	return step{what: "delete " + name, req: req, tolerate: []unix.Errno{unix.ENODEV}}
}

// addAddress adds an address to a link. An IPv6 address is usable at once, unless duplicate
// address detection is wanted (RFC 4862 section 5.4).
func addAddress(index int, name string, p netip.Prefix, dad bool) step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewIfAddrmsg(familyOf(p.Addr()))
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	if p.Addr().Is6() && !dad {
		msg.Flags = unix.IFA_F_NODAD
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if p.Addr().Is4() && p.Bits() < 31 { // RFC 3021: smaller ones have no broadcast address
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p)))
	}
	return step{what: fmt.Sprintf("add address %s to %s", p, name), req: req}
}

func broadcast(p netip.Prefix) []byte {
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return b[:]
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addRoute adds a route over a link. There is no NLM_F_EXCL, since several IPv6 routes to one
// destination become one with several next hops.
func addRoute(index int, name string, r Route) step {
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE)
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Scope = uint8(familyOf(r.Dst.Addr())), uint8(r.Dst.Bits()), uint8(r.Scope)
	msg.Table = unix.RT_TABLE_UNSPEC // RTA_TABLE has it, which is not limited to 8 bits
	req.AddData(msg)
	number := func(kind, value int) {
		if value != 0 {
			req.AddData(nl.NewRtAttr(kind, nl.Uint32Attr(uint32(value))))
		}
	}
	req.AddData(nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	if r.Gateway.IsValid() {
		req.AddData(viaAttribute(r))
	}
	number(unix.RTA_OIF, index)
	number(unix.RTA_TABLE, r.Table)
	number(unix.RTA_PRIORITY, r.Priority)
	if r.MTU != 0 || r.AdvMSS != 0 {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		for kind, value := range map[int]int{unix.RTAX_MTU: r.MTU, unix.RTAX_ADVMSS: r.AdvMSS} {
			if value != 0 {
				metrics.AddRtAttr(kind, nl.Uint32Attr(uint32(value)))
			}
		}
		req.AddData(metrics)
	}
	return step{what: fmt.Sprintf("add %s to %s", r, name), req: req}
}

// viaAttribute is the gateway of a route, which may be of the other address family.
func viaAttribute(r Route) *nl.RtAttr {
	if r.Gateway.Is4() == r.Dst.Addr().Is4() {
		return nl.NewRtAttr(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	return nl.NewRtAttr(unix.RTA_VIA, append(nl.Uint16Attr(uint16(familyOf(r.Gateway))), r.Gateway.AsSlice()...))
}

// forgetNeighbour deletes the neighbour entry of an address, so that the link asks again for
// its MAC.
func forgetNeighbour(index int, a netip.Addr) step {
	req := nl.NewNetlinkRequest(unix.RTM_DELNEIGH, 0)
	req.AddData(&neighbour{family: familyOf(a), index: index})
	req.AddData(nl.NewRtAttr(unix.NDA_DST, a.AsSlice()))
	return step{
		what: fmt.Sprintf("delete the neighbour entry of %s", a), req: req,
		tolerate: []unix.Errno{unix.ENOENT, unix.EAFNOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP}, // none there, or no IPv6
	}
}

// neighbour is a struct ndmsg (linux/neighbour.h).
type neighbour struct{ family, index int }

func (neighbour) Len() int { return 12 }

func (n neighbour) Serialize() []byte {
	return append([]byte{byte(n.family), 0, 0, 0}, append(nl.Uint32Attr(uint32(n.index)), 0, 0, 0, 0)...)
}

// forwarding asks whether the host forwards packets of a family.
func forwarding(family int) step {
	req := nl.NewNetlinkRequest(unix.RTM_GETNETCONF, 0)
	req.AddRawData(append([]byte{byte(family), 0, 0, 0}, attributeOf(netconfIndex, nl.Uint32Attr(^uint32(0)))...)) // NETCONFA_IFINDEX_ALL
	return step{
		what: "ask for forwarding", req: req, reply: unix.RTM_NEWNETCONF,
		tolerate: []unix.Errno{unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EINVAL}, // no such family, or an old kernel
	}
}

// linux/netconf.h
const (
	netconfIndex      = 1 // NETCONFA_IFINDEX
	netconfForwarding = 2 // NETCONFA_FORWARDING
)

func attributeOf(kind uint16, data []byte) []byte { return nl.NewRtAttr(int(kind), data).Serialize() }

// forwards reads the answer to that.
func forwards(reply []byte) bool {
	if len(reply) < 4 {
		return false
	}
	for a := range attributes(reply[4:]) { // struct netconfmsg, padded
		if a.kind == netconfForwarding {
			return a.number() != 0
		}
	}
	return false
}
