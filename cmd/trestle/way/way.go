// Package way follows one packet to or from a container, on paper: its interface, the bridge,
// the host's routes and all programs' rules, and where the packet would stop. It sends nothing
// and changes nothing.
//
// Start at Host.Out and Host.In.
package way

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/rules"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// State is what a station does with the packet.
type State string

// The states.
const (
	Passes State = "ok"
	Maybe  State = "maybe" // it is not known whether the packet passes
	Stops  State = "stop"
)

// Station is one place on the packet's path.
type Station struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Text  string `json:"text"`
	// Rules are the rules that match the packet there.
	Rules []rules.Step `json:"rules,omitempty"`
	// Command fixes it where the packet stops, or shows more.
	Command string `json:"command,omitempty"`
}

// Way is the path, up to the station where the packet stops.
type Way struct {
	Container string         `json:"container"`
	Network   string         `json:"network"`
	From      netip.AddrPort `json:"from"` // port 0: any
	To        netip.AddrPort `json:"to"`
	Protocol  string         `json:"protocol"`
	Stations  []Station      `json:"stations"`
	// State is Stops, Maybe if a station may stop the packet, or Passes.
	State State `json:"state"`
}

// Host is the host that the packet passes.
type Host struct {
	*inventory.Snapshot
	Rules rules.Host
	close func()
}

// Open lists the host's base chains; problem says what could not be read.
func Open(snapshot *inventory.Snapshot) (host *Host, problem error) {
	conn := nft.Open("")
	all, problem := rules.Read(conn)
	return &Host{snapshot, all, conn.Close}, problem
}

// Close closes the socket by which rules are read.
func (h *Host) Close() { h.close() }

// traveller is the packet on its way. Its methods are the stations; they return false if the
// packet stops there.
type traveller struct {
	*Host
	way     Way
	of      inventory.Attachment
	network inventory.Network
	packet  rules.Packet
	// onLink says that the container looks for the destination on its own link, without a gateway.
	onLink bool
}

// at adds a station, and says whether the packet goes on.
func (t *traveller) at(s Station) bool {
	t.way.Stations = append(t.way.Stations, s)
	if s.State != Passes && t.way.State != Stops {
		t.way.State = s.State
	}
	return s.State != Stops
}

func (t *traveller) passes(name, format string, args ...any) bool {
	return t.at(Station{Name: name, State: Passes, Text: fmt.Sprintf(format, args...)})
}

func (t *traveller) stops(name, command, format string, args ...any) bool {
	return t.at(Station{Name: name, State: Stops, Text: fmt.Sprintf(format, args...), Command: command})
}

func (t *traveller) maybe(name, command, format string, args ...any) bool {
	return t.at(Station{Name: name, State: Maybe, Text: fmt.Sprintf(format, args...), Command: command})
}

func (h *Host) traveller(a inventory.Attachment, protocol string) *traveller {
	n, ok := h.NetworkOf(a.Network)
	if !ok {
		n = &inventory.Network{Name: a.Network}
	}
	return &traveller{Host: h, of: a, network: *n, way: Way{Container: a.Container, Network: a.Network, Protocol: protocol, State: Passes}}
}

// follow visits the stations until one stops the packet.
func (t *traveller) follow(stations ...func() bool) Way {
	for _, station := range stations {
		if !station() {
			break
		}
	}
	return t.way
}

// address is the container's address in a family.
func (t *traveller) address(is4 bool) (netip.Addr, bool) {
	i := slices.IndexFunc(t.of.Addresses, func(a netip.Addr) bool { return a.Is4() == is4 })
	if i < 0 {
		return netip.Addr{}, false
	}
	return t.of.Addresses[i], true
}

// lives checks whether the container is alive.
func (t *traveller) lives() bool {
	text := "namespace " + t.of.NetNS
	if t.of.NetNS == "" {
		text = "of an unknown namespace"
	}
	if t.of.State == inventory.Dead {
		return t.stops("container", "trestle gc", "%s is gone", text)
	}
	if t.of.Evidence.Lease {
		text += "; leased " + join(t.of.Addresses)
	}
	return t.passes("container", "%s", text)
}

func join(addresses []netip.Addr) string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return strings.Join(all, ", ")
}

