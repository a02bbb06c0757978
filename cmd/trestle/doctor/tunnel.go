package doctor

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// tunnel finds what blocks packets between hosts: the device is missing, another program
// has its port, or a chain drops its packets.
func tunnel(h *Host) []Finding {
	if h.Node == nil || h.Node.Tunnel == nil || h.Node.State == hosts.Left {
		return nil
	}
	d := *h.Node.Tunnel
	link, ok := h.LinkOf(d.Name)
	switch {
	case ok && link.Kind != d.Kind:
		return []Finding{h.tunnelFault(d, "ip link del "+d.Name, "%s is a device of another kind, %s: it has the name of the tunnel to other hosts", d.Name, link.Kind)}
	case ok && link.Up:
		return h.tunnelBlocked(d)
	}
	if i := slices.IndexFunc(h.Links, func(l inventory.Link) bool {
		return l.Name != d.Name && l.VNI == d.VNI && l.VXLANPort == d.Port && l.Kind == d.Kind
	}); i >= 0 {
		return []Finding{h.tunnelFault(d, `trestle cluster config set FILE   # with another "vni" or "port"`,
			"device %s has VNI %d and port %d, which the tunnel to other hosts needs", h.Links[i].Name, d.VNI, d.Port)}
	}
	if d.Port != 0 && slices.Contains(h.udpPorts, d.Port) {
		return []Finding{h.tunnelFault(d, fmt.Sprintf("ss -lunp 'sport = :%d'   # says which", d.Port),
			"a program has UDP port %d open, which the tunnel to other hosts needs: %s is not up", d.Port, d.Name)}
	}
	return []Finding{h.tunnelFault(d, "trestle node status   # shows why trestle-node does not make it",
		"%s, the tunnel to other hosts, is missing or down", d.Name)}
}

func (h *Host) tunnelFault(d hosts.Device, command, format string, args ...any) Finding {
	return Finding{Severity: Fault, Subject: "link " + d.Name, Text: fmt.Sprintf(format, args...), Command: command}
}

// tunnelBlocked tries a packet from one peer and one to it, since chains that drop rarely name
// single hosts.
func (h *Host) tunnelBlocked(d hosts.Device) []Finding {
	here, there, ok := h.underlay()
	if !ok || d.Port == 0 {
		return nil
	}
	for _, try := range []struct {
		what, hook string
		packet     rules.Packet
	}{
		{"comes from other hosts", "input", rules.Packet{In: h.Node.Uplink, Source: there, Destination: here, Local: true}},
		{"goes to other hosts", "output", rules.Packet{Out: h.Node.Uplink, Source: here, Destination: there}},
	} {
		try.packet.Protocol, try.packet.Port = "udp", uint16(d.Port)
		if way := h.walk(h.otherChains(try.hook, false), try.packet); way.Dropped() {
			last := way.Steps[len(way.Steps)-1]
			return []Finding{h.tunnelFault(d, openPort(way.By, try.hook, d.Port), "what %s by UDP port %d is dropped by %q in chain %s of table %s (%s)",
				try.what, d.Port, last.Rule, last.Chain, last.Table, way.By.Program)}
		}
	}
	return nil
}

// underlay returns an address of this host and one of a peer, both of the same family.
func (h *Host) underlay() (here, there netip.Addr, ok bool) {
	uplink, found := h.LinkOf(h.Node.Uplink)
	if !found {
		return here, there, false
	}
	for _, p := range h.Peers() {
		for _, theirs := range p.Underlay {
			for _, ours := range uplink.Addresses {
				if p.Way == hosts.Tunnel && ours.Addr().Is4() == theirs.Addr().Is4() && !ours.Addr().IsLinkLocalUnicast() {
					return ours.Addr(), theirs.Addr(), true
				}
			}
		}
	}
	return here, there, false
}

// openPort is the command that allows the port, for the program that made the chain.
func openPort(base rules.Base, hook string, port int) string {
	switch {
	case base.Program == "nft" && strings.HasSuffix(base.Table, "firewalld"):
		return fmt.Sprintf("firewall-cmd --permanent --add-port=%d/udp && firewall-cmd --reload", port)
	case base.Program == "nft":
		return fmt.Sprintf("nft insert rule %s %s udp dport %d accept", base.Table, base.Chain, port)
	}
	return fmt.Sprintf("%s -I %s -p udp --dport %d -j ACCEPT", base.Program, strings.ToUpper(hook), port)
}

// udpPorts are the UDP ports that programs have open. The kernel's own sockets, which have no
// inode, do not count.
func udpPorts() []int {
	var ports []int
	for _, file := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		f, err := os.Open(file)
		if err != nil {
			continue // no IPv6
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[9] == "0" {
				continue
			}
			var port int
			if _, end, _ := strings.Cut(fields[1], ":"); end != "" {
				if _, err := fmt.Sscanf(end, "%X", &port); err == nil {
					ports = append(ports, port)
				}
			}
		}
		_ = f.Close() // only read
	}
	return ports
}
