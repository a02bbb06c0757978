package bridge

import (
	"fmt"
	"net"
	"slices"
)

// Difference is one detail in which the kernel differs from the plan.
type Difference struct {
	What string // "container interface eth0"
	Want string
	Have string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: want %s, have %s", d.What, d.Want, d.Have)
}

// Diff lists what the plan has and the observed state lacks. What others have added is no
// difference, nor is what udev or a packet capture changes: the MACs of host veth and bridge,
// and promiscuity.
func Diff(want, have State) []Difference {
	var d differences
	d.bridge(want.Bridge, have.Bridge)
	d.port(want.Port, have.Port)
	d.container(want.Container, have.Container)
	d.lacks("sysctl net."+dotted(forward4), want.Forward4, have.Forward4)
	d.lacks("sysctl net."+dotted(forward6), want.Forward6, have.Forward6)
	return d
}

type differences []Difference

func (d *differences) add(what, want, have string) { *d = append(*d, Difference{what, want, have}) }

// lacks adds a difference if something is wanted and off. If it is on without being wanted,
// that is none.
func (d *differences) lacks(what string, want, have bool) {
	if want && !have {
		d.add(what, "on", "off")
	}
}

// missing says whether the link is not there, and adds that difference; its properties need
// none of their own then.
func (d *differences) missing(what, want, have string) bool {
	if want != have {
		d.add(what, want, "none")
	}
	return want != have
}

func (d *differences) bridge(want, have Bridge) {
	if d.missing("bridge", want.Name, have.Name) {
		return
	}
	d.lacks("bridge "+want.Name+" up", want.Up, have.Up)
	d.lacks("bridge "+want.Name+" vlan_filtering", want.VLANFiltering, have.VLANFiltering)
	if want.VLANInterface != "" && want.VLANInterface != have.VLANInterface {
		d.add("VLAN interface", want.VLANInterface, orNone(have.VLANInterface))
		return
	}
	if want.VLAN != have.VLAN {
		d.add("VLAN that reaches "+want.VLANInterface+" by bridge "+want.Name, fmt.Sprint(want.VLAN), "none")
	}
	for _, g := range want.Gateways {
		if !slices.Contains(have.Gateways, g) {
			d.add("gateway address on "+want.GatewayName(), g.String(), fmt.Sprint(have.Gateways))
		}
	}
}

func (d *differences) port(want, have Port) {
	if d.missing("host interface", want.Name, have.Name) {
		return
	}
	name := "host interface " + want.Name
	if want.Bridge != have.Bridge {
		d.add(name+" master", want.Bridge, orNone(have.Bridge))
	}
	d.lacks(name+" up", want.Up, have.Up)
	d.lacks(name+" hairpin", want.Hairpin, have.Hairpin) // portmap may have switched it on unasked
	d.lacks(name+" isolated", want.Isolated, have.Isolated)
	if want.VLAN.filters() && !have.VLAN.includes(want.VLAN) {
		d.add(name+" VLANs", want.VLAN.String(), have.VLAN.String())
	}
}

func (d *differences) container(want, have Interface) {
	if d.missing("container interface", want.Name, have.Name) {
		return
	}
	name := "container interface " + want.Name
	d.lacks(name+" up", want.Up, have.Up)
	if want.MAC != nil && want.MAC.String() != have.MAC.String() {
		d.add(name+" MAC", want.MAC.String(), macOrNone(have.MAC))
	}
	if want.MTU != 0 && want.MTU != have.MTU {
		d.add(name+" MTU", fmt.Sprint(want.MTU), fmt.Sprint(have.MTU))
	}
	for _, a := range want.Addresses {
		if !slices.ContainsFunc(have.Addresses, func(h Address) bool { return h.Prefix == a.Prefix }) {
			d.add(name+" address", a.Prefix.String(), "none")
		}
	}
	for _, r := range want.Routes {
		same := func(h Route) bool { return h == r || want.AnyRouteFields && r.mayBe(h) }
		if !slices.ContainsFunc(have.Routes, same) {
			d.add(name, r.String(), closest(r, have.Routes))
		}
	}
}

// closest shows the observed route to the same destination, so that one sees what differs.
func closest(want Route, have []Route) string {
	for _, r := range have {
		if r.Dst == want.Dst && r.Table == want.Table {
			return r.String()
		}
	}
	return "none"
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func macOrNone(mac net.HardwareAddr) string { return orNone(mac.String()) }
