package doctor

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// peerRoutes finds other hosts to whose containers no route of ours leads.
func peerRoutes(h *Host) []Finding {
	var missing, others, unreached []string
	command := ""
	for _, p := range h.Peers() {
		if p.Way == hosts.None && len(p.Subnets) > 0 {
			unreached = append(unreached, p.Name)
			continue
		}
		for _, s := range p.Subnets {
			routes := h.routesTo(s)
			what := fmt.Sprintf("%s of %s", s.Subnet, p.Name)
			switch i := slices.IndexFunc(routes, isOthers); {
			case i >= 0:
				others = append(others, fmt.Sprintf("%s (by %s, protocol %s)", what, routes[i].Link, routes[i].Protocol))
				if command == "" {
					command = "ip route del " + s.Subnet.String() + "   # then trestle-node adds its own"
				}
			case !slices.ContainsFunc(routes, h.leads(h.Node.Device(p))):
				missing = append(missing, what)
			}
		}
	}
	return h.peerFindings(missing, others, unreached, command)
}

func (h *Host) peerFindings(missing, others, unreached []string, command string) []Finding {
	var all []Finding
	add := func(names []string, text, command string) {
		if len(names) > 0 {
			all = append(all, Finding{Severity: Fault, Subject: "other hosts", Text: fmt.Sprintf(text, some(names)), Command: command})
		}
	}
	repair := "trestle node status   # shows why trestle-node does not add them"
	if !h.RunsAgent() {
		repair = "systemctl start trestle-node"
	}
	add(missing, "the route of trestle-node to %s is missing: their containers cannot be reached", repair)
	add(others, "another program's routes are in the place of trestle-node's, which leaves them alone: %s", command)
	add(unreached, "there is no path to %s: their containers cannot be reached", "trestle node status   # shows why")
	return all
}

func (h *Host) routesTo(s hosts.Subnet) []inventory.Route {
	var all []inventory.Route
	for _, r := range h.Routes {
		if r.To == s.Subnet {
			all = append(all, r)
		}
	}
	return all
}

func isOthers(r inventory.Route) bool { return r.Protocol != strconv.Itoa(hosts.RouteProtocol) }

// leads says whether a route leads by the link, and the link is up.
func (h *Host) leads(link string) func(inventory.Route) bool {
	found, ok := h.LinkOf(link)
	return func(r inventory.Route) bool { return r.Link == link && ok && found.Up }
}

// peerMTUs finds hosts whose uplinks have different MTUs: the smallest one decides.
func peerMTUs(h *Host) []Finding {
	if h.Node == nil {
		return nil
	}
	smallest, largest := hosts.Peer{}, hosts.Peer{}
	consider := func(p hosts.Peer) {
		if p.MTU == 0 {
			return
		}
		if smallest.MTU == 0 || p.MTU < smallest.MTU {
			smallest = p
		}
		if p.MTU > largest.MTU {
			largest = p
		}
	}
	if uplink, ok := h.LinkOf(h.Node.Uplink); ok {
		consider(hosts.Peer{Name: "this host", MTU: uplink.MTU})
	}
	for _, p := range h.Peers() {
		consider(p)
	}
	if smallest.MTU == largest.MTU {
		return nil
	}
	return []Finding{{
		Severity: Warning, Subject: "other hosts",
		Text: fmt.Sprintf("their uplinks differ: %s has MTU %d, %s %d; all containers get what the smallest leaves, %d; those started before keep a larger one until they are restarted",
			smallest.Name, smallest.MTU, largest.Name, largest.MTU, h.Node.MTU),
		Command: "trestle ls --hosts   # then give the uplinks one MTU",
	}}
}
