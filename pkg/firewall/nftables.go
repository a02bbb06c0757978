package firewall

import (
	"errors"
	"fmt"

	nft "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// nftables is one socket to the kernel, opened when it is needed. Nothing is
// changed before it was looked at: a transaction that fails costs a grace period
// of 8 to 16 ms (synchronize_rcu in nf_tables_abort).
type nftables struct {
	conn   *nft.Conn
	socket *netlink.Conn // conn's own, for what conn cannot ask
}

func (n *nftables) open() error {
	if n.conn != nil {
		return nil
	}
	keep := func(socket *netlink.Conn) error {
		n.socket = socket
		return nil
	}
	conn, err := nft.New(nft.AsLasting(), nft.WithSockOptions(keep))
	if err != nil {
		return fmt.Errorf("open a netlink socket for nftables: %w", err)
	}
	n.conn = conn
	return nil
}

func (n *nftables) close() error {
	if n.conn == nil {
		return nil
	}
	if err := n.conn.CloseLasting(); err != nil {
		return fmt.Errorf("close the netlink socket for nftables: %w", err)
	}
	return nil
}

// usable says whether the kernel would take rules; nfnetlink answers EINVAL for
// a subsystem that it does not know (nfnetlink_rcv_msg, net/netfilter/nfnetlink.c).
func (n *nftables) usable() error {
	_, err := n.hasTable(nftPlace{n, inetPlace}.table())
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the kernel has no nf_tables: %w", err)
	}
	return err
}

func (n *nftables) hasTable(table *nft.Table) (bool, error) {
	if err := n.open(); err != nil {
		return false, err
	}
	_, err := n.conn.ListTableOfFamily(table.Name, table.Family)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables table %s: %w", table.Name, err)
	}
	return true, nil
}

// ask sends a request of one object of nf_tables, and says whether there is one.
func (n *nftables) ask(kind int, family nft.TableFamily, attributes func(*netlink.AttributeEncoder)) ([]netlink.Message, bool, error) {
	if err := n.open(); err != nil {
		return nil, false, err
	}
	encoder := netlink.NewAttributeEncoder()
	attributes(encoder)
	data, err := encoder.Encode()
	if err != nil {
		return nil, false, fmt.Errorf("encode a request for nftables: %w", err)
	}
	answers, err := n.socket.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil
	}
	return answers, err == nil, err
}

// tableName is the same in the families inet and bridge.
const tableName = "trestle_firewall"

// In table inet, a packet that is forwarded is looked up by the interfaces that
// it comes and goes by; in table bridge, a frame by the ports. So it costs the
// same however many containers and networks there are.
const (
	bridgeSet   = "bridges"          // interfaces with a policy
	sameSet     = "same_bridge"      // each of them twice: what stays within
	isolatedSet = "isolated_bridges" // likewise, of those through which nothing comes back
	portSet     = "isolated_ports"   // of bridges
)

// nftPlace is one of our two tables.
type nftPlace struct {
	*nftables
	place string
}

func (p nftPlace) table() *nft.Table {
	family := nft.TableFamilyINet
	if p.place == bridgePlace {
		family = nft.TableFamilyBridge
	}
	return &nft.Table{Name: tableName, Family: family}
}

// forward is the chain through which everything goes. Whoever drops a packet has
// the last word, in whatever order chains are asked.
func (p nftPlace) forward() *nft.Chain {
	priority := nft.ChainPriorityFilter
	if p.place == bridgePlace {
		priority = nft.ChainPriorityRef(-200) // NF_BR_PRI_FILTER_BRIDGED, linux/netfilter_bridge.h
	}
	return &nft.Chain{Name: "forward", Table: p.table(), Type: nft.ChainTypeFilter, Hooknum: nft.ChainHookForward, Priority: priority}
}

// sets of the place: how many names of interfaces a key has.
func (p nftPlace) sets() []*nft.Set {
	if p.place == bridgePlace {
		return []*nft.Set{p.set(portSet, 1)}
	}
	return []*nft.Set{p.set(bridgeSet, 1), p.set(sameSet, 2), p.set(isolatedSet, 2)}
}

func (p nftPlace) set(name string, names int) *nft.Set {
	set := &nft.Set{Table: p.table(), Name: name, KeyType: nft.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	if names == 2 {
		set.KeyType, set.Concatenation = nft.MustConcatSetType(nft.TypeIFName, nft.TypeIFName), true
	}
	return set
}

// rules of the place, in order.
func (p nftPlace) rules() [][]expr.Any {
	const first, second = unix.NFT_REG_1, unix.NFT_REG_2
	in := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: first}
	out := &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: first}
	andOut := &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: second}
	isIn := func(set string) expr.Any { return &expr.Lookup{SourceRegister: first, SetName: set} }
	accept, drop := &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Verdict{Kind: expr.VerdictDrop}
	if p.place == bridgePlace {
		return [][]expr.Any{
			{in, isIn(portSet), drop},
			{out, isIn(portSet), drop},
		}
	}
	return [][]expr.Any{
		{in, andOut, isIn(isolatedSet), drop},
		{in, andOut, isIn(sameSet), accept},
		{in, isIn(bridgeSet), out, isIn(bridgeSet), drop},
	}
}

