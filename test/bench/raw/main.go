// Command raw makes and removes one attachment as ADD and DEL of bridge do, with a mapped
// port, and nothing else that these do: no configuration, no lease, no record, no look at
// what is there. It sends the fewest messages, made by hand. It is the floor for a process
// that does the kernel's work.
//
//	raw ADD|DEL NETNS BRIDGE-INDEX
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// What there is at the end of ADD. Whoever makes a pair says both indices, or none.
const (
	hostLink, containerLink   = "raw0", "eth0"
	hostIndex, containerIndex = 1 << 20, 2
)

var (
	address = []byte{10, 22, 0, 2}
	gateway = []byte{10, 22, 0, 1}
	mac     = []byte{0x0a, 0x58, 10, 22, 0, 2}
	// The element of the map: TCP port 8080 of the host, and the container's port 80.
	key, value = []byte{unix.IPPROTO_TCP, 0, 0, 0, 0x1f, 0x90, 0, 0}, append(append([]byte{}, address...), 0, 80, 0, 0)
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "raw:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: raw ADD|DEL NETNS BRIDGE-INDEX")
	}
	bridge, err := strconv.ParseUint(args[2], 10, 32)
	if err != nil {
		return err
	}
	if args[0] == "DEL" {
		if err := send(unix.NETLINK_NETFILTER, element(&lifetime{timeout: 1000, left: 1})); err != nil {
			return err
		}
		return send(unix.NETLINK_ROUTE, message(unix.RTM_DELLINK, 0, link(hostIndex, 0)))
	}
	return add(args[1], uint32(bridge))
}

func add(path string, bridge uint32) error {
	netns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := send(unix.NETLINK_ROUTE, veth(uint32(netns), bridge)); err != nil {
		return fmt.Errorf("make the links: %w", err)
	}
	if err := send(unix.NETLINK_NETFILTER, element(nil)); err != nil {
		return fmt.Errorf("map the port: %w", err)
	}
	runtime.LockOSThread() // the process ends in there
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	lo, eth0 := message(unix.RTM_NEWLINK, 0, link(1, unix.IFF_UP)), message(unix.RTM_NEWLINK, 0, link(containerIndex, unix.IFF_UP))
	addr := message(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, []byte{unix.AF_INET, 16, 0, 0, containerIndex, 0, 0, 0},
		attribute(unix.IFA_LOCAL, address), attribute(unix.IFA_ADDRESS, address))
	route := message(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		[]byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0},
		attribute(unix.RTA_GATEWAY, gateway), attribute(unix.RTA_OIF, number(containerIndex)))
	if err := send(unix.NETLINK_ROUTE, lo, addr, eth0, route); err != nil {
		return fmt.Errorf("configure the container: %w", err)
	}
	return nil
}

// veth is a pair that is born in its places.
func veth(netns, bridge uint32) []byte {
	const vethInfoPeer = 1 // linux/veth.h
	one := number(1)
	peer := append(link(containerIndex, 0), join( // it cannot be up before it has a peer
		attribute(unix.IFLA_IFNAME, text(containerLink)), attribute(unix.IFLA_NET_NS_FD, number(netns)), attribute(unix.IFLA_ADDRESS, mac),
		attribute(unix.IFLA_NUM_TX_QUEUES, one), attribute(unix.IFLA_NUM_RX_QUEUES, one))...)
	info := join(attribute(unix.IFLA_INFO_KIND, text("veth")), attribute(unix.IFLA_INFO_DATA, attribute(vethInfoPeer, peer)))
	return message(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, link(hostIndex, unix.IFF_UP),
		attribute(unix.IFLA_IFNAME, text(hostLink)), attribute(unix.IFLA_MASTER, number(bridge)),
		attribute(unix.IFLA_NUM_TX_QUEUES, one), attribute(unix.IFLA_NUM_RX_QUEUES, one), attribute(unix.IFLA_LINKINFO, info))
}

// lifetime of an element, in milliseconds.
type lifetime struct{ timeout, left uint64 }

// element is a transaction that makes the element, or has it end.
func element(life *lifetime) []byte {
	const subsystem, nested = unix.NFNL_SUBSYS_NFTABLES, unix.NLA_F_NESTED
	one := join(attribute(unix.NFTA_SET_ELEM_KEY|nested, attribute(unix.NFTA_DATA_VALUE, key)),
		attribute(unix.NFTA_SET_ELEM_DATA|nested, attribute(unix.NFTA_DATA_VALUE, value)))
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if life != nil {
		flags = unix.NLM_F_CREATE
		one = join(one, attribute(unix.NFTA_SET_ELEM_TIMEOUT, binary.BigEndian.AppendUint64(nil, life.timeout)),
			attribute(unix.NFTA_SET_ELEM_EXPIRATION, binary.BigEndian.AppendUint64(nil, life.left)))
	}
	return join(
		silent(unix.NFNL_MSG_BATCH_BEGIN, 0, []byte{unix.AF_UNSPEC, 0, 0, subsystem}),
		message(subsystem<<8|unix.NFT_MSG_NEWSETELEM, flags, []byte{unix.NFPROTO_INET, 0, 0, 0},
			attribute(unix.NFTA_SET_ELEM_LIST_TABLE, text("raw")), attribute(unix.NFTA_SET_ELEM_LIST_SET, text("ports")),
			attribute(unix.NFTA_SET_ELEM_LIST_ELEMENTS|nested, attribute(unix.NFTA_LIST_ELEM|nested, one))),
		silent(unix.NFNL_MSG_BATCH_END, 0, []byte{unix.AF_UNSPEC, 0, 0, subsystem}),
	)
}

// link is the header of messages about links.
func link(index, flags uint32) []byte {
	return join([]byte{unix.AF_UNSPEC, 0, 0, 0}, number(index), number(flags), number(flags))
}

// message asks for an answer.
func message(kind, flags uint16, header []byte, attributes ...[]byte) []byte {
	return silent(kind, flags|unix.NLM_F_ACK, header, attributes...)
}

func silent(kind, flags uint16, header []byte, attributes ...[]byte) []byte {
	flags |= unix.NLM_F_REQUEST
	body := join(append([][]byte{header}, attributes...)...)
	data := number(uint32(unix.NLMSG_HDRLEN + len(body)))
	data = binary.NativeEndian.AppendUint16(data, kind)
	data = binary.NativeEndian.AppendUint16(data, flags)
	return join(data, number(1), number(0), body)
}

func attribute(kind uint16, value []byte) []byte {
	data := binary.NativeEndian.AppendUint16(nil, uint16(unix.NLA_HDRLEN+len(value)))
	data = append(binary.NativeEndian.AppendUint16(data, kind), value...)
	return append(data, make([]byte, -len(value)&3)...)
}

func text(s string) []byte { return append([]byte(s), 0) }

func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// send sends all at once and waits for the answers.
func send(family int, messages ...[]byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // it has been answered
	if err := unix.Sendto(fd, join(messages...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buffer := make([]byte, 1<<13)
	for left := len(messages); left > 0; {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return err
		}
		for data := buffer[:n]; len(data) >= unix.NLMSG_HDRLEN+4; left-- {
			if errno := -int32(binary.NativeEndian.Uint32(data[unix.NLMSG_HDRLEN:])); errno != 0 {
				return unix.Errno(errno)
			}
			length := int(binary.NativeEndian.Uint32(data))
			data = data[min(len(data), (length+3)&^3):]
		}
	}
	return nil
}
