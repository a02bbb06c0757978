package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
)

// Rules is what a container needs of the host's firewall, as wanted and as recorded.
type Rules struct {
	Policy   policy
	Internal bool `json:",omitempty"`
	// Interfaces are the host's interfaces by which the container's packets are routed:
	// the bridge, and the bridge's VLAN interface if there is one.
	Interfaces []string
	// Ports are the container's bridge ports, if the policy isolates it there.
	Ports []string
	// Addresses are the container's, which are let through by Programs and Zone.
	Addresses []netip.Addr
	// IPTables says in which tables "filter" of iptables rules are made. Programs are those
	// of the tables that were found.
	IPTables whenAsked
	Programs []string // "iptables-nft", "ip6tables-legacy" …
	// AdminChain is the admin's chain in each of these tables, before our rules.
	AdminChain string
	Zone       string // of firewalld
	// Released says that DEL has run, and something was out of reach that GC or Restore must
	// still remove.
	Released bool
}

// whenAsked says in which tables of iptables a container's rules are made.
type whenAsked string

// never is in none. ifThere is in each table that exists, or that we can make, even if it
// drops nothing yet, since nobody tells us when that changes. always is likewise, but it is
// an error if there is no table and none can be made.
const (
	never   whenAsked = ""
	ifThere whenAsked = "if there"
	always  whenAsked = "always"
)

// links are a result's interfaces on the host.
type links struct {
	routed []string // for Rules.Interfaces
	other  []string // candidates for Rules.Ports
}

// linksOf takes the first interface on the host for the bridge, as plugins write their
// results. It skips names that are not valid for an interface. result may be nil.
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

// isLinkName refuses quotes, too, which iptables-restore would interpret.
func isLinkName(s string) bool { return cni.CheckIfName(s) == nil && !strings.ContainsAny(s, `"'\`) }

func isVLANOf(name, bridge string) bool {
	id, ok := strings.CutPrefix(name, bridge+".")
	return ok && id != "" && strings.Trim(id, "0123456789") == ""
}

// addressesOf are all addresses of a result, of whichever interface, as with the reference
// plugin.
func addressesOf(result *cni.Result) []netip.Addr {
	var all []netip.Addr
	for _, address := range cni.AddressesOf(result, "") {
		all = append(all, address.Addr())
	}
	return all
}

// withPolicy adds the policy; ports are the container's bridge ports.
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

// asksNFTables says whether the rules keep anybody out, which takes nftables.
func (r Rules) asksNFTables() bool { return r.Policy != policyOpen || r.Internal }

// withConntrack is what the rules need besides nf_tables, for people.
func (r Rules) withConntrack() string {
	if r.Policy == policyPublished {
		return " and its conntrack expressions (nft_ct)"
	}
	return ""
}

// key is the key of the configuration that asks for nftables, for people.
func (r Rules) key() string {
	if r.Policy != policyOpen {
		return fmt.Sprintf("ingressPolicy: %q", r.Policy)
	}
	return "internal: true"
}

// entry is one element, rule or source in one place. Containers may need the same one, so
// records count who does (share).
type entry struct {
	owner cni.Owner
	place string // nftPlace, a program of iptables, or zonePrefix and a zone
	kind  kind
	value string // an interface, a port or an address
}

type kind string

const (
	bridgeEntry    kind = "bridge"    // an interface with the policy same-bridge or isolated
	isolatedEntry  kind = "isolated"  // an interface with the policy isolated
	portEntry      kind = "port"      // a bridge port of an isolated container
	publishedEntry kind = "published" // an interface with the policy published
	internalEntry  kind = "internal"  // an interface of an internal network
	addressEntry   kind = "address"   // an address that is let through
	mappedEntry    kind = "mapped"    // an interface for which port mappings are let through
	adminEntry     kind = "admin"     // the jump to an admin's chain
)

const (
	nftPlace   = "nftables"
	zonePrefix = "zone-"
)

// share is the name by which records say who needs the entry (record.Record.Shares); empty
// for a port, which only one container has.
func (e entry) share() string {
	if e.kind == portEntry {
		return ""
	}
	return e.place + "-" + string(e.kind) + "-" + e.value
}

// entries are the entries of the owner's rules, place by place.
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

// isNothing says whether the rules need no record: they have no entries, and will have none
// if a table of iptables is made later.
func (r Rules) isNothing() bool {
	return len(r.entries(cni.Owner{})) == 0 && (r.IPTables == never || len(r.Addresses) == 0)
}

// shares are the shares of the entries, each once.
func shares(entries []entry) []string {
	var all []string
	for _, e := range entries {
		if s := e.share(); s != "" && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// placesOf are the places of the entries, each once and in order.
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

// cidr is the entry's address with its full prefix length; the value itself if that is no
// address.
func (e entry) cidr() string {
	a, err := netip.ParseAddr(e.value)
	if err != nil {
		return e.value
	}
	return netip.PrefixFrom(a, a.BitLen()).String()
}
