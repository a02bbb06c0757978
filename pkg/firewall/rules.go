package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
)

// Rules is what a container has of the host's firewall, as it is wanted and as
// it is recorded.
type Rules struct {
	Policy   policy
	Internal bool `json:",omitempty"`
	// Interfaces are those of the host that the container's packets are routed
	// through: the bridge, and where there is one the bridge's VLAN interface.
	Interfaces []string
	// Ports are the container's on the bridge, if it shall be isolated there.
	Ports []string
	// Addresses are the container's. Programs and Zone are asked to let them through.
	Addresses []netip.Addr
	// IPTables says in which tables "filter" of iptables; Programs are those found.
	IPTables whenAsked
	Programs []string // "iptables-nft", "ip6tables-legacy" …
	// AdminChain comes before our rules in every one of them.
	AdminChain string
	Zone       string // of firewalld
	// Released says that the container is gone, and that something of it was out of
	// reach then.
	Released bool
}

// whenAsked says which tables of iptables are asked to let a container through.
type whenAsked string

// never asks none; ifThere those that the kernel has (since nobody tells us what will drop
// packets there tomorrow) and, where it has none, one that is made if it can be; always
// the same, but it is an error if none can be made.
const (
	never   whenAsked = ""
	ifThere whenAsked = "if there"
	always  whenAsked = "always"
)

// links are what a result says of the host.
type links struct {
	routed []string // as Rules.Interfaces
	other  []string // candidates for Rules.Ports
}

// linksOf: by custom a result names the bridge first, then the container's port.
// A name that no interface can have is no interface. There may be no result.
func linksOf(result *cni.Result) links {
	var l links
	for _, name := range cni.HostLinks(result) {
		switch {
		case !isLinkName(name):
		case len(l.routed) == 0 || isVLANOf(name, l.routed[0]):
			l.routed = append(l.routed, name)
		default:
			l.other = append(l.other, name)
		}
	}
	return l
}

// isLinkName: iptables-restore would read quotes as its own.
func isLinkName(s string) bool { return cni.CheckIfName(s) == nil && !strings.ContainsAny(s, `"'\`) }

func isVLANOf(name, bridge string) bool {
	id, ok := strings.CutPrefix(name, bridge+".")
	return ok && id != "" && strings.Trim(id, "0123456789") == ""
}

// addressesOf are all that a result gives out, as the reference plugin has it.
func addressesOf(result *cni.Result) []netip.Addr {
	var all []netip.Addr
	for _, address := range cni.AddressesOf(result, "") {
		all = append(all, address.Addr())
	}
	return all
}

// withPolicy adds what the policy asks for; ports are those of the bridge.
func (r *Rules) withPolicy(c Config, l links, ports []string) error {
	r.Policy, r.Internal = c.Policy, c.Internal
	if r.asksNFTables() && len(l.routed) == 0 {
		return cni.ConfigErrorf("%s needs the name of a bridge, and prevResult.interfaces has none of the host; put this plugin after bridge in the list, or leave that out", r.key())
	}
	if r.Policy == policyIsolated {
		r.Ports = ports
	}
	return nil
}

// asksNFTables says whether the rules keep anybody out.
func (r Rules) asksNFTables() bool { return r.Policy != policyOpen || r.Internal }

// withConntrack is what the rules need besides nf_tables, for people.
func (r Rules) withConntrack() string {
	if r.Policy == policyPublished {
		return " and its conntrack expressions (nft_ct)"
	}
	return ""
}

// key is the key that does, for people.
func (r Rules) key() string {
	if r.Policy != policyOpen {
		return fmt.Sprintf("ingressPolicy: %q", r.Policy)
	}
	return "internal: true"
}

// entry is the smallest thing that two containers can have in common.
type entry struct {
	owner cni.Owner
	place string // nftPlace, a program of iptables, or zonePrefix and a zone
	kind  kind
	value string // an interface, a port or an address
}

type kind string

const (
	bridgeEntry    kind = "bridge"    // an interface with a policy
	isolatedEntry  kind = "isolated"  // one through which nothing comes back
	portEntry      kind = "port"      // a port of a bridge's, alone on it
	publishedEntry kind = "published" // an interface to which mapped ports lead, and no other way
	internalEntry  kind = "internal"  // one from which and to which no way leads
	addressEntry   kind = "address"   // one that is let through
	mappedEntry    kind = "mapped"    // an interface, to which mapped ports are let through
	adminEntry     kind = "admin"     // an administrator's chain, which is asked first
)

const (
	nftPlace   = "nftables"
	zonePrefix = "zone-"
)

// share is the name by which records say who has the entry; a port has one user.
func (e entry) share() string {
	if e.kind == portEntry {
		return ""
	}
	return e.place + "-" + string(e.kind) + "-" + e.value
}

// entries are all that the owner's rules consist of, place by place.
func (r Rules) entries(o cni.Owner) []entry {
	var all []entry
	add := func(place string, kind kind, values ...string) {
		for _, value := range values {
			all = append(all, entry{o, place, kind, value})
		}
	}
	if r.Policy == policySameBridge || r.Policy == policyIsolated {
		add(nftPlace, bridgeEntry, r.Interfaces...)
	}
	if r.Policy == policyIsolated {
		add(nftPlace, isolatedEntry, r.Interfaces...)
		add(nftPlace, portEntry, r.Ports...)
	}
	if r.Policy == policyPublished {
		add(nftPlace, publishedEntry, r.Interfaces...)
	}
	if r.Internal {
		add(nftPlace, internalEntry, r.Interfaces...)
	}
	for _, program := range r.Programs {
		add(program, adminEntry, r.AdminChain)
		add(program, mappedEntry, r.Interfaces...)
		ipv4 := iptables.FamilyOf(program).IPv4
		for _, a := range r.Addresses {
			if a.Is4() == ipv4 {
				add(program, addressEntry, a.String())
			}
		}
	}
	if r.Zone != "" {
		for _, a := range r.Addresses {
			add(zonePrefix+r.Zone, addressEntry, a.String())
		}
	}
	return all
}

// isNothing says whether the rules are no reason for a record: nothing is made, nor
// will be for a table of iptables that comes later.
func (r Rules) isNothing() bool {
	return len(r.entries(cni.Owner{})) == 0 && (r.IPTables == never || len(r.Addresses) == 0)
}

// shares are those of entries, each once.
func shares(entries []entry) []string {
	var all []string
	for _, e := range entries {
		if s := e.share(); s != "" && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// placesOf are the places of entries, each once and in order.
func placesOf(entries []entry) []string {
	var places []string
	for _, e := range entries {
		if !slices.Contains(places, e.place) {
			places = append(places, e.place)
		}
	}
	return places
}

func inPlace(entries []entry, place string) []entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.place != place })
}

// cidr is an address as one network; what is no address it gives back.
func (e entry) cidr() string {
	a, err := netip.ParseAddr(e.value)
	if err != nil {
		return e.value
	}
	return netip.PrefixFrom(a, a.BitLen()).String()
}
