package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
)

// elsewhere stands for an address in the Internet: one for documentation (RFC 5737, RFC 3849),
// by whether it is IPv4.
var elsewhere = map[bool]netip.Addr{true: netip.MustParseAddr("203.0.113.1"), false: netip.MustParseAddr("2001:db8:ffff::1")}

// forwardDrops finds another program's chain that drops what containers send or receive.
// An accept in Trestle's table does not prevent that: each base chain decides for itself.
func forwardDrops(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		if n.Internal || n.Bridge == "" {
			continue
		}
		for _, is4 := range []bool{true, false} {
			if f, ok := h.forwardDrop(n, is4); ok {
				all = append(all, f)
			}
		}
	}
	return all
}

// forwardDrop tries the packets of one container, since chains that drop rarely name single
// containers.
func (h *Host) forwardDrop(n inventory.Network, is4 bool) (Finding, bool) {
	address, ok := h.someone(n.Name, is4)
	uplink, routed := h.uplink(is4)
	if !ok || !routed {
		return Finding{}, false
	}
	link, far := h.gatewayLink(n), elsewhere[is4]
	for _, try := range []struct {
		what   string
		packet rules.Packet
	}{
		{"traffic from containers", rules.Packet{In: link, Out: uplink, Source: address, Destination: far, Protocol: "tcp", Port: 443}},
		{"answers to containers", rules.Packet{
			In:          uplink,
			Out:         link,
			Source:      far,
			Destination: address,
			Protocol:    "tcp",
			Port:        40000,
			Answer:      true,
		}},
		{"traffic to published ports", rules.Packet{
			In:          uplink,
			Out:         link,
			Source:      far,
			Destination: address,
			Protocol:    "tcp",
			Port:        80,
			Translated:  true,
		}},
	} {
		if try.packet.Translated && !h.publishes(n.Name) {
			continue
		}
		if way := h.walk(h.otherChains("forward", false), try.packet); way.Dropped() {
			return h.dropped(n, link, try.what, way), true
		}
	}
	return Finding{}, false
}

func (h *Host) dropped(n inventory.Network, link, what string, way rules.Way) Finding {
	last := way.Steps[len(way.Steps)-1]
	f := Finding{
		Severity: Fault, Subject: "network " + n.Name,
		Text: fmt.Sprintf("%s is dropped by %q in chain %s of table %s (%s)", what, last.Rule, last.Chain, last.Table, way.By.Program),
	}
	if slices.Contains(n.Plugins, "firewall") {
		f.Command, f.fix = "trestle restore", restoreFix
		return f
	}
	f.Command = letThrough(way.By, link)
	return f
}

// letThrough is the command that allows a link, for the program that made the chain.
func letThrough(base rules.Base, link string) string {
	jumps := func(beginning string) bool {
		found, _ := base.Rules(base.Chain) // it has been read before without an error
		return slices.ContainsFunc(found, func(r rules.Rule) bool { return strings.HasPrefix(r.Jump, beginning) })
	}
	switch {
	case base.Program == "nft" && strings.HasSuffix(base.Table, "firewalld"):
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", link)
	case base.Program == "nft":
		at := base.Table + " " + base.Chain
		return fmt.Sprintf(`nft insert rule %s oifname %q accept; nft insert rule %s iifname %q accept`, at, link, at, link)
	case jumps("ufw"):
		return fmt.Sprintf("ufw route allow in on %s; ufw route allow out on %s", link, link)
	case jumps("DOCKER-USER"):
		return fmt.Sprintf("%s -I DOCKER-USER -i %s -j ACCEPT; %s -I DOCKER-USER -o %s -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
			base.Program, link, base.Program, link)
	}
	return fmt.Sprintf("%s -I FORWARD -i %s -j ACCEPT; %s -I FORWARD -o %s -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
		base.Program, link, base.Program, link)
}

// otherChains are other programs' base chains at a hook, those for NAT or the others.
func (h *Host) otherChains(hook string, nat bool) []rules.Base {
	return slices.DeleteFunc(h.rules.At(hook, false), func(b rules.Base) bool { return b.Ours || b.NAT != nat })
}

// someone returns the address of a live container on the network.
func (h *Host) someone(network string, is4 bool) (netip.Addr, bool) {
	for _, a := range h.alive(network) {
		for _, address := range a.Addresses {
			if address.Is4() == is4 {
				return address, true
			}
		}
	}
	return netip.Addr{}, false
}

func (h *Host) uplink(is4 bool) (string, bool) {
	for _, r := range h.Routes {
		if r.To.Bits() == 0 && r.To.Addr().Is4() == is4 && r.Link != "" {
			return r.Link, true
		}
	}
	return "", false
}

func (h *Host) publishes(network string) bool {
	return slices.ContainsFunc(h.alive(network), func(a inventory.Attachment) bool { return len(a.Ports) > 0 })
}
