package overlay

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// WireGuardName is the name of the WireGuard device.
const WireGuardName = "trestle-wg"

// WireGuard is the device of that name. Its private key is no part of a State, which is
// printed: see Host.SetKey.
type WireGuard struct {
	PublicKey string
	Port, MTU int
	// Addresses give the host's own packets a source that the peers let through.
	Addresses []netip.Prefix
	Peers     []WireGuardPeer
}

// WireGuardPeer is a peer as the device has it: by its public key.
type WireGuardPeer struct {
	Key string
	// Endpoint is where the peer says that it is; not valid where it speaks first, and
	// the device learns where it is.
	Endpoint netip.AddrPort
	// Allowed are the sources that are believed to be the peer's, and what is sent to it.
	Allowed []netip.Prefix
	// Keepalive is how often something is sent so that a NAT in between keeps the way
	// open; 0: never.
	Keepalive time.Duration
}

// natKeepalive is what wg(8) names as sensible for most NATs.
const natKeepalive = 25 * time.Second

// wireGuardOverhead is what WireGuard adds to a packet: the outer IP header, UDP's 8, 16
// of its own before, and 16 after. A packet is padded to a multiple of 16, but not beyond
// the MTU (calculate_skb_padding, drivers/net/wireguard/send.c).
func wireGuardOverhead(is4 bool) int {
	if is4 {
		return 60
	}
	return 80
}

func (p *planner) wireGuard() {
	if len(p.self.Underlay) == 0 {
		return // without an uplink there are no peers
	}
	p.WireGuard = &WireGuard{
		PublicKey: p.self.Key,
		Port:      p.self.Port,
		MTU:       p.self.MTU - wireGuardOverhead(p.self.family4()),
		Addresses: p.self.addresses(),
	}
	p.keys[p.self.Key] = "this host"
}

// byWireGuard plans the way to a peer by WireGuard: the peer of the device, and a route for
// each subnet.
func (p *planner) byWireGuard(peer Peer) {
	if p.WireGuard == nil {
		p.problem(peer, "this host has no address on its uplink %s", p.self.Uplink)
		return
	}
	is4, ok := p.commonFamily(peer)
	switch _, err := wgtypes.ParseKey(peer.Key); {
	case peer.Key == "":
		p.problem(peer, `no WireGuard key of its own is known: its trestle-node is of an older release, another host has the same, or, in a list of hosts, its "wgKey" is missing`)
		return
	case err != nil:
		p.problem(peer, "its WireGuard key %q is none", peer.Key)
		return
	case p.keys[peer.Key] != "":
		p.problem(peer, "its WireGuard key is that of %s, too; was a disk copied? (trestle node reset-id)", p.keys[peer.Key])
		return
	case p.self.NAT && peer.NAT:
		p.problem(peer, "it is behind NAT, and so is this host: neither can speak to the other first")
		return
	case !ok:
		p.problem(peer, "it has no address of the family of this host's %s", join(p.self.Underlay))
		return
	}
	p.keys[peer.Key] = peer.Name
	w := WireGuardPeer{Key: peer.Key, Allowed: slices.Clone(peer.Subnets)}
	if !peer.NAT {
		remote, _ := addressOf(peer.Underlay, is4) // it has one
		w.Endpoint = netip.AddrPortFrom(remote, uint16(p.self.Port))
	}
	if p.self.NAT {
		w.Keepalive = natKeepalive
	}
	p.WireGuard.Peers = append(p.WireGuard.Peers, w)
	mtu := mtuTo(p.self, peer) - wireGuardOverhead(is4)
	for _, s := range peer.Subnets {
		if s.Addr().Is6() && p.self.NoIPv6 {
			continue
		}
		p.Routes = append(p.Routes, Route{Dst: s, Kind: ByWireGuard, MTU: mtu})
	}
}

// commonFamily says which family leads to the peer: IPv4 where both have it.
func (p *planner) commonFamily(peer Peer) (is4, ok bool) {
	for _, is4 := range []bool{true, false} {
		_, here := addressOf(p.self.Underlay, is4)
		if _, there := addressOf(peer.Underlay, is4); here && there {
			return is4, true
		}
	}
	return false, false
}

func (w *WireGuard) sort() {
	slices.SortFunc(w.Addresses, comparePrefix)
	slices.SortFunc(w.Peers, func(a, b WireGuardPeer) int { return strings.Compare(a.Key, b.Key) })
	for i := range w.Peers {
		slices.SortFunc(w.Peers[i].Allowed, comparePrefix)
	}
}

// diffWireGuard compares the device, and the peers by their keys.
func (c *Changes) diffWireGuard(want *WireGuard, have Found) {
	found := have.WireGuard
	switch {
	case want == nil && found == nil:
		return
	case want == nil:
		c.RemoveWireGuard = true
		return
	case found == nil:
		c.MakeWireGuard = true
		found = &WireGuard{}
	case want.PublicKey != found.PublicKey || want.Port != found.Port || want.MTU != found.MTU || !have.WireGuardUp:
		c.SetWireGuard = true
	}
	c.AddAddresses, c.DelAddresses = compare(want.Addresses, found.Addresses)
	there := map[string]WireGuardPeer{}
	for _, p := range found.Peers {
		there[p.Key] = p
	}
	for _, w := range want.Peers {
		h, ok := there[w.Key]
		delete(there, w.Key)
		moved := have.Endpoints.moved(w, h)
		if ok && !moved && w.Keepalive == h.Keepalive && slices.Equal(w.Allowed, h.Allowed) {
			continue
		}
		if !moved {
			w.Endpoint = netip.AddrPort{} // as it is
		}
		c.SetPeers = append(c.SetPeers, w)
	}
	for _, h := range found.Peers {
		if _, left := there[h.Key]; left {
			c.DelPeers = append(c.DelPeers, h.Key)
		}
	}
}

// Endpoints is what is known of the peers' endpoints besides what the device has, by
// their keys. A peer roams: the device answers to where its last packet came from,
// which behind NAT is not where it says that it is.
type Endpoints struct {
	// Published are the endpoints that peers said they had, when the device was last
	// brought to what was wanted.
	Published map[string]netip.AddrPort
	// Silent are peers that were sent something, and have not answered for long.
	Silent map[string]bool
}

// moved says whether the device's endpoint of a peer is to be replaced by the published
// one: where it has none, where the peer says that it is elsewhere now, or where
// nobody answers at the one that it has.
func (e Endpoints) moved(want, have WireGuardPeer) bool {
	switch published, known := e.Published[want.Key]; {
	case !want.Endpoint.IsValid() || want.Endpoint == have.Endpoint:
		return false
	case !have.Endpoint.IsValid():
		return true
	case known && published != want.Endpoint:
		return true
	}
	return e.Silent[want.Key]
}

// sighting is when a peer was last heard of, as the device counts bytes. It goes by the
// monotonic clock: the device's time of the last handshake is the wall clock's.
type sighting struct {
	received, sent int64 // when it was last heard of
	asked          time.Time
}

// silence is how long a peer may leave packets unanswered: WireGuard answers each within
// 10 s, and after 90 s without it gives up (section 6.5 of its paper).
const silence = 3 * time.Minute

func (s sighting) look(received, sent int64, now time.Time) sighting {
	switch {
	case received != s.received || sent < s.sent:
		return sighting{received: received, sent: sent}
	case sent > s.sent && s.asked.IsZero():
		s.asked = now
	}
	return s
}

func (s sighting) isSilent(now time.Time) bool {
	return !s.asked.IsZero() && now.Sub(s.asked) >= silence
}
