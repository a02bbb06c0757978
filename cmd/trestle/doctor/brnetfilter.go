package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
)

// bridgeNetfilter finds bridges whose frames between neighbours pass the IP chains and
// are dropped there, and bridges whose frames do not pass them although kube-proxy needs
// that.
func bridgeNetfilter(h *Host) []Finding {
	var all []Finding
	for _, family := range []struct {
		is4     bool
		setting string
	}{{true, "net/bridge/bridge-nf-call-iptables"}, {false, "net/bridge/bridge-nf-call-ip6tables"}} {
		value, ok := h.sysctl(family.setting)
		for _, n := range h.Networks {
			switch f, found := h.neighbours(n, family.is4); {
			case !ok || n.Bridge == "":
			case value == "1" && found:
				f.Text = fmt.Sprintf("containers of one bridge do not reach each other: %s is 1, and %s", family.setting, f.Text)
				all = append(all, f)
			case value == "0" && h.servesByRules(family.is4) && len(h.alive(n.Name)) > 0:
				all = append(all, Finding{
					Severity: Warning, Subject: "network " + n.Name,
					Text:    fmt.Sprintf("kube-proxy runs here, and %s is 0: a pod that calls a service whose endpoint is on the same bridge gets no answer", family.setting),
					Command: sysctlCommand(family.setting, "1"), fix: setSysctl(family.setting, "1"),
				})
			}
		}
	}
	return all
}

func (h *Host) neighbours(n inventory.Network, is4 bool) (Finding, bool) {
	address, ok := h.someone(n.Name, is4)
	if !ok {
		return Finding{}, false
	}
	packet := rules.Packet{In: n.Bridge, Out: n.Bridge, Source: address, Destination: address.Next(), Protocol: "tcp", Port: 80}
	way := h.walk(h.otherChains("forward", false), packet)
	if !way.Dropped() {
		return Finding{}, false
	}
	return h.dropped(n, n.Bridge, "traffic from one to another", way), true
}

// servesByRules says whether there is kube-proxy's chain for services.
func (h *Host) servesByRules(is4 bool) bool {
	family := rules.IPv6
	if is4 {
		family = rules.IPv4
	}
	for _, base := range h.otherChains("prerouting", true) {
		found, err := base.Rules(base.Chain)
		jumps := func(r rules.Rule) bool { return strings.HasPrefix(r.Jump, "KUBE-SERVICES") }
		if err == nil && base.Family == family && slices.ContainsFunc(found, jumps) {
			return true
		}
	}
	return false
}
