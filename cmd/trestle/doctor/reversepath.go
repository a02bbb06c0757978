package doctor

import (
	"fmt"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// reversePath finds links with strict reverse path filtering (rp_filter 1, RFC 3704)
// where packets may legitimately arrive by another link than the route back: those of a
// container that is on two networks, and uplinks of a host that has two.
func reversePath(h *Host) []Finding {
	var all []Finding
	for _, n := range h.Networks {
		link := h.gatewayLink(n)
		if c, other, ok := h.onTwo(n); ok && h.isStrict(link) {
			all = append(all, strictFinding(link, "network "+n.Name, fmt.Sprintf(
				"container %s is also on %s: what it sends from its address there by this network is dropped", c, other)))
		}
	}
	uplinks := map[string]bool{}
	for _, r := range h.Routes {
		if r.To.Bits() == 0 && r.To.Addr().Is4() && r.Link != "" {
			uplinks[r.Link] = true
		}
	}
	for _, l := range h.Links {
		if len(uplinks) > 1 && uplinks[l.Name] && h.isStrict(l.Name) && h.publishesAny() {
			all = append(all, strictFinding(l.Name, "link "+l.Name,
				"the host has several default routes: clients of a published port that come by one that is not the route back get no answer"))
		}
	}
	return all
}

func strictFinding(link, subject, text string) Finding {
	setting := "net/ipv4/conf/" + link + "/rp_filter"
	return Finding{
		Severity: Warning, Subject: subject, Text: fmt.Sprintf("%s filters by reverse path strictly (rp_filter is 1), and %s", link, text),
		Command: sysctlCommand(setting, "2"),
	}
}

// isStrict says whether rp_filter is 1 for the link: the larger of its value and that of "all"
// counts (ip-sysctl, rp_filter).
func (h *Host) isStrict(link string) bool {
	everybody, _ := h.sysctl("net/ipv4/conf/all/rp_filter")
	own, ok := h.sysctl("net/ipv4/conf/" + link + "/rp_filter")
	return ok && max(everybody, own) == "1"
}

// onTwo returns a container on this network that is on another one as well.
func (h *Host) onTwo(n inventory.Network) (container, other string, ok bool) {
	networks := map[string]string{}
	for _, a := range h.Attachments {
		if a.State != inventory.Dead && a.Network != n.Name {
			networks[a.Container] = a.Network
		}
	}
	for _, a := range h.alive(n.Name) {
		if other, ok := networks[a.Container]; ok {
			return a.Container, other, true
		}
	}
	return "", "", false
}

func (h *Host) publishesAny() bool {
	return slices.ContainsFunc(h.Networks, func(n inventory.Network) bool { return h.publishes(n.Name) })
}
