package way

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
)

// Out is the path of a packet from the container to an address. Port 0 stands for an echo
// request.
func (h *Host) Out(a inventory.Attachment, to netip.AddrPort, protocol string) Way {
	if to.Port() == 0 {
		protocol = "icmp"
	}
	t := h.traveller(a, protocol)
	t.way.To = to
	t.packet = rules.Packet{Destination: to.Addr(), Protocol: protocol, Port: to.Port()}
	return t.follow(t.lives, t.hasSource, func() bool { return t.interfaceAndRoute(to.Addr()) }, t.port, t.leaves, t.tracked)
}

// hasSource chooses the source address.
func (t *traveller) hasSource() bool {
	source, ok := t.address(t.packet.Destination.Is4())
	if !ok {
		return t.stops("address", "", "the container has no address in the family of %s, only %s", t.packet.Destination, join(t.of.Addresses))
	}
	t.packet.Source = source
	t.way.From = netip.AddrPortFrom(source, 0)
	return true
}

// leaves follows the packet from the bridge: to a neighbour, the host, or beyond.
func (t *traveller) leaves() bool {
	t.packet.In = t.of.HostLink
	if !t.filter("prerouting", true) {
		return false
	}
	neighbour, isNeighbour := t.holder(t.packet.Destination)
	if isNeighbour && neighbour.Bridge == t.of.Bridge && t.of.Bridge != "" {
		return t.toNeighbour(neighbour)
	}
	t.packet.In = t.inner()
	if t.isLocal(t.packet.Destination) {
		return t.toHost()
	}
	if t.onLink && !isNeighbour && t.of.Bridge != "" {
		return t.toNobody()
	}
	if isNeighbour {
		t.passes("destination", "container %s of network %s", neighbour.Container, neighbour.Network)
	}
	return t.onwards()
}

// holder is the attachment with the address.
func (h *Host) holder(address netip.Addr) (inventory.Attachment, bool) {
	i := slices.IndexFunc(h.Attachments, func(a inventory.Attachment) bool {
		return a.State != inventory.Dead && slices.Contains(a.Addresses, address)
	})
	if i < 0 {
		return inventory.Attachment{}, false
	}
	return h.Attachments[i], true
}

func (h *Host) isLocal(address netip.Addr) bool {
	return slices.ContainsFunc(h.Links, func(l inventory.Link) bool {
		return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
	})
}

// toNeighbour follows the packet over the bridge. With br_netfilter it passes the IP chains as
// well.
func (t *traveller) toNeighbour(neighbour inventory.Attachment) bool {
	t.passes("destination", "container %s on the same bridge, by %s", neighbour.Container, neighbour.HostLink)
	t.packet.In, t.packet.Out = t.of.HostLink, neighbour.HostLink
	if !t.filter("forward", true) {
		return false
	}
	if t.bridgeNetfilter() {
		t.packet.In, t.packet.Out = t.of.Bridge, t.of.Bridge
		return t.filter("forward", false)
	}
	return true
}

// toNobody follows a packet to an address that the container looks for on its own link and that no
// container has. It does not leave the bridge, so that only a port of others can lead to it.
func (t *traveller) toNobody() bool {
	var others []string
	for _, l := range t.Links {
		isContainers := slices.ContainsFunc(t.Attachments, func(a inventory.Attachment) bool { return a.HostLink == l.Name })
		if l.Master == t.of.Bridge && !isContainers {
			others = append(others, l.Name)
		}
	}
	if len(others) > 0 {
		return t.maybe("destination", "", "no container has %s; it is looked for on bridge %s, where %s may lead to it", t.packet.Destination, t.of.Bridge, strings.Join(others, ", "))
	}
	return t.stops("destination", "trestle ip ls "+t.network.Name, "no container has %s; it is looked for on bridge %s, where nobody else is", t.packet.Destination, t.of.Bridge)
}

func (t *traveller) bridgeNetfilter() bool {
	name := "bridge-nf-call-ip6tables"
	if t.packet.Destination.Is4() {
		name = "bridge-nf-call-iptables"
	}
	return sysctl("net/bridge/"+name) == "1"
}

// toHost follows a packet to the host: to a published port, or else to a program of the host.
func (t *traveller) toHost() bool {
	t.packet.Local = true
	for _, a := range t.Attachments {
		for _, p := range a.Ports {
			if p.Protocol == t.packet.Protocol && p.Host.Port() == t.packet.Port && a.State != inventory.Dead &&
				(p.Host.Addr() == t.packet.Destination || p.Host.Addr().IsUnspecified() && p.Host.Addr().Is4() == t.packet.Destination.Is4()) {
				return t.passes("destination", "the host's published port, which leads to %s of container %s", p.Container, a.Container)
			}
		}
	}
	t.passes("destination", "an address of the host")
	return t.filter("input", false)
}

// onwards follows a packet that the host forwards.
func (t *traveller) onwards() bool {
	if !t.forwards() {
		return false
	}
	if t.elsewhere(t.packet.Destination) {
		return t.toPeer()
	}
	r, err := routeTo(t.packet.Destination, t.packet.In, t.packet.Source)
	if err != nil {
		return t.stops("host's route", "ip route get "+t.packet.Destination.String(), "the host has no route to %s: %v", t.packet.Destination, err)
	}
	t.packet.Out = r.link
	t.passes("host's route", "%s", r)
	t.tooLarge()
	return t.filter("forward", false) && t.masquerade(r)
}

// tooLarge adds a station if large packets do not fit; it never stops, since small ones do.
func (t *traveller) tooLarge() {
	in, inOK := t.LinkOf(t.packet.In)
	out, outOK := t.LinkOf(t.packet.Out)
	if inOK && outOK && out.MTU < in.MTU {
		t.maybe("MTU", "trestle doctor", "%s takes %d bytes, the network sends up to %d: larger packets depend on ICMP errors (path MTU discovery)", out.Name, out.MTU, in.MTU)
	}
}

// masquerade tells the source address that the destination sees.
func (t *traveller) masquerade(r route) bool {
	bases := slices.DeleteFunc(t.Rules.At("postrouting", false), func(b rules.Base) bool { return !b.NAT })
	result, err := rules.Walk(bases, t.packet)
	if err != nil {
		return t.maybe("masquerade", "", "rules cannot be read: %v", err)
	}
	if result.Verdict == rules.Translate {
		host := t.addressOf(t.packet.Out, t.packet.Source.Is4())
		return t.at(Station{
			Name:  "masquerade",
			State: Passes,
			Text:  fmt.Sprintf("its source becomes the host's address, %s", host),
			Rules: last(result.Steps),
		})
	}
	if _, inside := t.holder(t.packet.Destination); inside || !r.gateway.IsValid() && !t.network.Masquerade {
		return t.passes("masquerade", "none: the destination sees %s", t.packet.Source)
	}
	if t.network.Masquerade {
		return t.maybe("masquerade", "trestle restore", "the network has ipMasq, but no rule of its masquerade matches: the destination sees %s", t.packet.Source)
	}
	return t.maybe("masquerade", "", `the network has no ipMasq: answers come back only if %s has a route to %s via this host`, r.gateway, t.packet.Source)
}

func last(steps []rules.Step) []rules.Step { return steps[max(0, len(steps)-1):] }

func (h *Host) addressOf(link string, is4 bool) netip.Addr {
	if l, ok := h.LinkOf(link); ok {
		for _, p := range l.Addresses {
			if p.Addr().Is4() == is4 && !p.Addr().IsLinkLocalUnicast() {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}
