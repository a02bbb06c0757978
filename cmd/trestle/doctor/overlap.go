package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// overlaps finds networks whose subnet overlaps one of the host's routes by another link: one
// of the two cannot be reached. sharedNetworks reports two networks that lease the same addresses.
func overlaps(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		link := h.gatewayLink(n)
		for _, p := range n.Pools {
			for _, r := range h.Routes {
				if r.To.Bits() == 0 || r.Link == link || r.Link == "" || !r.To.Overlaps(p.Subnet) || isNoSubnet(r) {
					continue
				}
				if slices.ContainsFunc(h.Networks, func(other inventory.Network) bool {
					_, shared := sharedSubnet(n, other)
					return shared && h.gatewayLink(other) == r.Link
				}) {
					continue
				}
				all = append(all, Finding{
					Severity: Fault, Subject: "network " + n.Name,
					Text:    fmt.Sprintf("its subnet %s overlaps the host's route to %s by %s: containers cannot reach what is there, or the host cannot reach the containers", p.Subnet, r.To, r.Link),
					Command: "trestle network create NAME   # finds a free subnet",
				})
			}
		}
	}
	return all
}

// isNoSubnet says whether a route does not lead to a subnet: routes to a single address, as
// policy routing has, routes that every link has, and unreachable routes, which keep packets for
// unused subnets off the default route.
func isNoSubnet(r inventory.Route) bool {
	return r.Unreachable || r.To.IsSingleIP() || r.To.Addr().IsLinkLocalUnicast() || r.To.Addr().IsMulticast() || r.To.Addr().IsLoopback()
}

// sharedNetworks finds two networks on one bridge, or with one subnet.
func sharedNetworks(h *Host) []Finding {
	var all []Finding
	for i, a := range h.Networks {
		for _, b := range h.Networks[i+1:] {
			if subnet, ok := sharedSubnet(a, b); ok {
				all = append(all, Finding{
					Severity: Fault, Subject: "network " + b.Name,
					Text:    fmt.Sprintf("networks %s and %s both lease addresses of %s: two containers may get the same one", a.Name, b.Name, subnet),
					Command: "trestle network create NAME   # finds a free subnet",
				})
			}
			if a.Bridge != "" && a.Bridge == b.Bridge && a.File != "" && b.File != "" {
				all = append(all, Finding{
					Severity: Warning, Subject: "network " + b.Name,
					Text:    fmt.Sprintf("networks %s and %s are on one bridge, %s: their containers reach each other whatever the firewall's policy is", a.Name, b.Name, a.Bridge),
					Command: "editor " + b.File + `   # "bridge": another name`,
				})
			}
		}
	}
	return all
}

// sharedSubnet is a subnet of which both networks lease the same addresses.
func sharedSubnet(a, b inventory.Network) (netip.Prefix, bool) {
	for _, p := range a.Pools {
		for _, q := range b.Pools {
			if p.Subnet.Overlaps(q.Subnet) && p.First.Compare(q.Last) <= 0 && q.First.Compare(p.Last) <= 0 {
				return p.Subnet, true
			}
		}
	}
	return netip.Prefix{}, false
}
