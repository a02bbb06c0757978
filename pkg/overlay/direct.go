package overlay

import (
	"cmp"
	"net/netip"
)

// direct plans routes to a peer on the same link, and is false where the peer is on another.
// Both hosts decide by the same published prefixes and so come to the same result: if one
// sent directly and the other through the tunnel, strict rp_filter would drop the packets.
func (p *planner) direct(peer Peer) bool {
	var routes []Route
	for _, s := range peer.Subnets {
		via, ok := onLink(p.self.Underlay, peer.Underlay, s.Addr().Is4())
		if !ok {
			return false
		}
		r := Route{Dst: s, Kind: Direct, Via: via}
		if mtu := cmp.Or(peer.MTU, p.self.MTU); mtu < p.self.MTU {
			r.MTU = mtu
		}
		routes = append(routes, r)
	}
	p.Routes = append(p.Routes, routes...)
	return true
}

// onLink is the peer's address on a link that both are on: of the family asked for or, for
// IPv4 where there is no such address, of IPv6 (RTA_VIA, Linux 5.2). Two hosts are on one
// link if they published the same prefix.
func onLink(mine, theirs []netip.Prefix, is4 bool) (netip.Addr, bool) {
	var other netip.Addr
	for _, m := range mine {
		for _, t := range theirs {
			if m.Masked() != t.Masked() || m.IsSingleIP() {
				continue
			}
			if t.Addr().Is4() == is4 {
				return t.Addr(), true
			}
			if is4 {
				other = t.Addr()
			}
		}
	}
	return other, other.IsValid()
}
