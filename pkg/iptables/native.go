package iptables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/nft"
)

// The nf_tables variant keeps its rules as expressions of nftables, and its program reads
// them from there. So a rule that is simple enough is added, looked for and deleted
// without the program. Whoever meets what he does not understand leaves it to the program.

// Accept is a rule that lets packets through. What is zero does not matter.
type Accept struct {
	Source, Destination netip.Addr
	Out                 string // an interface
	States              States
}

// States are those of a packet's connection (-m conntrack --ctstate).
type States int

// Bits of xt_conntrack's (XT_CONNTRACK_STATE_BIT and XT_CONNTRACK_STATE_DNAT,
// linux/netfilter/xt_conntrack.h).
const (
	RelatedEstablished States = 1<<2 | 1<<1
	Translated         States = 1 << 7
)

// Line is the rule as iptables-save prints it.
func (a Accept) Line(chain string) string {
	line := "-A " + chain
	for _, address := range []struct {
		option string
		netip.Addr
	}{{"-s", a.Source}, {"-d", a.Destination}} {
		if address.IsValid() {
			line += " " + address.option + " " + netip.PrefixFrom(address.Addr, address.BitLen()).String()
		}
	}
	if a.Out != "" {
		line += " -o " + a.Out
	}
	switch a.States {
	case RelatedEstablished:
		line += " -m conntrack --ctstate RELATED,ESTABLISHED"
	case Translated:
		line += " -m conntrack --ctstate DNAT"
	}
	return line + " -j ACCEPT"
}