// nftElement is what a part is in the kernel.
type nftElement struct {
	set string
	key []byte
}

// elements of the part.
func (p part) elements() []nftElement {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, p.value)
	twice := append(append([]byte{}, name...), name...)
	switch p.kind {
	case bridgePart:
		return []nftElement{{bridgeSet, name}, {sameSet, twice}}
	case isolatedPart:
		return []nftElement{{isolatedSet, twice}}
	default:
		return []nftElement{{portSet, name}}
	}
}

// label is what an element carries: whose port it is, or of which network's the
// bridge, which its containers share.
func (p part) label(o cni.Owner) string {
	if p.kind == portPart {
		return o.String()
	}
	return cni.NetworkLabel(o.Network)
}

func (p nftPlace) add(parts []part, o cni.Owner) error {
	there, err := p.complete()
	if err != nil {
		return err
	}
	if !there {
		if err := p.base(); err != nil {
			return err
		}
	}
	for _, part := range parts {
		for _, e := range part.elements() {
			element := []nft.SetElement{{Key: e.key, Comment: part.label(o)}}
			if err := p.conn.SetAddElements(&nft.Set{Table: p.table(), Name: e.set}, element); err != nil {
				return fmt.Errorf("add %s to set %s: %w", part.value, e.set, err)
			}
		}
	}
	return p.flush("add rules")
}

// complete says whether chain and rules are there.
func (p nftPlace) complete() (bool, error) {
	if err := p.open(); err != nil {
		return false, err
	}
	rules, err := p.conn.GetRules(p.table(), p.forward())
	if err != nil {
		return false, fmt.Errorf("list chain forward of nftables table %s %s: %w", p.place, tableName, err)
	}
	return len(rules) == len(p.rules()), nil
}

// base makes what holds elements; each part is let be where it is there already,
// and the rules are made anew.
func (p nftPlace) base() error {
	p.conn.AddTable(p.table())
	chain := p.conn.AddChain(p.forward())
	p.conn.FlushChain(chain)
	for _, set := range p.sets() {
		if err := p.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("add set %s: %w", set.Name, err)
		}
	}
	for _, exprs := range p.rules() {
		p.conn.AddRule(&nft.Rule{
			Table: p.table(), Chain: chain, Exprs: exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, "trestle firewall"),
		})
	}
	return nil
}

func (p nftPlace) remove(parts []part, empty bool) error {
	there, err := p.hasTable(p.table())
	if err != nil || !there {
		return err
	}
	if empty {
		p.conn.DelTable(p.table())
		return p.flush("delete all")
	}
	found := false
	for _, part := range parts {
		for _, e := range part.elements() {
			there, err := p.has(e)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
			found = true
			if err := p.conn.SetDeleteElements(&nft.Set{Table: p.table(), Name: e.set}, []nft.SetElement{{Key: e.key}}); err != nil {
				return fmt.Errorf("delete %s from set %s: %w", part.value, e.set, err)
			}
		}
	}
	if !found {
		return nil
	}
	return p.flush("delete elements")
}

func (p nftPlace) flush(what string) error {
	if err := p.conn.Flush(); err != nil {
		return fmt.Errorf("%s in nftables table %s %s: %w", what, p.place, tableName, err)
	}
	return nil
}

func (p nftPlace) missing(parts []part) ([]string, error) {
	there, err := p.complete()
	if err != nil {
		return nil, err
	}
	var diffs []string
	if !there {
		diffs = append(diffs, fmt.Sprintf("rules of nftables table %s %s: want them, have them missing or changed", p.place, tableName))
	}
	for _, part := range parts {
		for _, e := range part.elements() {
			there, err := p.has(e)
			if err != nil {
				return nil, err
			}
			if !there {
				diffs = append(diffs, fmt.Sprintf("%s in set %s of nftables table %s %s: want it, have none", part.value, e.set, p.place, tableName))
			}
		}
	}
	return diffs, nil
}

// has asks for one element, which takes the same time however many there are.
func (p nftPlace) has(e nftElement) (bool, error) {
	_, there, err := p.ask(unix.NFT_MSG_GETSETELEM, p.table().Family, func(list *netlink.AttributeEncoder) {
		list.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
		list.String(unix.NFTA_SET_ELEM_LIST_SET, e.set)
		list.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(elements *netlink.AttributeEncoder) error {
			elements.Nested(unix.NFTA_LIST_ELEM, func(element *netlink.AttributeEncoder) error {
				element.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
					key.Bytes(unix.NFTA_DATA_VALUE, e.key)
					return nil
				})
				return nil
			})
			return nil
		})
	})
	if err != nil {
		return false, fmt.Errorf("look up an element of set %s of nftables table %s %s: %w", e.set, p.place, tableName, err)
	}
	return there, nil
}
