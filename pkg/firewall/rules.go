package firewall

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Rules is what a container has of the host's firewall, as it is wanted and as
// it is recorded.
type Rules struct {
	Policy Policy
	// Interfaces are those of the host that the container's packets are routed
	// through: the bridge, and where there is one the bridge's VLAN interface.
	Interfaces []string
	// Ports are the container's on the bridge, if it shall be isolated there.
	Ports []string
	// Addresses are the container's. Forwards and Zone are asked to let them through.
	Addresses []netip.Addr
	Forwards  []forward
	Zone      string
	// AdminChain comes before our rules in every one of Forwards.
	AdminChain string
}

// forward is a table "filter" of iptables whose rules are to let us through: a
// family's, in a variant of iptables.
type forward struct {
	Program string // that changes it: "iptables", "ip6tables-legacy" …
	IPv4    bool
}

// links are what a result says of the host.
type links struct {
	routed []string // as Rules.Interfaces
	other  []string // candidates for Rules.Ports
}

// linksOf: by custom a result names the bridge first, then the container's port.
// A name that no interface can have is no interface.
func linksOf(result *cni.Result) links {
	var l links
	for _, i := range result.Interfaces {
		switch {
		case i.Sandbox != "" || !isLinkName(i.Name):
		case len(l.routed) == 0 || isVLANOf(i, l.routed[0]):
			l.routed = append(l.routed, i.Name)
		default:
			l.other = append(l.other, i.Name)
		}
	}
	return l
}

// isLinkName is the kernel's rule (dev_valid_name, net/core/dev.c), and no quotes,
// which iptables-restore would read as its own.
func isLinkName(s string) bool {
	bad := func(c rune) bool {
		return unicode.IsSpace(c) || unicode.IsControl(c) || strings.ContainsRune(`/:"'\`, c)
	}
	return s != "" && len(s) < unix.IFNAMSIZ && s != "." && s != ".." && !strings.ContainsFunc(s, bad)
}

func isVLANOf(i *types100.Interface, bridge string) bool {
	id, ok := strings.CutPrefix(i.Name, bridge+".")
	return ok && id != "" && strings.Trim(id, "0123456789") == ""
}

// addressesOf are all that a result gives out, as the reference plugin has it.
func addressesOf(result *cni.Result) []netip.Addr {
	var all []netip.Addr
	for _, ip := range result.IPs {
		if address, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			all = append(all, address.Unmap())
		}
	}
	return all
}

// withPolicy adds what the policy asks for; ports are those of the bridge.
func (r *Rules) withPolicy(policy Policy, l links, ports []string) error {
	if policy == Open {
		r.Policy = Open
		return nil
	}
	if len(l.routed) == 0 {
		return cni.ConfigErrorf("ingressPolicy: %q needs the name of a bridge, and prevResult.interfaces has none of the host; put this plugin after bridge in the list, or leave the policy out", policy)
	}
	r.Policy = policy
	if policy == Isolated {
		r.Ports = ports
	}
	return nil
}

// part is the smallest thing that two containers can have in common.
type part struct {
	place string // the table, zone … that it is in, as a directory is named
	kind  partKind
	value string
}

type partKind string

const (
	bridgePart   partKind = "bridge"   // an interface with a policy
	isolatedPart partKind = "isolated" // one through which nothing comes back
	portPart     partKind = "port"     // one of a bridge's, alone on it
	addressPart  partKind = "address"  // one that is let through
	mappedPart   partKind = "mapped"   // an interface, to which mapped ports are let through
)

// The places that are neither a program of iptables nor a zone.
const (
	inetPlace   = "inet"
	bridgePlace = "bridge"
	zonePrefix  = "zone-"
)

func (p part) String() string { return string(p.kind) + "-" + p.value }

// parts are all that the rules consist of.
func (r Rules) parts() []part {
	var parts []part
	if r.Policy != Open {
		for _, name := range r.Interfaces {
			parts = append(parts, part{inetPlace, bridgePart, name})
			if r.Policy == Isolated {
				parts = append(parts, part{inetPlace, isolatedPart, name})
			}
		}
	}
	for _, name := range r.Ports {
		parts = append(parts, part{bridgePlace, portPart, name})
	}
	for _, f := range r.Forwards {
		for _, name := range r.Interfaces {
			parts = append(parts, part{f.Program, mappedPart, name})
		}
		for _, address := range r.Addresses {
			if address.Is4() == f.IPv4 {
				parts = append(parts, part{f.Program, addressPart, address.String()})
			}
		}
	}
	if r.Zone != "" {
		for _, address := range r.Addresses {
			parts = append(parts, part{zonePrefix + r.Zone, addressPart, address.String()})
		}
	}
	return parts
}

// placesOf are the places of parts, each once and in order.
func placesOf(parts []part) []string {
	var places []string
	for _, p := range parts {
		if !slices.Contains(places, p.place) {
			places = append(places, p.place)
		}
	}
	return places
}

func inPlace(parts []part, place string) []part {
	var own []part
	for _, p := range parts {
		if p.place == place {
			own = append(own, p)
		}
	}
	return own
}
