package firewall

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// The rules look up interfaces in sets: those of table inet the input and output interface
// of a forwarded packet, those of table bridge the ports of a frame. So the cost does not
// depend on the number of containers and networks.
const (
	bridgeSet   = "bridges"          // interfaces with a policy
	sameSet     = "same_bridge"      // pairs of the same interface: packets that stay on their bridge
	isolatedSet = "isolated_bridges" // likewise, but the host does not route them back
	portSet     = "isolated_ports"   // bridge ports of isolated containers

	publishedSet   = "published_bridges"
	inPublishedSet = "within_published"
	internalSet    = "internal_bridges"
	inInternalSet  = "within_internal"
)

const (
	tableName   = "trestle"
	chainName   = "forward"
	ruleComment = "trestle firewall"
)

// inetTable enforces the policies same-bridge and isolated between bridges. It is in the same
// table as NAT.
//
//	chain forward {
//		type filter hook forward priority filter; policy accept;
//		iifname . oifname @isolated_bridges drop
//		iifname . oifname @same_bridge accept
//		iifname @bridges oifname @bridges drop
//	}
//
// A drop is final in whatever order the kernel runs base chains; an accept ends only its own
// chain.
func inetTable() nft.Table {
	return nft.Table{
		Family: nftables.TableFamilyINet, Name: tableName, Key: "firewall, packets 1",
		Sets: []nft.Set{set(bridgeSet, 1), set(sameSet, 2), set(isolatedSet, 2)},
		Chains: []nft.Chain{{
			Name: chainName,
			Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter},
			Rules: []nft.Rule{
				rule(in(), andOut(), among(isolatedSet), verdict(expr.VerdictDrop)),
				rule(in(), andOut(), among(sameSet), verdict(expr.VerdictAccept)),
				rule(in(), among(bridgeSet), out(), among(bridgeSet), verdict(expr.VerdictDrop)),
			},
		}},
	}
}

// publishedTable enforces the policy published, in the same table. It is apart, since its
// rules make the kernel track connections, and made only if a network has that policy.
//
//	chain published {
//		type filter hook forward priority filter; policy accept;
//		iifname . oifname @within_published accept
//		ct state established,related accept
//		oifname @published_bridges ct status dnat accept
//		oifname @published_bridges drop
//		iifname @published_bridges oifname @bridges drop
//	}
//
// The last rule drops new connections from there to bridges with another policy, as that
// policy asks. (If these bridges were in set bridges instead, chain forward would also drop
// the answers to connections from the others.) A connection has ct status dnat only if it
// came by a port mapping, whichever program made that.
func publishedTable() nft.Table {
	// NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED, and IPS_DST_NAT
	// (linux/netfilter/nf_conntrack_common.h)
	const answers, translated = 1<<1 | 1<<2, 1 << 5
	return nft.Table{
		Family: nftables.TableFamilyINet, Name: tableName, Key: "firewall, published 1",
		Sets: []nft.Set{set(publishedSet, 1), set(inPublishedSet, 2), set(bridgeSet, 1)},
		Chains: []nft.Chain{{
			Name: "published",
			Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter},
			Rules: []nft.Rule{
				rule(in(), andOut(), among(inPublishedSet), verdict(expr.VerdictAccept)),
				rule(append(connection(expr.CtKeySTATE, answers), verdict(expr.VerdictAccept))...),
				rule(append([]expr.Any{out(), among(publishedSet)}, append(connection(expr.CtKeySTATUS, translated), verdict(expr.VerdictAccept))...)...),
				rule(out(), among(publishedSet), verdict(expr.VerdictDrop)),
				rule(in(), among(publishedSet), out(), among(bridgeSet), verdict(expr.VerdictDrop)),
			},
		}},
	}
}

// internalTable keeps internal networks from all others, in the same table.
//
//	chain internal {
//		type filter hook forward priority filter; policy accept;
//		iifname . oifname @within_internal accept
//		iifname @internal_bridges drop
//		oifname @internal_bridges drop
//	}
func internalTable() nft.Table {
	return nft.Table{
		Family: nftables.TableFamilyINet, Name: tableName, Key: "firewall, internal 1",
		Sets: []nft.Set{set(internalSet, 1), set(inInternalSet, 2)},
		Chains: []nft.Chain{{
			Name: "internal",
			Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter},
			Rules: []nft.Rule{
				rule(in(), andOut(), among(inInternalSet), verdict(expr.VerdictAccept)),
				rule(in(), among(internalSet), verdict(expr.VerdictDrop)),
				rule(out(), among(internalSet), verdict(expr.VerdictDrop)),
			},
		}},
	}
}

// bridgeTable drops frames that are forwarded from or to a port in portSet. It is in the same
// table as the MAC spoof check.
func bridgeTable() nft.Table {
	return nft.Table{
		Family: nftables.TableFamilyBridge, Name: tableName, Key: "firewall, frames 1",
		Sets: []nft.Set{set(portSet, 1)},
		Chains: []nft.Chain{{
			Name: chainName,
			// NF_BR_PRI_FILTER_BRIDGED, linux/netfilter_bridge.h
			Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(-200)},
			Rules: []nft.Rule{
				rule(in(), among(portSet), verdict(expr.VerdictDrop)),
				rule(out(), among(portSet), verdict(expr.VerdictDrop)),
			},
		}},
	}
}

