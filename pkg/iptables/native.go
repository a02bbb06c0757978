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
// them from there. So simple rules are added, found and deleted here by netlink, without
// the program. If a chain has rules that are not understood here, the caller uses the
// program (see Rules.Understood).

// Accept is a rule with the target ACCEPT. A zero field matches anything.
type Accept struct {
	Source, Destination netip.Addr
	Out                 string // the output interface
	States              States
}

// States are states of a packet's connection (-m conntrack --ctstate).
type States int

// Bits of xt_conntrack (XT_CONNTRACK_STATE_BIT and XT_CONNTRACK_STATE_DNAT,
// linux/netfilter/xt_conntrack.h).
const (
	RelatedEstablished States = 1<<2 | 1<<1
	Translated         States = 1 << 7
)

// Line returns the rule as iptables-save prints it.
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

// exprs returns the rule's expressions as the program writes them.
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

// data returns bytes that only rules about the same container or interface contain.
func (a Accept) data() []byte {
	switch {
	case a.Source.IsValid():
		return a.Source.AsSlice()
	case a.Destination.IsValid():
		return a.Destination.AsSlice()
	}
	return []byte(a.Out + "\x00")
}

// Chain is a chain of the nf_tables variant.
type Chain struct {
	conn  *nft.Conn
	table *nftables.Table
	chain string
}

// Native returns the chain that the program changes, and whether it exists in nftables.
func Native(c *nft.Conn, program, table, chain string) (Chain, bool, error) {
	if strings.HasSuffix(program, "-legacy") {
		return Chain{}, false, nil
	}
	t := nft.Table{Family: FamilyOf(program).nft, Name: table}
	there, err := c.HasChain(t, chain)
	return Chain{c, &nftables.Table{Family: t.Family, Name: table}, chain}, there, err
}

// Rules are rules of a chain as they were read.
type Rules struct {
	of    Chain
	found []found
}

type found struct {
	*nftables.Rule
	code string // see encode
}

// Rules reads all rules of the chain.
func (c Chain) Rules() (Rules, error) {
	library, err := c.conn.Library()
	if err != nil {
		return Rules{}, err
	}
	all, err := library.GetRules(c.table, &nftables.Chain{Name: c.chain})
	return c.rules(all, err)
}

// RulesAbout reads the rules of the chain that mention an address or interface of the given
// ones.
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

// these returns the rules that are equal to a.
func (r Rules) these(a Accept) (all []found) {
	want := r.of.encode(a.exprs())
	for _, rule := range r.found { // there may be thousands: they are not copied
		if rule.code == want {
			all = append(all, rule)
		}
	}
	return all
}

// Has says whether a rule equal to a was read.
func (r Rules) Has(a Accept) bool {
	want := r.of.encode(a.exprs())
	return slices.ContainsFunc(r.found, func(rule found) bool { return rule.code == want })
}

// Understood says whether every rule that mentions an address or interface of the given
// ones is equal to one of them. If not, only the program can tell what the others mean.
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

// Append adds rules at the end of the chain, all of them or none.
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

// Delete deletes every rule that is equal to one of the given ones.
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

// encode returns text that is the same for equal rules: the expressions without the
// counters' numbers.
func (c Chain) encode(exprs []expr.Any) string {
	var all []string
	for _, e := range asWritten(exprs) {
		data, err := expr.Marshal(byte(c.table.Family), e)
		if err != nil {
			return fmt.Sprintf("%T: %v", e, err) // none of our rules has such an expression
		}
		all = append(all, string(data))
	}
	return strings.Join(all, "|")
}

// asWritten converts a rule's expressions to the form in which the program writes them. If
// "nft -f" has loaded what "nft list ruleset" printed, interface names are padded with
// zeros, and conntrack states are matched by nftables' own expressions.
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

// statesOf returns the states that nftables' own expressions match (ct, bitwise, cmp), or 0
// if they are not those expressions, or other states.
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
	case ct.Key == expr.CtKeySTATE && bits == uint32(RelatedEstablished): // both have the same bits
		return RelatedEstablished
	case ct.Key == expr.CtKeySTATUS && bits == 1<<5: // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
		return Translated
	}
	return 0
}

func isZero(data []byte) bool { return len(bytes.Trim(data, "\x00")) == 0 }
