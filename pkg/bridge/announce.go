package bridge

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/netns"
)

// announcements tell the neighbours the container's MAC (gratuitous ARP, unsolicited
// NA) for addresses that it is not derived from, so that nobody goes on sending to
// whoever had these before. They are sent after the port forwards: the kernel's own announcement
// (arp_notify) is sent too early and lost. For the address that the MAC is derived from,
// neighbours' entries are right already, and the bridge is spared the flood.
type announcements []announcement

// AnnounceIn tells the neighbours the MAC of an interface that is attached already, in
// the namespace at path. Of one that is down nobody can have learnt anything.
func (c Interface) AnnounceIn(path string) error {
	return netns.Enter(path, func() error {
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
		of := announcement6
		if address.Is4() {
			of = announcement4
		}
		a := of(linkIndex, c.MAC, address)
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

// announcement is a packet, the socket that it is sent by, and the link and MAC that
// it goes to. It is a packet socket for IPv6 as well: by any other, the packet needs
// a route to ff00::/8, which the kernel makes some time after the link is up.
type announcement struct {
	what   string
	fd     int
	packet []byte
	to     *unix.SockaddrLinklayer
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
	return announcement{packet: packet, to: &unix.SockaddrLinklayer{
		Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: linkIndex, Halen: 6, Addr: everyone,
	}}
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// announcement6 is an unsolicited neighbour advertisement with the override flag
// to all nodes (RFC 4861 sections 4.4 and 7.2.6), in an IPv6 packet whose hop limit
// shows that it has come through no router.
func announcement6(linkIndex int, mac net.HardwareAddr, address netip.Addr) announcement {
	const advertisement, override, targetLinkLayer = 136, 0x20, 2
	allNodes := netip.MustParseAddr("ff02::1").AsSlice()
	icmp := append([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, address.AsSlice()...)
	icmp = append(append(icmp, targetLinkLayer, 1), mac...)

	addresses := slices.Concat(address.AsSlice(), allNodes)
	pseudo := binary.BigEndian.AppendUint32(slices.Clone(addresses), uint32(len(icmp))) // RFC 8200 section 8.1
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(icmp[2:], internetChecksum(append(pseudo, icmp...)))

	header := binary.BigEndian.AppendUint16([]byte{6 << 4, 0, 0, 0}, uint16(len(icmp)))
	header = append(append(header, unix.IPPROTO_ICMPV6, 255), addresses...)
	return announcement{packet: append(header, icmp...), to: &unix.SockaddrLinklayer{
		Protocol: networkOrder(unix.ETH_P_IPV6), Ifindex: linkIndex, Halen: 6, Addr: [8]byte{0x33, 0x33, 0, 0, 0, 1}, // RFC 2464 section 7
	}}
}

// internetChecksum is that of RFC 1071, of an even number of bytes.
func internetChecksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// open opens a socket that receives nothing.
func (a *announcement) open() (err error) {
	a.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return err
}
