package way

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
)

// In is the path of a packet from a client to a published port, and on to the container.
func (h *Host) In(a inventory.Attachment, from netip.Addr, port uint16, protocol string) Way {
	t := h.traveller(a, protocol)
	t.way.From = netip.AddrPortFrom(from, 0)
	t.packet = rules.Packet{Source: from, Protocol: protocol, Port: port, Local: true}
	var mapped inventory.Port
	return t.follow(t.lives, t.arrives, t.untranslated, func() (ok bool) {
		mapped, ok = t.published()
		return ok
	}, func() bool { return t.translated(mapped) }, t.inwards, t.port,
		func() bool { return t.interfaceAndRoute(from) },
		func() bool { return t.listens(mapped.Container.Addr(), mapped.Container.Port()) }, t.tracked)
}

// arrives finds the link by which the packet arrives, and its destination among the host's
// addresses.
func (t *traveller) arrives() bool {
	r, err := routeTo(t.packet.Source, "", netip.Addr{})
	if err != nil {
		return t.stops("arrival", "ip route get "+t.packet.Source.String(), "the host has no route back to %s: %v", t.packet.Source, err)
	}
	t.packet.In, t.packet.Destination = r.link, r.source
	for _, p := range t.of.Ports { // the port may be published on a single address
		if address := p.Host.Addr(); p.Host.Port() == t.packet.Port && p.Protocol == t.packet.Protocol && !address.IsUnspecified() && address.Is4() == t.packet.Source.Is4() {
			t.packet.Destination = address
		}
	}
	if !t.packet.Destination.IsValid() {
		return t.stops("arrival", "", "the host has no address that %s reaches", t.packet.Source)
	}
	t.way.To = netip.AddrPortFrom(t.packet.Destination, t.packet.Port)
	if t.isLocal(t.packet.Source) || r.link == "lo" {
		t.packet.In = ""
		return t.passes("arrival", "from the host itself")
	}
	return t.passes("arrival", "by %s, for %s", r.link, t.packet.Destination)
}

// hook is the hook at which port mappings are translated.
func (t *traveller) hook() string {
	if t.packet.In == "" {
		return "output"
	}
	return "prerouting"
}

// untranslated checks other programs' rules, which may drop the packet or translate it
// first.
func (t *traveller) untranslated() bool {
	if !t.filter(t.hook(), false) {
		return false
	}
	bases := slices.DeleteFunc(t.Rules.At(t.hook(), false), func(b rules.Base) bool { return !b.NAT || b.Ours })
	result, err := rules.Walk(bases, t.packet)
	if err != nil || result.Verdict != rules.Translate || t.isOurs(result) {
		return true
	}
	state := Stops
	if result.Maybe {
		state = Maybe
	}
	return t.at(Station{
		Name:    "rules, NAT",
		State:   state,
		Text:    fmt.Sprintf("table %s (%s) translates it to another destination", result.By.Table, result.By.Program),
		Rules:   last(result.Steps),
		Command: "trestle doctor",
	})
}

// isOurs says whether the translation is that of our iptables rules, which are in a table that
// all programs share.
func (t *traveller) isOurs(result rules.Way) bool {
	return slices.ContainsFunc(t.of.Ports, func(p inventory.Port) bool { return p.Backend == "iptables" }) &&
		slices.ContainsFunc(result.Steps, func(s rules.Step) bool { return strings.HasPrefix(s.Chain, "CNI-") })
}

// published finds the port among the container's.
func (t *traveller) published() (inventory.Port, bool) {
	var texts []string
	for _, p := range t.of.Published() {
		texts = append(texts, p.String())
	}
	for _, p := range t.of.Ports {
		at := p.Host.Addr()
		if p.Protocol == t.packet.Protocol && p.Host.Port() == t.packet.Port && at.Is4() == t.packet.Destination.Is4() &&
			(at.IsUnspecified() || at == t.packet.Destination) {
			return p, true
		}
	}
	if len(texts) == 0 {
		return inventory.Port{}, t.stops("published port", "", "the container publishes none: %s/%d goes to a program of the host", t.packet.Protocol, t.packet.Port)
	}
	return inventory.Port{}, t.stops("published port", "", "%s/%d is not among the container's: %s", t.packet.Protocol, t.packet.Port, strings.Join(texts, ", "))
}

// translated checks that the kernel has the recorded port mapping, and applies it.
func (t *traveller) translated(p inventory.Port) bool {
	owner := t.of.Label()
	has := slices.ContainsFunc(t.Elements, func(e inventory.Element) bool { return e.Owner == owner && strings.Contains(e.Set, "_ports") })
	if p.Backend == "nftables" && !has {
		return t.stops("published port", "trestle restore", "it is recorded, but not in the kernel: the rules were flushed")
	}
	if p.Backend == "" {
		t.maybe("published port", "", "%s/%d was asked for; it is not in Trestle's records", p.Protocol, p.Host.Port())
	} else {
		t.passes("published port", "%s/%d leads to %s (%s)", p.Protocol, p.Host.Port(), p.Container, p.Backend)
	}
	t.packet.Destination, t.packet.Port = p.Container.Addr(), p.Container.Port()
	t.packet.Local, t.packet.Translated = false, true
	return true
}

// inwards follows the packet after the translation.
func (t *traveller) inwards() bool {
	if t.packet.In != "" && !t.forwards() {
		return false
	}
	r, err := routeTo(t.packet.Destination, "", netip.Addr{})
	if err != nil || r.link != t.inner() {
		return t.stops("host's route", "trestle doctor", "%s is on %s, but the host's route to it is %s", t.packet.Destination, t.inner(), r)
	}
	t.packet.Out = r.link
	t.passes("host's route", "%s", r)
	if t.packet.In == "" {
		return t.filter("output", false)
	}
	return t.filter("forward", false)
}
