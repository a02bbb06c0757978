package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// message asks the kernel to add or delete one object.
type message struct {
	what string // "add route 10.40.2.0/24 …", for its error
	req  *nl.NetlinkRequest
	pass []unix.Errno // errors that count as success
}

// batchSize is how many messages go in one send: a thousand peers are three thousand
// objects, and one send and answer for each costs four times as much. If all of a batch are
// refused, the answers still fit into the socket's buffer (NETLINK_CAP_ACK: without the
// messages that they answer).
const batchSize = 128

// send sends all messages. Each succeeds or fails by itself; errs has one entry for each, in
// their order.
func (h *Host) send(all []message) (errs []error) {
	for len(all) > 0 {
		n := min(batchSize, len(all))
		errs = append(errs, h.sendBatch(all[:n])...)
		all = all[n:]
	}
	return errs
}

// sendBatch asks for an acknowledgement of the last message only; errors are answered in any
// case. The kernel has handled all messages when sendto returns (netlink_rcv_skb,
// net/netlink/af_netlink.c), so that each answer is in the socket's buffer or lost.
func (h *Host) sendBatch(batch []message) []error {
	errs := make([]error, len(batch))
	first := h.seq + 1
	var data []byte
	for i, m := range batch {
		h.seq++
		m.req.Seq = h.seq
		m.req.Flags &^= unix.NLM_F_ACK
		if i == len(batch)-1 {
			m.req.Flags |= unix.NLM_F_ACK
		}
		data = append(data, m.req.Serialize()...)
		data = append(data, make([]byte, (4-len(data)%4)%4)...)
	}
	if err := unix.Sendto(h.fd, data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		errs[0] = fmt.Errorf("%s, and %d more: %w", batch[0].what, len(batch)-1, err)
		return errs
	}
	buffer := make([]byte, 1<<15)
	for {
		n, _, err := unix.Recvfrom(h.fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			h.drain(buffer)
			errs[0] = fmt.Errorf("%s, and %d more: wait for the kernel's answer: %w", batch[0].what, len(batch)-1, err)
			return errs
		}
		if answered(batch, first, buffer[:n], errs) {
			return errs
		}
	}
}

// drain reads the answers that are left after some were lost: once a socket's buffer has
// overflowed, the kernel sends it nothing more until it is empty (netlink_rcv_wake).
func (h *Host) drain(buffer []byte) {
	for {
		if _, _, err := unix.Recvfrom(h.fd, buffer, 0); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// answered reads the kernel's answers into errs, and says whether the last message's is among
// them.
func answered(batch []message, first uint32, data []byte, errs []error) (last bool) {
	for len(data) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(data))
		kind, seq := binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint32(data[8:])
		if length < unix.SizeofNlMsghdr+4 || length > len(data) {
			return last
		}
		if i := int(int32(seq - first)); kind == unix.NLMSG_ERROR && i >= 0 && i < len(batch) {
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(data[unix.SizeofNlMsghdr:])))
			errs[i] = batch[i].refused(errno)
			last = last || i == len(batch)-1
		}
		data = data[min(len(data), (length+3)&^3):]
	}
	return last
}

func (m message) refused(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	if slices.Contains(m.pass, errno) {
		return nil
	}
	return fmt.Errorf("%s: %w", m.what, errno)
}

// gone are the errors of deleting what does not exist, or was on a link that does not.
var gone = []unix.Errno{unix.ESRCH, unix.ENOENT, unix.ENODEV}

// setNeigh adds or replaces a neighbour or an entry of the forwarding database.
func setNeigh(what fmt.Stringer, n *netlink.Neigh) message {
	return message{
		what: "add " + what.String(), pass: []unix.Errno{unix.ENOENT},
		req: neighRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, n),
	}
}

func delNeigh(what fmt.Stringer, n *netlink.Neigh) message {
	return message{what: "remove " + what.String(), pass: gone, req: neighRequest(unix.RTM_DELNEIGH, 0, n)}
}

func neighRequest(kind, flags int, n *netlink.Neigh) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(kind, flags)
	request.AddData(&netlink.Ndmsg{Family: uint8(n.Family), Index: uint32(n.LinkIndex), State: uint16(n.State), Flags: uint8(n.Flags)})
	request.AddData(nl.NewRtAttr(netlink.NDA_DST, n.IP))
	request.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, n.HardwareAddr))
	return request
}

func (f FDBEntry) neigh(tunnel int) *netlink.Neigh {
	mac, _ := net.ParseMAC(f.MAC) // of a plan, or of the kernel's
	return &netlink.Neigh{
		LinkIndex: tunnel, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, Flags: netlink.NTF_SELF,
		IP: f.Remote.AsSlice(), HardwareAddr: mac,
	}
}

func (n Neighbour) neigh(tunnel int) *netlink.Neigh {
	mac, _ := net.ParseMAC(n.MAC) // of a plan, or of the kernel's
	return &netlink.Neigh{
		LinkIndex: tunnel, Family: familyOf(n.Addr), State: netlink.NUD_PERMANENT, IP: n.Addr.AsSlice(), HardwareAddr: mac,
	}
}

// add adds a route and replaces none: NLM_F_REPLACE would replace the first route to that
// destination, whoever made it (fib_table_insert, net/ipv4/fib_trie.c).
func (r Route) add(device int) message {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len = uint8(familyOf(r.Dst.Addr())), uint8(r.Dst.Bits())
	msg.Protocol = uint8(Protocol)
	request := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	request.AddData(msg)
	request.AddData(nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	switch {
	case r.Kind == Unreachable:
		msg.Type = unix.RTN_UNREACHABLE
		return message{what: "add route " + r.String(), req: request}
	case !r.Via.IsValid():
	case r.Dst.Addr().Is4() && r.Via.Is6():
		request.AddData(nl.NewRtAttr(unix.RTA_VIA, rtVia(r.Via)))
	default:
		request.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, r.Via.AsSlice()))
	}
	if r.Kind != Direct {
		request.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(device))))
	}
	if r.Kind == ByTunnel {
		msg.Flags = unix.RTNH_F_ONLINK
	}
	if r.Kind == ByWireGuard {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	if r.MTU != 0 {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(uint32(r.MTU)))
		request.AddData(metrics)
	}
	return message{what: "add route " + r.String(), req: request}
}

// rtVia is a struct rtvia.
func rtVia(a netip.Addr) []byte {
	return append(binary.NativeEndian.AppendUint16(nil, uint16(familyOf(a))), a.AsSlice()...)
}

// del deletes our route to the destination, of whichever type, and no route of another protocol.
func (r Route) del() message {
	msg := nl.NewRtDelMsg()
	msg.Family, msg.Dst_len = uint8(familyOf(r.Dst.Addr())), uint8(r.Dst.Bits())
	msg.Protocol = uint8(Protocol)
	request := nl.NewNetlinkRequest(unix.RTM_DELROUTE, 0)
	request.AddData(msg)
	request.AddData(nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	return message{what: "delete route " + r.String(), pass: gone, req: request}
}
