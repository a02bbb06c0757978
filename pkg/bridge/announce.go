package bridge

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Announce tells the neighbours which MAC the container has, for the addresses
// that it is no function of, so that nobody goes on sending to whoever had them
// before. It comes after the port forwards: the kernel's own announcement
// (arp_notify) is sent too early and lost. Of the address that the MAC is made of
// nobody has anything to learn, and the bridge is spared the flood.
func (s *Sandbox) Announce(c Interface) error {
	if len(c.Announce) == 0 || !c.Up {
		return nil
	}
	return s.do(func(h *netlink.Handle) error {
		link, err := h.LinkByName(c.Name)
		if err != nil {
			return fmt.Errorf("look up %s: %w", c.Name, err)
		}
		if link.Attrs().Flags&net.FlagUp == 0 {
			return nil // nobody can have learnt anything of it
		}
		for _, address := range c.Announce {
			send := announce6
			if address.Is4() {
				send = announce4
			}
			if err := send(link.Attrs().Index, c.MAC, address); err != nil {
				return fmt.Errorf("announce %s at %s: %w", address, c.MAC, err)
			}
		}
		return nil
	})
}

// announcement is a packet and the socket that it is sent by.
type announcement struct {
	family, kind, protocol int
	packet                 []byte
	to                     unix.Sockaddr
	prepare                func(fd int) error
}

// announce4 sends an ARP announcement (RFC 5227 section 3): a request whose
// sender and target are the address itself.
func announce4(linkIndex int, mac net.HardwareAddr, address netip.Addr) error {
	packet := binary.BigEndian.AppendUint16(nil, 1)               // Ethernet
	packet = binary.BigEndian.AppendUint16(packet, unix.ETH_P_IP) // protocol
	packet = append(packet, 6, 4)                                 // lengths of MAC and address
	packet = binary.BigEndian.AppendUint16(packet, 1)             // request
	packet = append(append(packet, mac...), address.AsSlice()...)
	packet = append(append(packet, make([]byte, 6)...), address.AsSlice()...)
	everyone := [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return announcement{
		family: unix.AF_PACKET, kind: unix.SOCK_DGRAM, packet: packet,
		to:      &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: linkIndex, Halen: 6, Addr: everyone},
		prepare: func(int) error { return nil },
	}.send()
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// announce6 sends an unsolicited neighbour advertisement with the override flag
// to all nodes (RFC 4861 sections 4.4 and 7.2.6). The kernel fills in the
// checksum of a raw ICMPv6 socket (RFC 3542 section 3.1).
func announce6(linkIndex int, mac net.HardwareAddr, address netip.Addr) error {
	const advertisement, override, targetLinkLayer = 136, 0x20, 2
	packet := append([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, address.AsSlice()...)
	packet = append(append(packet, targetLinkLayer, 1), mac...)
	return announcement{
		family: unix.AF_INET6, kind: unix.SOCK_RAW, protocol: unix.IPPROTO_ICMPV6, packet: packet,
		to: &unix.SockaddrInet6{ZoneId: uint32(linkIndex), Addr: netip.MustParseAddr("ff02::1").As16()},
		prepare: func(fd int) error {
			// a receiver drops an advertisement that may have come through a router
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: address.As16()})
		},
	}.send()
}

func (a announcement) send() error {
	fd, err := unix.Socket(a.family, a.kind|unix.SOCK_CLOEXEC, a.protocol)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // sent is sent
	if err := a.prepare(fd); err != nil {
		return err
	}
	return unix.Sendto(fd, a.packet, 0, a.to)
}
