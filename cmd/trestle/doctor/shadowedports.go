package doctor

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/rules"
)

// shadowedPorts finds published ports for which another program's rules may translate the
// destination first.
func shadowedPorts(h *Host) []Finding {
	bases := h.otherChains("prerouting", true)
	if len(bases) == 0 {
		return nil
	}
	var all []Finding
	for _, n := range h.Networks {
		for _, a := range h.alive(n.Name) {
			for _, p := range a.Ports {
				host, in, ok := h.reachedAt(p.Host.Addr())
				if !ok || p.Backend != "nftables" {
					continue
				}
				packet := rules.Packet{
					In: in, Source: elsewhere[host.Is4()], Destination: host, Protocol: p.Protocol, Port: p.Host.Port(), Local: true,
				}
				way := h.walk(bases, packet)
				if way.Verdict != rules.Translate || way.Maybe {
					continue
				}
				last := way.Steps[len(way.Steps)-1]
				all = append(all, Finding{
					Severity: Fault, Subject: fmt.Sprintf("port %s/%d", p.Protocol, p.Host.Port()),
					Text: fmt.Sprintf("it is published for %s of network %s, and %q in chain %s of table %s (%s) may take it first",
						a.Container, a.Network, last.Rule, last.Chain, last.Table, way.By.Program),
					Command: remove(way.By, last),
				})
			}
		}
	}
	return all
}

// remove is the command that deletes a rule of iptables, or shows the handle of one of nftables.
func remove(base rules.Base, step rules.Step) string {
	if base.Program == "nft" {
		return fmt.Sprintf("nft -a list chain %s %s   # and nft delete rule … handle", base.Table, step.Chain)
	}
	_, table, _ := strings.Cut(base.Table, " ") // "ip nat"
	return fmt.Sprintf("%s -t %s -D %s %s", base.Program, table, step.Chain, step.Rule)
}

// reachedAt is an address at which other hosts reach a port published on this one, and
// the link by which they come.
func (h *Host) reachedAt(published netip.Addr) (host netip.Addr, link string, ok bool) {
	uplink, _ := h.uplink(published.Is4())
	for _, l := range h.Links {
		for _, p := range l.Addresses {
			a := p.Addr()
			if a == published || published.IsUnspecified() && l.Name == uplink && a.Is4() == published.Is4() && !a.IsLinkLocalUnicast() {
				return a, l.Name, true
			}
		}
	}
	return netip.Addr{}, "", false
}
