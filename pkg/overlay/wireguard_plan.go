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

// WireGuard is the device with that name. A State is printed, so the private key is no part
// of it: see Host.SetKey.
type WireGuard struct {
	PublicKey string
	Port, MTU int
	// Addresses give the host's own packets a source that the peers allow.
	Addresses []netip.Prefix
	Peers     []WireGuardPeer
}

// WireGuardPeer is a peer of the device, known by its public key.
type WireGuardPeer struct {
	Key string
	// Endpoint is where the peer says that it is. It is invalid for a peer behind NAT, which
	// sends first: the device learns the endpoint from that.
	Endpoint netip.AddrPort
	// Allowed are the peer's allowed IPs (wg(8)).
	Allowed []netip.Prefix
	// Keepalive is the interval of keepalives, which keep a NAT's mapping open; 0: none.
	Keepalive time.Duration
}

// natKeepalive is the interval that wg(8) recommends for most NATs.
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

// byWireGuard plans a peer of the device, and a route for each of its subnets.
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
		p.problem(peer, "it is behind NAT, and so is this host: neither can send to the other first")
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

// commonFamily is the family of the underlay that both hosts have, IPv4 first.
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
			w.Endpoint = netip.AddrPort{} // leave the device's
		}
		c.SetPeers = append(c.SetPeers, w)
	}
	for _, h := range found.Peers {
		if _, left := there[h.Key]; left {
			c.DelPeers = append(c.DelPeers, h.Key)
		}
	}
}

// Endpoints is what is known of the peers' endpoints, by their keys, besides what the device
// has. The device sends to where a peer's last packet came from, which behind a NAT is not
// the endpoint that the peer published.
type Endpoints struct {
	// Published are the endpoints that peers had published when Apply last ran.
	Published map[string]netip.AddrPort
	// Silent are peers that have not answered packets for long.
	Silent map[string]bool
}

// moved says whether the device's endpoint of a peer is to be replaced by the published
// one: because it has none, the peer has published another, or nobody answers at it.
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

// sighting is the state of a peer's byte counters when something was last received from it,
// and when something was first sent to it after that. It uses the monotonic clock; the
// device's time of the last handshake is wall clock time, which may jump.
type sighting struct {
	received, sent int64
	asked          time.Time
}

// silence is how long a peer may leave packets unanswered. WireGuard answers each within
// 10 s (keepalive), and gives up after 90 s of handshakes (section 6.5 of its paper).
const silence = 3 * time.Minute

func (s sighting) next(received, sent int64, now time.Time) sighting {
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
