package firewall

import (
	"bytes"
	"errors"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// In table inet, a packet that is forwarded is looked up by the interfaces that it
// comes and goes by; in table bridge, a frame by the ports. So it costs the same
// however many containers and networks there are.
const (
	bridgeSet   = "bridges"          // interfaces with a policy
	sameSet     = "same_bridge"      // each of them twice: what stays within
	isolatedSet = "isolated_bridges" // likewise, of those through which nothing comes back
	portSet     = "isolated_ports"   // of bridges

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

// inetTable is our first part of the table that NAT has its own part of: for policies
// between bridges.
//
//	chain forward {
//		type filter hook forward priority filter; policy accept;
//		iifname . oifname @isolated_bridges drop
//		iifname . oifname @same_bridge accept
//		iifname @bridges oifname @bridges drop
//	}
//
// Whoever drops a packet has the last word, in whatever order chains are asked.
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

// publishedTable is another part of that table. It is made where a network asks for it, and
// makes the kernel track connections.
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
// The last rule keeps what begins there from bridges with another policy, as theirs asks;
// their own chain would drop the answers to them, too. A connection has been translated
// (IPS_DST_NAT) only if it came by a port mapping, whichever program's.
func publishedTable() nft.Table {
	// linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT of IP_CT_ESTABLISHED and
	// IP_CT_RELATED; IPS_DST_NAT
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

// internalTable is a third part of it, for networks that no way leads to or from.
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

// bridgeTable is our part of the table that the MAC spoof check has its own part of:
// what comes or goes by a port of portSet is dropped.
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

// tables are all parts.
func tables() []nft.Table {
	return []nft.Table{inetTable(), bridgeTable(), publishedTable(), internalTable()}
}

// tablesOf are those parts whose elements these are. A set that a later part looks into,
// too, is the first one's.
func tablesOf(elements []nft.Element) []nft.Table {
	var parts []nft.Table
	seen := map[string]bool{}
	for _, t := range tables() {
		isIn := func(e nft.Element) bool {
			return e.Family == t.Family && !seen[e.Set] && slices.ContainsFunc(t.Sets, func(s nft.Set) bool { return s.Name == e.Set })
		}
		if slices.ContainsFunc(elements, isIn) {
			parts = append(parts, t)
		}
		for _, s := range t.Sets {
			seen[s.Name] = true
		}
	}
	return parts
}

func set(name string, names int) nft.Set {
	return nft.Set{Name: name, Key: slices.Repeat([]nftables.SetDatatype{nftables.TypeIFName}, names)}
}

func rule(exprs ...expr.Any) nft.Rule { return nft.Rule{Comment: ruleComment, Exprs: exprs} }

func in() expr.Any { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1} }

func out() expr.Any { return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_1} }

// andOut is for a set of pairs, after in.
func andOut() expr.Any { return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_2} }

// connection asks whether the packet's has any of these bits in its state or status.
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

// elements of the entry. An interface's belong to all containers behind it, of
// whichever network; their comment names that of the first.
func (e entry) elements() []nft.Element {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, e.value)
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

// linkOf is the interface that an element is about.
func linkOf(e nft.Element) string {
	return string(bytes.TrimRight(e.Key[:min(len(e.Key), unix.IFNAMSIZ)], "\x00"))
}

// nobody says that no earlier owner of an element is alive: the link names are reused, so an
// element with the name of ours is a stale one.
func nobody(string) (bool, error) { return false, nil }

// nftBackend has entries of nftPlace.
type nftBackend struct {
	conn    *nft.Conn
	records record.Store
}

// commit changes tables that are not the firewall's alone: whoever takes an idle one
// away holds the same lock.
func (b nftBackend) commit(changes nft.Changes, vouch nft.Vouch) error {
	return b.alone(func() error { return b.conn.Commit(changes, vouch) })
}

func (b nftBackend) alone(do func() error) error {
	lock, err := b.records.Lock()
	if err != nil {
		return err
	}
	b.conn.Refresh()
	return errors.Join(do(), lock.Unlock())
}

func (b nftBackend) add(entries []entry, everybody func() ([]entry, error)) error {
	elements := elementsOf(entries)
	for _, t := range tablesOf(elements) {
		there, err := b.conn.HasChain(t, t.Chains[0].Name)
		if err != nil {
			return err
		}
		if !there {
			all, err := everybody()
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

func (b nftBackend) missing(entries []entry) ([]string, error) {
	elements := elementsOf(entries)
	return b.conn.Diff(nft.Changes{Tables: tablesOf(elements), Create: elements})
}

// list is what the kernel has in our sets.
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
