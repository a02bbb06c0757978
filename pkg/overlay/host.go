package overlay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/trestle-cni/trestle/pkg/netns"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// Protocol is the protocol of our routes (rtnetlink(7), rtm_protocol). iproute2 assigns this
// number to nobody: every route with it is ours.
const Protocol netlink.RouteProtocol = 116

// alias is the ifalias of both devices, by which Observe tells that they are ours.
const alias = "trestle-node"

// Host is the kernel's state in the network namespace in which Open was called. It is for
// one goroutine.
type Host struct {
	nl  *netlink.Handle
	nft *nft.Conn
	// fd is a socket for batches of messages; seq is the last sequence number.
	fd  int
	seq uint32
	// key is WireGuard's private key; published and heard are for Endpoints.
	key       wgtypes.Key
	published map[string]netip.AddrPort
	heard     map[string]sighting
	// underlay are the addresses that this host published last.
	underlay []netip.Prefix
}

// Open opens the sockets. dir is where pkg/nft remembers tables that it has compared.
func Open(dir string) (*Host, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // shorter answers; Linux 4.3
	return &Host{nl: nl, nft: nft.Open(dir), fd: fd}, nil
}

// Close closes the sockets. What was applied stays.
func (h *Host) Close() error {
	h.nl.Close()
	h.nft.Close()
	return unix.Close(h.fd)
}

// link is the link of that name, nil if there is none.
func (h *Host) link(name string) (netlink.Link, error) {
	link, err := h.nl.LinkByName(name)
	if netns.IsLinkGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	return link, nil
}

// linkAt is the link with that index, of an address or route that was listed; nil if it is gone
// by now.
func (h *Host) linkAt(index int) (netlink.Link, error) {
	link, err := h.nl.LinkByIndex(index)
	if netns.IsLinkGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up link %d: %w", index, err)
	}
	return link, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the inverse. A default route may have nil, which is no prefix.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if size == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits), ok
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip) // none is the zero Addr
	return addr.Unmap()
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Sysctls of forwarding, below /proc/sys/net.
const (
	forward4 = "ipv4/ip_forward"
	forward6 = "ipv6/conf/all/forwarding"
)

// Sysctls of a device.
func forwards4(device string) string { return "ipv4/conf/" + device + "/forwarding" }
func noIPv6On(device string) string  { return "ipv6/conf/" + device + "/disable_ipv6" }

func readSysctl(name string) string {
	data, err := os.ReadFile("/proc/sys/net/" + name)
	if err != nil {
		return "" // the kernel lacks the family
	}
	return strings.TrimSpace(string(data))
}

func writeSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set net.%s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// HasIPv6 says whether the kernel has IPv6.
func HasIPv6() bool { return readSysctl("ipv6/conf/all/disable_ipv6") != "" }
