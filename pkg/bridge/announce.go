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
// NA) for addresses that it is not derived from: their neighbour entries may still have the
// MAC of the address's last user. They are sent when the port forwards; the kernel's own
// announcement (arp_notify) is sent earlier and gets lost. The address that the MAC is
// derived from needs none, which spares the bridge a flooded frame.
type announcements []announcement

// AnnounceIn tells the neighbours the MAC of an interface that is attached already, in
// the namespace at path. If the interface is down, it does nothing.
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

// announcements opens a socket for each announcement, in the thread's namespace. Any thread
// may send them then.
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
			continue // another plugin's link, without the route to ff02::1 that announcement6 needs
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a.what, err)
		}
	}
	return nil
}

func (l announcements) close() {
	for _, a := range l {
		_ = unix.Close(a.fd) // all packets were sent
	}
}

// announcement is a packet, the socket that sends it, and its destination.
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

// packetSocket only sends: protocol 0 receives nothing. Closing it waits for a grace period
// (packet_release, net/packet/af_packet.c).
func packetSocket() (int, error) {
	return unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// announcement6 is an unsolicited neighbour advertisement with the override flag
// to all nodes (RFC 4861 sections 4.4 and 7.2.6). The kernel computes its checksum. It goes
// by the link's multicast route, which awaitIPv6 has waited for; a packet socket would not
// need that route, but closing it would cost a grace period.
func announcement6(linkIndex int, mac net.HardwareAddr, address netip.Addr) announcement {
	const advertisement, override, targetLinkLayer = 136, 0x20, 2
	icmp := append([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, address.AsSlice()...)
	icmp = append(append(icmp, targetLinkLayer, 1), mac...)
	return announcement{
		packet: icmp, to: &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(linkIndex)},
		open: func() (int, error) { return advertiser(linkIndex, address) },
	}
}

// advertiser is a socket that sends from the address, even before duplicate address
// detection is over (IPV6_FREEBIND). Receivers accept only the hop limit 255, by which they
// see that no router has forwarded the packet.
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
