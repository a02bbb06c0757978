package bridge

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// announcements tell the neighbours which MAC the container has, for the addresses
// that it is not derived from, so that nobody goes on sending to whoever had them
// before. They are sent after the port forwards: the kernel's own announcement
// (arp_notify) is sent too early and lost. Of the address that the MAC is made of
// nobody has anything to learn, and the bridge is spared the flood.
type announcements []announcement

// Announce tells the neighbours of c's MAC, for an interface that is attached
// already. Of one that is down nobody can have learnt anything.
func (s *Sandbox) Announce(c Interface) error {
	return s.enter(func() error {
		rt, err := openRTNL(0)
		if err != nil {
			return err
		}
		defer rt.close()
		end, err := rt.link(lookUp(c.Name))
		if err != nil || !end.isUp() {
			return err
		}
		tell, err := c.announcements(end.index)
		if err != nil {
			return err
		}
		defer tell.close()
		return tell.send()
	})
}

// announcements opens a socket for each, in the namespace of the thread. They may
// be sent from any other.
func (c Interface) announcements(linkIndex int) (announcements, error) {
	if !c.Up {
		return nil, nil
	}
	var list announcements
	for _, address := range c.Announce {
		a := announcement6(linkIndex, c.MAC, address)
		if address.Is4() {
			a = announcement4(linkIndex, c.MAC, address)
		}
		a.what = fmt.Sprintf("announce %s at %s", address, c.MAC)
		if err := a.open(); err != nil {
			list.close()
			return nil, fmt.Errorf("%s: %w", a.what, err)
		}
		list = append(list, a)
	}
	return list, nil
}

func (l announcements) send() error {
	for _, a := range l {
		if err := unix.Sendto(a.fd, a.packet, 0, a.to); err != nil {
			return fmt.Errorf("%s: %w", a.what, err)
		}
	}
	return nil
}

func (l announcements) close() {
	for _, a := range l {
		_ = unix.Close(a.fd) // sent is sent
	}
}

// announcement is a packet and the socket that it is sent by.
type announcement struct {
	what                   string
	fd                     int
	family, kind, protocol int
	packet                 []byte
	to                     unix.Sockaddr
	prepare                func(fd int) error
}

// announcement4 is an ARP announcement (RFC 5227 section 3): a request whose
// sender and target are the address itself.
func announcement4(linkIndex int, mac net.HardwareAddr, address netip.Addr) announcement {
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
	}
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// announcement6 is an unsolicited neighbour advertisement with the override flag
// to all nodes (RFC 4861 sections 4.4 and 7.2.6). The kernel fills in the
// checksum of a raw ICMPv6 socket (RFC 3542 section 3.1).
func announcement6(linkIndex int, mac net.HardwareAddr, address netip.Addr) announcement {
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
	}
}

func (a *announcement) open() error {
	fd, err := unix.Socket(a.family, a.kind|unix.SOCK_CLOEXEC, a.protocol)
	if err != nil {
		return err
	}
	a.fd = fd
	if err := a.prepare(fd); err != nil {
		_ = unix.Close(fd) // nothing was sent
		return err
	}
	return nil
}
