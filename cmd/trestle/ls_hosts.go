package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// hostLine is another host, as it is listed. Way is how it is reached, as the configuration
// calls it.
type hostLine struct {
	hosts.Peer
	Way    string `json:"way"`
	Device string `json:"device,omitempty"`
}

// otherHosts are the other hosts with a subnet of the named networks, or all if none is named;
// never nil, so that JSON has an empty list.
func otherHosts(snapshot *inventory.Snapshot, networks []string) []hostLine {
	lines := []hostLine{}
	for _, p := range snapshot.Peers() {
		on := func(s hosts.Subnet) bool { return slices.Contains(networks, s.Network) }
		if len(networks) == 0 || slices.ContainsFunc(p.Subnets, on) {
			lines = append(lines, hostLine{p, snapshot.Node.WayTo(p), snapshot.Node.Device(p)})
		}
	}
	return lines
}

func (o lsOptions) runHosts(p *ui.Printer) error {
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	if _, err := onNetworks(snapshot, o.networks); err != nil {
		return err
	}
	lines := otherHosts(snapshot, o.networks)
	if p.JSON {
		return p.Document(lines)
	}
	return p.Table(hostTable(p, lines, snapshot.Time))
}

// fewHosts is how many other hosts are listed below the attachments at most.
const fewHosts = 10

// printHosts lists the other hosts below the attachments, if there are any.
func (o lsOptions) printHosts(p *ui.Printer, snapshot *inventory.Snapshot) error {
	lines := otherHosts(snapshot, o.networks)
	if len(lines) == 0 {
		return nil
	}
	p.Printf("\n")
	if err := p.Table(hostTable(p, lines[:min(fewHosts, len(lines))], snapshot.Time)); err != nil {
		return err
	}
	if more := len(lines) - fewHosts; more > 0 {
		p.Printf("and %s more; trestle ls --hosts lists all\n", counted(more, "host"))
	}
	return nil
}

func hostTable(p *ui.Printer, lines []hostLine, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "HOST", Least: 8},
		{Title: "SUBNETS", Least: 15, Dear: true},
		{Title: "WAY"},
		{Title: "UNDERLAY", Least: 10, Optional: true},
		{Title: "DEVICE", Optional: true},
		{Title: "MTU", Right: true},
		{Title: "SEEN"},
		{Title: "NOTE", Least: 10},
	}}
	for _, l := range lines {
		t.Add(l.Name, ui.List(subnetTexts(l.Peer)...), paintHostWay(p, l.Way), ui.List(texts(l.Underlay)...), l.Device, mtuText(l.MTU), ui.Age(l.Seen, now), hostNote(l.Peer))
	}
	return t
}

func subnetTexts(p hosts.Peer) []string {
	var all []string
	for _, s := range p.Subnets {
		all = append(all, s.Subnet.String())
	}
	return all
}

func mtuText(mtu int) string {
	if mtu == 0 {
		return ""
	}
	return fmt.Sprint(mtu)
}

func paintHostWay(p *ui.Printer, way string) string {
	if way == hosts.None {
		return p.Paint(ui.Bad, way)
	}
	return p.Paint(ui.Good, way)
}

func hostNote(p hosts.Peer) string {
	if p.Missing {
		return "not in the store; kept"
	}
	return ""
}