// exprs are the rule as the program writes it.
func (a Accept) exprs() []expr.Any {
	var all []expr.Any
	for _, address := range []struct {
		netip.Addr
		offset4, offset6 uint32 // RFC 791, 3.1, and RFC 8200, 3
	}{{a.Source, 12, 8}, {a.Destination, 16, 24}} {
		if !address.IsValid() {
			continue
		}
		load := &expr.Payload{
			DestRegister: unix.NFT_REG_1,
			Base:         expr.PayloadBaseNetworkHeader,
			Offset:       address.offset6,
			Len:          uint32(address.BitLen() / 8),
		}
		if address.Is4() {
			load.Offset = address.offset4
		}
		all = append(all, load, &expr.Cmp{Register: unix.NFT_REG_1, Data: address.AsSlice()})
	}
	if a.Out != "" {
		all = append(all, &expr.Meta{
			Key:      expr.MetaKeyOIFNAME,
			Register: unix.NFT_REG_1,
		}, &expr.Cmp{Register: unix.NFT_REG_1, Data: []byte(a.Out + "\x00")})
	}
	if a.States != 0 {
		all = append(all, a.States.match())
	}
	return append(all, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
}

func (s States) match() *expr.Match {
	info := &xt.ConntrackMtinfo3{}
	info.MatchFlags, info.StateMask = uint16(xt.ConntrackState), uint16(s)
	return &expr.Match{Name: "conntrack", Rev: 3, Info: info}
}

// data is what nothing but the rule, and others of the same container or interface, hold.
func (a Accept) data() []byte {
	switch {
	case a.Source.IsValid():
		return a.Source.AsSlice()
	case a.Destination.IsValid():
		return a.Destination.AsSlice()
	}
	return []byte(a.Out + "\x00")
}

// Chain is a chain of the nf_tables variant's.
type Chain struct {
	conn  *nft.Conn
	table *nftables.Table
	chain string
}

// Native is the chain that the program changes, and whether it is in nftables.
func Native(c *nft.Conn, program, table, chain string) (Chain, bool, error) {
	if strings.HasSuffix(program, "-legacy") {
		return Chain{}, false, nil
	}
	t := nft.Table{Family: FamilyOf(program).nft, Name: table}
	there, err := c.HasChain(t, chain)
	return Chain{c, &nftables.Table{Family: t.Family, Name: table}, chain}, there, err
}

// Rules are those of a chain.
type Rules struct {
	of    Chain
	found []found
}

type found struct {
	*nftables.Rule
	code string // see encode
}

// Rules reads the chain.
func (c Chain) Rules() (Rules, error) {
	library, err := c.conn.Library()
	if err != nil {
		return Rules{}, err
	}
	all, err := library.GetRules(c.table, &nftables.Chain{Name: c.chain})
	return c.rules(all, err)
}

// RulesAbout reads those rules of the chain that mention what these do.
func (c Chain) RulesAbout(all []Accept) (Rules, error) {
	var data [][]byte
	for _, a := range all {
		data = append(data, a.data())
	}
	found, err := c.conn.RulesWith(&nftables.Chain{Table: c.table, Name: c.chain}, data)
	return c.rules(found, err)
}

func (c Chain) rules(all []*nftables.Rule, err error) (Rules, error) {
	if err != nil {
		return Rules{}, fmt.Errorf("read chain %s of nftables table %s: %w", c.chain, c.table.Name, err)
	}
	rules := Rules{of: c}
	for _, rule := range all {
		rules.found = append(rules.found, found{rule, c.encode(rule.Exprs)})
	}
	return rules, nil
}

// JumpTo says whether a rule jumps to the chain, whatever its comment.
func (r Rules) JumpTo(chain string) bool {
	return slices.ContainsFunc(r.found, func(rule found) bool {
		return slices.ContainsFunc(rule.Exprs, func(e expr.Any) bool {
			v, ok := e.(*expr.Verdict)
			return ok && v.Kind == expr.VerdictJump && v.Chain == chain
		})
	})
}

// these are the rules found that are a.
func (r Rules) these(a Accept) (all []found) {
	want := r.of.encode(a.exprs())
	for _, rule := range r.found { // not a copy of them, which are thousands
		if rule.code == want {
			all = append(all, rule)
		}
	}
	return all
}

// Has says whether the rule is there.
func (r Rules) Has(a Accept) bool {
	want := r.of.encode(a.exprs())
	return slices.ContainsFunc(r.found, func(rule found) bool { return rule.code == want })
}

// Understood says whether all that is about the rules' addresses or interfaces is those
// rules, as we write them.
func (r Rules) Understood(all []Accept) bool {
	known := map[uint64]bool{}
	for _, a := range all {
		for _, rule := range r.these(a) {
			known[rule.Handle] = true
		}
	}
	return !slices.ContainsFunc(r.found, func(rule found) bool {
		return !known[rule.Handle] && slices.ContainsFunc(all, func(a Accept) bool { return mentions(rule, a.data()) })
	})
}

func mentions(rule found, data []byte) bool {
	return slices.ContainsFunc(asWritten(rule.Exprs), func(e expr.Any) bool {
		cmp, ok := e.(*expr.Cmp)
		return ok && bytes.Equal(cmp.Data, data)
	})
}

// Append adds rules at the end, all of them or none.
func (c Chain) Append(all []Accept) error {
	library, err := c.conn.Library()
	if err != nil || len(all) == 0 {
		return err
	}
	for _, a := range all {
		library.AddRule(&nftables.Rule{Table: c.table, Chain: &nftables.Chain{Name: c.chain}, Exprs: a.exprs()})
	}
	return c.conn.Apply()
}

// Delete deletes those of the rules that are there, each as often as it is.
func (r Rules) Delete(all []Accept) error {
	library, err := r.of.conn.Library()
	if err != nil {
		return err
	}
	for _, a := range all {
		for _, rule := range r.these(a) {
			if err := library.DelRule(rule.Rule); err != nil {
				return fmt.Errorf("delete a rule of chain %s: %w", r.of.chain, err)
			}
		}
	}
	return r.of.conn.Apply()
}

// encode is what tells rules apart: their expressions but for counters' numbers.
func (c Chain) encode(exprs []expr.Any) string {
	var all []string
	for _, e := range asWritten(exprs) {
		data, err := expr.Marshal(byte(c.table.Family), e)
		if err != nil {
			return fmt.Sprintf("%T: %v", e, err) // of a kind that is none of ours
		}
		all = append(all, string(data))
	}
	return strings.Join(all, "|")
}

// asWritten are a rule's expressions as the program writes them, which "nft -f" has
// written otherwise where it loaded what "nft list ruleset" printed: names of interfaces
// are filled up with zeros, and conntrack's states are nftables' own.
func asWritten(exprs []expr.Any) []expr.Any {
	var all []expr.Any
	for i := 0; i < len(exprs); i++ {
		e := exprs[i]
		switch e := e.(type) {
		case *expr.Counter:
			all = append(all, &expr.Counter{})
			continue
		case *expr.Cmp:
			if len(e.Data) == unix.IFNAMSIZ && i > 0 && loadsName(exprs[i-1]) {
				name := append(bytes.TrimRight(e.Data, "\x00"), 0)
				all = append(all, &expr.Cmp{Op: e.Op, Register: e.Register, Data: name})
				continue
			}
		case *expr.Ct:
			if states := statesOf(exprs[i:]); states != 0 {
				all = append(all, states.match())
				i += 2
				continue
			}
		}
		all = append(all, e)
	}
	return all
}

func loadsName(e expr.Any) bool {
	meta, ok := e.(*expr.Meta)
	return ok && (meta.Key == expr.MetaKeyOIFNAME || meta.Key == expr.MetaKeyIIFNAME)
}

// statesOf are the states that nftables' own expressions ask for: one of those under a
// mask. 0 are none, or none of ours.
func statesOf(exprs []expr.Any) States {
	if len(exprs) < 3 {
		return 0
	}
	ct, isCt := exprs[0].(*expr.Ct)
	mask, masks := exprs[1].(*expr.Bitwise)
	cmp, compares := exprs[2].(*expr.Cmp)
	if !isCt || !masks || !compares || cmp.Op != expr.CmpOpNeq || len(mask.Mask) != 4 || !isZero(mask.Xor) || !isZero(cmp.Data) {
		return 0
	}
	bits := binary.NativeEndian.Uint32(mask.Mask)
	switch {
	case ct.Key == expr.CtKeySTATE && bits == uint32(RelatedEstablished): // whose bits are the same
		return RelatedEstablished
	case ct.Key == expr.CtKeySTATUS && bits == 1<<5: // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
		return Translated
	}
	return 0
}

func isZero(data []byte) bool { return len(bytes.Trim(data, "\x00")) == 0 }
