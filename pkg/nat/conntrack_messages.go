package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// Messages about tracked flows are made here rather than by vishvananda/netlink, which can
// only list all flows: 240,000 of them take 0.7 s. The kernel can filter by port
// (CTA_FILTER, since Linux 5.8). Older kernels ignore the filter, so callers check each flow.

// flow is a tracked flow.
type flow struct {
	protocol byte
	to       netip.AddrPort // where it was sent to
	answers  netip.AddrPort // where answers come from: the source of the reply tuple
	// key has the attributes that identify the flow in a message to delete it.
	key map[uint16][]byte
}

// flowFilter selects a protocol's flows: those to a port, or all if it is 0.
type flowFilter struct {
	protocol byte
	port     uint16
}

// From linux/netfilter/nfnetlink_conntrack.h; the bits of a filter are from
// net/netfilter/nf_internals.h.
const (
	msgGet, msgDelete = 1, 2

	ctaTupleOrig, ctaTupleReply, ctaID, ctaZone, ctaFilter = 1, 2, 12, 18, 25

	ctaTupleIP, ctaTupleProto = 1, 2

	ctaIPv4Source, ctaIPv4Destination, ctaIPv6Source, ctaIPv6Destination = 1, 2, 3, 4

	ctaProtoNumber, ctaProtoSource, ctaProtoDestination = 1, 2, 3

	ctaFilterOrig, ctaFilterReply = 1, 2

	filterProtocol, filterDestinationPort = 1 << 3, 1 << 5
)

// tracker is a connection to the kernel's connection tracking.
type tracker struct{ conn *netlink.Conn }

func openTracker() (*tracker, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for connection tracking: %w", err)
	}
	return &tracker{conn}, nil
}

func (t *tracker) close() error { return t.conn.Close() }

func flowMessage(kind int, f family, flags netlink.HeaderFlags, attributes []byte) netlink.Message {
	protocol := byte(unix.AF_INET6)
	if f.is4 {
		protocol = unix.AF_INET
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{protocol, unix.NFNETLINK_V0, 0, 0}, attributes...), // struct nfgenmsg
	}
}

// list returns the flows that the filter selects; before Linux 5.8 also others. An
// interrupted dump is repeated.
func (t *tracker) list(f family, filter flowFilter) ([]flow, error) {
	attributes, err := filter.encode()
	if err != nil {
		return nil, err
	}
	return dump.Complete(func() ([]flow, error) {
		messages, err := t.conn.Execute(flowMessage(msgGet, f, netlink.Dump, attributes))
		if err != nil {
			return nil, fmt.Errorf("list tracked flows: %w", err)
		}
		var interrupted error
		var flows []flow
		for _, m := range messages {
			if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				interrupted = fmt.Errorf("list tracked flows: %w", dump.ErrInterrupted)
			}
			flow, err := decodeFlow(m.Data)
			if err != nil {
				return nil, err
			}
			flows = append(flows, flow)
		}
		return flows, interrupted
	})
}

func (filter flowFilter) encode() ([]byte, error) {
	bits := uint32(filterProtocol)
	if filter.port != 0 {
		bits |= filterDestinationPort
	}
	a := netlink.NewAttributeEncoder()
	a.Nested(ctaTupleOrig, func(a *netlink.AttributeEncoder) error {
		a.Nested(ctaTupleProto, func(a *netlink.AttributeEncoder) error {
			a.Uint8(ctaProtoNumber, filter.protocol)
			if filter.port != 0 {
				a.Bytes(ctaProtoDestination, binary.BigEndian.AppendUint16(nil, filter.port))
			}
			return nil
		})
		return nil
	})
	a.Nested(ctaFilter, func(a *netlink.AttributeEncoder) error {
		a.Uint32(ctaFilterOrig, bits)
		a.Uint32(ctaFilterReply, 0)
		return nil
	})
	return a.Encode()
}

// delete deletes the flow, if it still exists. A later one with the same tuple has another
// ID, and stays.
func (t *tracker) delete(f family, flow flow) error {
	a := netlink.NewAttributeEncoder()
	for kind, data := range flow.key {
		a.Bytes(kind, data)
	}
	attributes, err := a.Encode()
	if err != nil {
		return fmt.Errorf("encode a tracked flow: %w", err)
	}
	_, err = t.conn.Execute(flowMessage(msgDelete, f, netlink.Acknowledge, attributes))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the tracked flow to %s: %w", flow.to, err)
	}
	return nil
}

func decodeFlow(data []byte) (flow, error) {
	found := flow{key: map[uint16][]byte{}}
	if len(data) < 4 {
		return found, errors.New("decode a tracked flow: a message without a header")
	}
	a, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return found, fmt.Errorf("decode a tracked flow: %w", err)
	}
	for a.Next() {
		kind := a.Type()
		switch kind {
		case ctaTupleOrig:
			found.key[kind|unix.NLA_F_NESTED] = a.Bytes()
			a.Nested(func(a *netlink.AttributeDecoder) error {
				return decodeTuple(a, &found.protocol, &found.to, [3]uint16{ctaIPv4Destination, ctaIPv6Destination, ctaProtoDestination})
			})
		case ctaTupleReply:
			var protocol byte
			a.Nested(func(a *netlink.AttributeDecoder) error {
				return decodeTuple(a, &protocol, &found.answers, [3]uint16{ctaIPv4Source, ctaIPv6Source, ctaProtoSource})
			})
		case ctaID, ctaZone:
			found.key[kind] = a.Bytes()
		}
	}
	if err := a.Err(); err != nil {
		return found, fmt.Errorf("decode a tracked flow: %w", err)
	}
	return found, nil
}

// decodeTuple reads one endpoint of a tuple: ends are the attributes of its IPv4 address,
// its IPv6 address and its port.
func decodeTuple(a *netlink.AttributeDecoder, protocol *byte, end *netip.AddrPort, ends [3]uint16) error {
	addresses, ports := map[uint16][]byte{}, map[uint16][]byte{}
	for a.Next() {
		switch a.Type() {
		case ctaTupleIP:
			a.Nested(collect(addresses))
		case ctaTupleProto:
			a.Nested(collect(ports))
		}
	}
	address, ok := netip.AddrFromSlice(addresses[ends[0]])
	if !ok {
		address, _ = netip.AddrFromSlice(addresses[ends[1]]) // the zero Addr is no mapping's
	}
	if number := ports[ctaProtoNumber]; len(number) == 1 {
		*protocol = number[0]
	}
	if port := ports[ends[2]]; len(port) == 2 {
		*end = netip.AddrPortFrom(address.Unmap(), binary.BigEndian.Uint16(port))
	}
	return a.Err()
}

func collect(into map[uint16][]byte) func(*netlink.AttributeDecoder) error {
	return func(a *netlink.AttributeDecoder) error {
		for a.Next() {
			into[a.Type()] = a.Bytes()
		}
		return a.Err()
	}
}
