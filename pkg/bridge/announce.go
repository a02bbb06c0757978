package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

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
func (c Interface) announcements(linkIndex int) (list announcements, err error) {
	if !c.Up {
		return nil, nil
	}
	for _, address := range c.Announce {
		of := announcement6
		if address.Is4() {
			of = announcement4
		}
		a := of(linkIndex, c.MAC, address)
		a.what = fmt.Sprintf("announce %s at %s", address, c.MAC)
		if a.fd, err = a.open(); err != nil {
			list.close()
			return nil, fmt.Errorf("%s: %w", a.what, err)
		}
		list = append(list, a)
	}
	return list, nil
}

func (l announcements) send() error {
	for _, a := range l {
		err := unix.Sendto(a.fd, a.packet, 0, a.to)
		if errors.Is(err, unix.ENETUNREACH) {
			continue // a link of another plugin's, on which nothing can be sent yet
		}
		if err != nil {
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

// announcement is a packet, and the socket and destination that it is sent by and to.
type announcement struct {
	what   string
	fd     int
	packet []byte
	to     unix.Sockaddr
	open   func() (fd int, err error)
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
	return announcement{packet: packet, open: packetSocket, to: &unix.SockaddrLinklayer{
		Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: linkIndex, Halen: 6, Addr: everyone,
	}}
}

// packetSocket receives nothing. To close it takes a grace period (packet_release,
// net/packet/af_packet.c).
func packetSocket() (int, error) {
	return unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// announcement6 is an unsolicited neighbour advertisement with the override flag
// to all nodes (RFC 4861 sections 4.4 and 7.2.6). The kernel computes its checksum, and has a
// route for it: awaitIPv6 has waited for that. A packet socket would need none, and takes a
// grace period.
func announcement6(linkIndex int, mac net.HardwareAddr, address netip.Addr) announcement {
	const advertisement, override, targetLinkLayer = 136, 0x20, 2
	icmp := append([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, address.AsSlice()...)
	icmp = append(append(icmp, targetLinkLayer, 1), mac...)
	return announcement{
		packet: icmp, to: &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(linkIndex)},
		open: func() (int, error) { return advertiser(linkIndex, address) },
	}
}

// advertiser is a socket that sends from the address, be it found unique yet or not. The
// hop limit shows that what it sends has come through no router.
func advertiser(linkIndex int, address netip.Addr) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, err
	}
	from := &unix.SockaddrInet6{Addr: address.As16()}
	if address.IsLinkLocalUnicast() {
		from.ZoneId = uint32(linkIndex)
	}
	for _, option := range []struct{ name, value int }{{unix.IPV6_MULTICAST_HOPS, 255}, {unix.IPV6_FREEBIND, 1}} {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option.name, option.value))
	}
	if err = errors.Join(err, unix.Bind(fd, from)); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