// tables are all of them; each is what the firewall has in a table that it may share.
func tables() []nft.Table {
	return []nft.Table{inetTable(), bridgeTable(), publishedTable(), internalTable()}
}

// tablesOf are those of tables that the elements need. A set that several have belongs to
// the first of them.
func tablesOf(elements []nft.Element) []nft.Table {
	var needed []nft.Table
	seen := map[string]bool{}
	for _, t := range tables() {
		isIn := func(e nft.Element) bool {
			return e.Family == t.Family && !seen[e.Set] && slices.ContainsFunc(t.Sets, func(s nft.Set) bool { return s.Name == e.Set })
		}
		if slices.ContainsFunc(elements, isIn) {
			needed = append(needed, t)
		}
		for _, s := range t.Sets {
			seen[s.Name] = true
		}
	}
	return needed
}

// set is a set of interface names, or of tuples of them.
func set(name string, names int) nft.Set {
	return nft.Set{Name: name, Key: slices.Repeat([]nftables.SetDatatype{nftables.TypeIFName}, names)}
}

func rule(exprs ...expr.Any) nft.Rule { return nft.Rule{Comment: ruleComment, Exprs: exprs} }

func in() expr.Any { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1} }

func out() expr.Any { return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_1} }

// andOut follows in for the key of a set of pairs.
func andOut() expr.Any { return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_2} }

// connection matches packets whose connection has any of the bits in its state or status.
func connection(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: unix.NFT_REG_1},
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: make([]byte, 4)},
	}
}

func among(set string) expr.Any { return &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set} }

func verdict(kind expr.VerdictKind) expr.Any { return &expr.Verdict{Kind: kind} }

// elements are the elements of an nftables entry. Those of an interface belong to all
// containers behind it, of whichever network; their comment names the network of the first.
func (e entry) elements() []nft.Element {
	name := nft.InterfaceKey(e.value)
	twice := slices.Repeat(name, 2)
	shared := func(set string, key []byte) nft.Element {
		return nft.Element{
			Family: nftables.TableFamilyINet, Table: tableName, Set: set, Key: key, What: e.value,
			Owner: cni.NetworkLabel(e.owner.Network), Shared: true,
		}
	}
	switch e.kind {
	case bridgeEntry:
		return []nft.Element{shared(bridgeSet, name), shared(sameSet, twice)}
	case isolatedEntry:
		return []nft.Element{shared(isolatedSet, twice)}
	case publishedEntry:
		return []nft.Element{shared(publishedSet, name), shared(inPublishedSet, twice)}
	case internalEntry:
		return []nft.Element{shared(internalSet, name), shared(inInternalSet, twice)}
	default:
		return []nft.Element{{
			Family: nftables.TableFamilyBridge, Table: tableName, Set: portSet, Key: name, What: e.value,
			Owner: e.owner.String(),
		}}
	}
}

func elementsOf(entries []entry) []nft.Element {
	var all []nft.Element
	for _, e := range entries {
		all = append(all, e.elements()...)
	}
	return nft.Without(all, nil)
}

// nobody is the nft.IsAlive that says of every other owner of our elements that it is dead: an
// element with the name of our link is a stale one, of a link that had the same name.
func nobody(string) (bool, error) { return false, nil }

// nftBackend makes the entries of nftPlace.
type nftBackend struct {
	conn    *nft.Conn
	records record.Store
}

// commit changes tables that NAT and the MAC checks share, so it holds their lock.
func (b nftBackend) commit(changes nft.Changes, isAlive nft.IsAlive) error {
	return b.recordsLocked(func() error { return b.conn.Commit(changes, isAlive) })
}

func (b nftBackend) recordsLocked(do func() error) error {
	return b.records.Locked(func() error {
		b.conn.Refresh()
		return do()
	})
}

func (b nftBackend) add(entries []entry, allEntries func() ([]entry, error)) error {
	elements := elementsOf(entries)
	for _, t := range tablesOf(elements) {
		there, err := b.conn.HasChain(t, t.Chains[0].Name)
		if err != nil {
			return err
		}
		if !there {
			all, err := allEntries()
			if err != nil {
				return err
			}
			elements = append(elements, nft.Without(elementsOf(inPlace(all, nftPlace)), elements)...)
			break
		}
	}
	return b.commit(nft.Changes{Tables: tablesOf(elements), Create: elements}, nobody)
}

func (b nftBackend) remove(entries []entry) error {
	return b.commit(nft.Changes{Remove: elementsOf(entries)}, nil)
}

func (b nftBackend) diff(entries []entry) ([]string, error) {
	elements := elementsOf(entries)
	return b.conn.Diff(nft.Changes{Tables: tablesOf(elements), Create: elements})
}

// list are the elements that the kernel has in our sets.
func (b nftBackend) list() ([]nft.Element, error) {
	var all []nft.Element
	for _, t := range tables() {
		found, err := b.conn.List(t)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return nft.Without(all, nil), nil
}

// Layouts are the names of what we put into tables of nftables (nft.Table.Key).
func Layouts() []string {
	var keys []string
	for _, t := range tables() {
		keys = append(keys, t.Key)
	}
	return keys
}
