package way

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// mostFlows is the number of connections above which none are read: the kernel dumps them all.
const mostFlows = 20_000

// tracked lists the conntrack entries of the container's address.
func (t *traveller) tracked() bool {
	address, ok := t.address(t.packet.Destination.Is4())
	count, err := strconv.Atoi(sysctl("net/netfilter/nf_conntrack_count"))
	if !ok || err != nil || count == 0 {
		return true
	}
	if count > mostFlows {
		return t.passes("connections", "%d are tracked, too many to look through: conntrack -L --src %s", count, address)
	}
	family := netlink.InetFamily(unix.AF_INET6)
	if address.Is4() {
		family = unix.AF_INET
	}
	flows, err := dump.Complete(func() ([]*netlink.ConntrackFlow, error) {
		return netlink.ConntrackTableList(netlink.ConntrackTable, family)
	})
	if err != nil {
		return t.maybe("connections", "", "they cannot be listed: %v", err)
	}
	var of []string
	for _, f := range flows {
		if addr(f.Forward.SrcIP) == address || addr(f.Forward.DstIP) == address || addr(f.Reverse.SrcIP) == address {
			of = append(of, describe(f))
		}
	}
	if len(of) == 0 {
		return t.passes("connections", "none is tracked for %s", address)
	}
	const shown = 3
	text := strings.Join(of[:min(shown, len(of))], "; ")
	if len(of) > shown {
		text += fmt.Sprintf("; and %d more", len(of)-shown)
	}
	return t.passes("connections", "%s", text)
}

// describe shows both directions of a connection.
func describe(f *netlink.ConntrackFlow) string {
	names := map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmp"}
	end := func(address string, port uint16) string {
		if port == 0 {
			return address
		}
		return fmt.Sprintf("%s port %d", address, port)
	}
	text := fmt.Sprintf("%s %s to %s", names[f.Forward.Protocol], end(addr(f.Forward.SrcIP).String(), f.Forward.SrcPort), end(addr(f.Forward.DstIP).String(), f.Forward.DstPort))
	if addr(f.Reverse.SrcIP) != addr(f.Forward.DstIP) || f.Reverse.SrcPort != f.Forward.DstPort {
		text += ", answered by " + end(addr(f.Reverse.SrcIP).String(), f.Reverse.SrcPort)
	}
	if addr(f.Reverse.DstIP) != addr(f.Forward.SrcIP) {
		text += ", seen as " + end(addr(f.Reverse.DstIP).String(), f.Reverse.DstPort)
	}
	return text
}

func sysctl(name string) string {
	value, _ := os.ReadFile("/proc/sys/" + name) // missing: empty
	return strings.TrimSpace(string(value))
}

func nativeEndian(word uint32) []byte { return binary.NativeEndian.AppendUint32(nil, word) }
