package doctor

import (
	"fmt"
	"slices"
)

// advertisements finds uplinks that are about to lose their default route: a forwarding
// host accepts router advertisements only at accept_ra 2 (ip-sysctl), so the route that
// one made expires some minutes after forwarding was switched on. It also finds bridges
// at accept_ra 2, on which a container can announce itself as the host's router.
func advertisements(h *Host) []Finding {
	var all []Finding
	forwards, _ := h.sysctl("net/ipv6/conf/all/forwarding")
	for _, name := range h.advertised {
		setting := "net/ipv6/conf/" + name + "/accept_ra"
		if value, ok := h.sysctl(setting); ok && value == "1" && forwards != "0" {
			all = append(all, Finding{
				Severity: Fault, Subject: "link " + name,
				Text:    fmt.Sprintf("the host forwards, and %s is 1: router advertisements are ignored, and the default route by %s will expire", setting, name),
				Command: sysctlCommand(setting, "2"), fix: setLinkSysctl(setting, "2"),
			})
		}
	}
	for _, n := range h.Networks {
		link := h.gatewayLink(n)
		setting := "net/ipv6/conf/" + link + "/accept_ra"
		if value, ok := h.sysctl(setting); link != "" && ok && value == "2" && !slices.Contains(h.advertised, link) {
			all = append(all, Finding{
				Severity: Warning, Subject: "network " + n.Name,
				Text:    fmt.Sprintf("%s is 2: a container can announce itself as the host's router", setting),
				Command: sysctlCommand(setting, "0"), fix: setLinkSysctl(setting, "0"),
			})
		}
	}
	return all
}
