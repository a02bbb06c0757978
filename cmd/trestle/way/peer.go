package way

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/cmd/trestle/rules"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// elsewhere says whether the address belongs to a network over several hosts and is in no
// subnet of this host: another host has it, or none.
func (t *traveller) elsewhere(a netip.Addr) bool {
	if t.Node == nil {
		return false
	}
	own := slices.ContainsFunc(t.Node.Subnets, func(s hosts.Subnet) bool { return s.Subnet.Contains(a) })
	_, peers := t.Node.Holder(a)
	return peers || t.Node.IsPooled(a) && !own
}

// toPeer follows the packet to another host's container, up to that host.
func (t *traveller) toPeer() bool {
	to := t.packet.Destination
	peer, ok := t.Node.Holder(to)
	r, err := routeTo(to, t.packet.In, t.packet.Source)
	device := t.Node.Device(peer)
	switch {
	case !ok:
		return t.stops("host's route", "trestle ls --hosts", "no host has a subnet with %s, which is in the pool %s: it is unreachable", to, t.poolOf(to))
	case err != nil:
		return t.stops("host's route", "trestle doctor", "host %s has %s, but there is no route to it: it is unreachable (%v)", peer.Name, to, err)
	case r.link != device:
		return t.stops("host's route", "trestle doctor", "host %s has %s, and is reached by %s (%s), but the route is %s", peer.Name, to, orNothing(device), t.Node.WayTo(peer), r)
	}
	t.packet.Out = r.link
	t.passes("host's route", "%s, to host %s", r, peer.Name)
	t.tooLarge()
	return t.filter("forward", false) && t.keepsSource() && t.overUnderlay(peer, r) && t.atPeer(peer)
}

func orNothing(device string) string {
	if device == "" {
		return "no device"
	}
	return device
}

func (t *traveller) poolOf(a netip.Addr) netip.Prefix {
	i := slices.IndexFunc(t.Node.Pools, func(p netip.Prefix) bool { return p.Contains(a) })
	return t.Node.Pools[i]
}

// keepsSource checks that nothing masquerades between hosts, where containers keep their
// addresses.
func (t *traveller) keepsSource() bool {
	bases := slices.DeleteFunc(t.Rules.At("postrouting", false), func(b rules.Base) bool { return !b.NAT })
	result, err := rules.Walk(bases, t.packet)
	switch {
	case err != nil:
		return t.maybe("masquerade", "", "rules cannot be read: %v", err)
	case result.Verdict == rules.Translate:
		return t.at(Station{
			Name: "masquerade", State: Maybe, Rules: last(result.Steps), Command: "trestle doctor",
			Text: fmt.Sprintf("its source becomes an address of the host, by table %s; between hosts containers keep theirs", result.By.Table),
		})
	}
	return t.passes("masquerade", "none: the other host's container sees %s", t.packet.Source)
}

// overUnderlay follows the packet from this host to the other one.
func (t *traveller) overUnderlay(peer hosts.Peer, r route) bool {
	if peer.Way == hosts.Direct {
		return t.answers("underlay", r, next(r, t.packet.Destination))
	}
	remote := remoteOf(peer, t.packet.Destination)
	if t.Node.Tunnel.Kind == "vxlan" {
		var ok bool
		if remote, ok = t.tunnelled(r); !ok {
			return false
		}
	}
	outer, err := routeTo(remote, "", netip.Addr{})
	if err != nil {
		return t.stops("underlay", "ip route get "+remote.String(), "the host has no route to %s, the address of host %s: %v", remote, peer.Name, err)
	}
	if !t.answers("underlay", outer, next(outer, remote)) {
		return false
	}
	inner := t.packet
	defer func() { t.packet = inner }()
	t.packet = rules.Packet{Out: outer.link, Source: outer.source, Destination: remote, Protocol: "udp", Port: uint16(t.Node.Tunnel.Port)}
	return t.filter("output", false)
}

// remoteOf is an underlay address of the peer, of like's family if it has one.
func remoteOf(peer hosts.Peer, like netip.Addr) netip.Addr {
	var found netip.Addr
	for _, p := range peer.Underlay {
		if found = p.Addr(); found.Is4() == like.Is4() {
			return found
		}
	}
	return found
}

// tunnelled finds the host to which the tunnel sends the frames: by the route's next hop,
// and the forwarding database's entry for its MAC.
func (t *traveller) tunnelled(r route) (remote netip.Addr, ok bool) {
	link, err := netlink.LinkByName(r.link)
	if err != nil {
		return remote, t.stops("tunnel", "trestle doctor", "%s: %v", r.link, err)
	}
	hop := next(r, t.packet.Destination)
	mac := macOf(link, hop)
	if mac == "" {
		return remote, t.stops("tunnel", "systemctl restart trestle-node", "%s has no neighbour entry for the route's next hop %s", r.link, hop)
	}
	entries, err := dump.Complete(func() ([]netlink.Neigh, error) { return netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE) })
	if err != nil {
		return remote, t.maybe("tunnel", "", "the forwarding database of %s cannot be read: %v", r.link, err)
	}
	for _, f := range entries {
		if f.HardwareAddr.String() == mac && f.IP != nil {
			remote = addr(f.IP)
			return remote, t.passes("tunnel", "%s, VNI %d, to %s: frames for %s go to %s", r.link, t.Node.Tunnel.VNI, hop, mac, remote)
		}
	}
	return remote, t.stops("tunnel", "systemctl restart trestle-node", "the forwarding database of %s has no entry for %s, the MAC of %s", r.link, mac, hop)
}

// macOf is the MAC of a neighbour, or "" without a valid entry.
func macOf(link netlink.Link, address netip.Addr) string {
	if _, err := net.ParseMAC(neighbourOf(link, address)); err != nil {
		return ""
	}
	return neighbourOf(link, address)
}

// answers stops if the link is down, or the next hop is known not to answer.
func (t *traveller) answers(station string, r route, hop netip.Addr) bool {
	link, err := netlink.LinkByName(r.link)
	if err != nil {
		return t.stops(station, "", "%s: %v", r.link, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return t.stops(station, "ip link set "+r.link+" up", "%s is down", r.link)
	}
	said := neighbourOf(link, hop)
	if said == silent {
		return t.stops(station, "ping "+hop.String(), "%s, next hop %s: it does not answer", r, hop)
	}
	return t.passes(station, "%s, next hop %s: %s", r, hop, said)
}

// atPeer tells what this host knows about the other one.
func (t *traveller) atPeer(peer hosts.Peer) bool {
	text := fmt.Sprintf("%s, at %s", peer.Name, remoteOf(peer, t.packet.Destination))
	if !peer.Seen.IsZero() {
		text += fmt.Sprintf(", seen %s ago", t.Time.Sub(peer.Seen).Round(time.Second))
	}
	text += "; run trestle explain there to see what its rules do"
	if peer.Missing {
		return t.maybe("other host", "trestle cluster nodes", "%s; the store does not list it any more", text)
	}
	return t.passes("other host", "%s", text)
}
