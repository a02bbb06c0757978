package doctor

import "fmt"

// forwarding finds a host that does not forward for its containers: ADD switches it on,
// and something else has switched it off since.
func forwarding(h *Host) []Finding {
	var all []Finding
	for _, family := range []struct {
		name    string
		is4     bool
		setting string // with "/" for dots, since links' names have some
		link    string
	}{
		{"IPv4", true, "net/ipv4/ip_forward", "net/ipv4/conf/%s/forwarding"},
		{"IPv6", false, "net/ipv6/conf/all/forwarding", "net/ipv6/conf/%s/forwarding"},
	} {
		for _, n := range h.Networks {
			if _, used := h.someone(n.Name, family.is4); !used || !n.Gateway || n.Internal {
				continue
			}
			for _, setting := range []string{family.setting, fmt.Sprintf(family.link, h.gatewayLink(n))} {
				if value, ok := h.sysctl(setting); ok && value == "0" {
					all = append(all, Finding{
						Severity: Fault, Subject: "network " + n.Name,
						Text:    fmt.Sprintf("the host does not forward %s (%s is 0): containers reach only the host and each other", family.name, setting),
						Command: sysctlCommand(setting, "1"), fix: setSysctl(setting, "1"),
					})
					break
				}
			}
		}
	}
	return all
}