// port checks the host veth.
func (t *traveller) port() bool {
	link, ok := t.LinkOf(t.of.HostLink)
	switch {
	case !ok:
		return t.stops("port", "", "the host veth is gone; attach the container again")
	case !link.Up:
		return t.stops("port", "ip link set "+link.Name+" up", "%s is down", link.Name)
	case link.Master == "" && t.network.Driver == "bridge" && !t.hasLink(t.network.Bridge):
		return t.stops("port", "trestle detach "+t.of.Container+" "+t.of.Network+"   # and attach it again", "%s is on no bridge: %s is gone", link.Name, t.network.Bridge)
	case link.Master == "" && t.network.Driver == "bridge":
		return t.stops("port", "ip link set "+link.Name+" master "+t.network.Bridge, "%s is on no bridge", link.Name)
	case link.Master == "":
		return t.passes("port", "%s, MTU %d", link.Name, link.MTU)
	}
	bridge, ok := t.LinkOf(link.Master)
	if !ok || !bridge.Up {
		return t.stops("port", "ip link set "+link.Master+" up", "bridge %s is down", link.Master)
	}
	return t.passes("port", "%s of bridge %s, MTU %d, %s", link.Name, bridge.Name, link.MTU, link.Operational)
}

func (t *traveller) hasLink(name string) bool {
	_, ok := t.LinkOf(name)
	return ok
}

// inner is the interface by which the host routes to the container: that of the bridge, or the
// host veth.
func (t *traveller) inner() string {
	if t.of.Bridge == "" {
		return t.of.HostLink
	}
	return t.GatewayLink(t.of.Bridge, func(p netip.Prefix) bool { return slices.ContainsFunc(t.of.Addresses, p.Masked().Contains) })
}

func (t *traveller) forwards() bool {
	setting := "net/ipv6/conf/all/forwarding"
	if t.packet.Destination.Is4() {
		setting = "net/ipv4/ip_forward"
	}
	value, err := os.ReadFile("/proc/sys/" + setting)
	if text := strings.TrimSpace(string(value)); err != nil || text == "0" {
		return t.stops("forwarding", "sysctl -w "+setting+"=1", "%s is %s", setting, text)
	}
	return t.passes("forwarding", "%s is %s", setting, strings.TrimSpace(string(value)))
}

// filter passes the packet through all chains of a hook except those that translate.
func (t *traveller) filter(hook string, bridge bool) bool {
	bases := slices.DeleteFunc(t.Rules.At(hook, bridge), func(b rules.Base) bool { return b.NAT })
	name := "rules, " + hook
	if bridge {
		name += " of frames"
	}
	result, err := rules.Walk(bases, t.packet)
	if err != nil {
		return t.maybe(name, "", "they cannot be read: %v", err)
	}
	if len(bases) == 0 {
		return true
	}
	station := Station{Name: name, State: Passes, Text: "no chain drops it: " + chainsOf(bases, t.packet), Rules: result.Steps}
	switch {
	case result.Dropped():
		station.State, station.Text = Stops, fmt.Sprintf("dropped in table %s (%s)", result.By.Table, result.By.Program)
		station.Command = "trestle doctor"
		if result.By.Ours { // then that is configured, and no fault
			station.Text = fmt.Sprintf("dropped in table %s, by the network's configuration (policy or macspoofchk)", result.By.Table)
			station.Command = "trestle network inspect " + strings.Join(t.networks(), " ")
		}
	case result.Verdict == rules.Drop || slices.ContainsFunc(result.Steps, func(s rules.Step) bool { return s.Maybe && s.Verdict == rules.Drop }):
		station.State, station.Text = Maybe, "a rule that trestle does not understand decides whether it is dropped"
	}
	return t.at(station)
}

// chainsOf names the chains that see the packet, those of iptables by their program.
func chainsOf(bases []rules.Base, packet rules.Packet) string {
	var names []string
	for _, b := range bases {
		if !b.Sees(packet) {
			continue
		}
		name := b.Chain + " of " + b.Table
		if b.Program != "nft" {
			name += " (" + b.Program + ")"
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return "there is no chain"
	}
	return strings.Join(names, ", ")
}

// networks are the container's network and, if it is another one, the receiver's.
func (t *traveller) networks() []string {
	names := []string{t.way.Network}
	if to, ok := t.holder(t.packet.Destination); ok && to.Network != t.way.Network {
		names = append(names, to.Network)
	}
	return names
}
