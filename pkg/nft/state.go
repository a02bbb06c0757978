package nft

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// state is what the kernel has in the table that a Table is about.
type state struct {
	chains map[string]*nftables.Chain // all chains in the table
	sets   map[string]*nftables.Set   // all sets in the table
	rules  map[string][]Rule          // of the Table's own chains
}

func (c *Conn) read(t Table) (state, error) {
	s := state{chains: map[string]*nftables.Chain{}, sets: map[string]*nftables.Set{}, rules: map[string][]Rule{}}
	// asked first, since the library hides the error number if one of the listings fails
	if there, err := c.Exists(t); err != nil || !there {
		return s, err
	}
	chains, err := c.library.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return s, fmt.Errorf("list chains of nftables: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name == t.Name {
			s.chains[chain.Name] = chain
		}
	}
	for _, chain := range t.Chains {
		if s.chains[chain.Name] == nil {
			continue
		}
		if s.rules[chain.Name], err = c.rulesOf(t, chain.Name); err != nil {
			return s, err
		}
	}
	sets, err := c.library.GetSets(t.library())
	if err != nil {
		return s, fmt.Errorf("list sets of nftables table %s: %w", t, err)
	}
	for _, set := range sets {
		s.sets[set.Name] = set
	}
	return s, nil
}

func (c *Conn) rulesOf(t Table, chain string) ([]Rule, error) {
	have, err := c.library.GetRules(t.library(), &nftables.Chain{Name: chain})
	if err != nil {
		return nil, fmt.Errorf("list chain %s of nftables table %s: %w", chain, t, err)
	}
	var rules []Rule
	for _, r := range have {
		rules = append(rules, ruleOf(r))
	}
	return rules, nil
}

// fits says whether the found set can stay: it has the wanted types and flags.
func (s Set) fits(found *nftables.Set) bool {
	return found.HasTimeout && !found.Interval && found.IsMap == (s.Data != nil) &&
		found.KeyType.Bytes == width(s.Key) && (s.Data == nil || found.DataType.Bytes == width(s.Data))
}

// width returns the length of a concatenation, whose fields are padded to 4 bytes.
func width(types []nftables.SetDatatype) uint32 {
	if len(types) == 1 {
		return types[0].Bytes
	}
	var sum uint32
	for _, t := range types {
		sum += (t.Bytes + 3) &^ 3
	}
	return sum
}

func (c Chain) fits(found *nftables.Chain) bool {
	if c.Hook == nil {
		return found.Hooknum == nil
	}
	return found.Hooknum != nil && found.Priority != nil && *found.Hooknum == *c.Hook.Hook &&
		*found.Priority == *c.Hook.Priority && found.Type == c.Hook.Type
}

// lacking returns the wanted rules that are missing; ok is false if the chain cannot be
// made as wanted by appending them.
func (c Chain) lacking(found []Rule) (lacking []Rule, ok bool) {
	have := meanings(c.own(found))
	if !c.AnyOrder {
		want := meanings(c.Rules)
		if len(have) > len(want) || !slices.Equal(have, want[:len(have)]) {
			return nil, false
		}
		return c.Rules[len(have):], true
	}
	for _, rule := range c.Rules {
		if i := slices.Index(have, rule.meaning()); i >= 0 {
			have = slices.Delete(have, i, i+1)
		} else {
			lacking = append(lacking, rule)
		}
	}
	return lacking, len(have) == 0
}

// own returns the found rules that this Chain describes.
func (c Chain) own(found []Rule) []Rule {
	return slices.DeleteFunc(slices.Clone(found), c.isOthers)
}

// others returns the found rules of owners that this Chain does not list.
func (c Chain) others(found []Rule) []Rule {
	return slices.DeleteFunc(slices.Clone(found), func(r Rule) bool { return !c.isOthers(r) })
}

func (c Chain) isOthers(r Rule) bool {
	return c.AnyOrder && isOwned(r.Comment) && !slices.Contains(c.Owners, r.Comment)
}

// diff describes the differences between the state and the wanted table.
func (t Table) diff(s state) []string {
	var all []string
	for _, set := range t.Sets {
		switch found := s.sets[set.Name]; {
		case found == nil:
			all = append(all, fmt.Sprintf("set %s of nftables table %s: want it, have none", set.Name, t))
		case !set.fits(found):
			all = append(all, fmt.Sprintf("set %s of nftables table %s: its types or flags are not the wanted ones (trestle restore makes it again)", set.Name, t))
		}
	}
	for _, chain := range t.Chains {
		found := s.chains[chain.Name]
		if found == nil {
			all = append(all, fmt.Sprintf("chain %s of nftables table %s: want it, have none", chain.Name, t))
			continue
		}
		if !chain.fits(found) {
			all = append(all, fmt.Sprintf("chain %s of nftables table %s: its hook, priority or type is not the wanted one (trestle restore makes it again)", chain.Name, t))
		}
		all = append(all, chain.diffRules(t, s.rules[chain.Name])...)
	}
	return all
}

// diffRules names missing and unwanted rules by their comments.
func (c Chain) diffRules(t Table, found []Rule) []string {
	if lacking, ok := c.lacking(found); ok && len(lacking) == 0 {
		return nil
	}
	found = c.own(found)
	have, want := meanings(found), meanings(c.Rules)
	var all []string
	for i, rule := range c.Rules {
		if !slices.Contains(have, want[i]) {
			all = append(all, fmt.Sprintf("rule %q in chain %s of nftables table %s: want it, have none or another", rule.Comment, c.Name, t))
		}
	}
	for i, rule := range found {
		if !slices.Contains(want, have[i]) {
			all = append(all, fmt.Sprintf("rule %q in chain %s of nftables table %s: have it, want none such", rule.Comment, c.Name, t))
		}
	}
	if all == nil {
		all = append(all, fmt.Sprintf("chain %s of nftables table %s: its rules are in another order than wanted, or one is there twice (trestle restore makes it again)", c.Name, t))
	}
	return all
}

// former returns the names in Former that still exist.
func (t Table) former(s state) (chains, sets []string) {
	for _, name := range t.Former {
		if s.chains[name] != nil {
			chains = append(chains, name)
		}
		if s.sets[name] != nil {
			sets = append(sets, name)
		}
	}
	return chains, sets
}

// bring returns the messages that make the table as wanted, in an order that the kernel
// accepts in one transaction: what refers to an object is deleted before it and added after
// it.
func (c *Conn) bring(t Table, s state) ([]netlink.Message, error) {
	oldChains, oldSets := t.former(s)
	replace, kept, err := c.replacedSets(t, s)
	if err != nil {
		return nil, err
	}
	rewrite := len(replace)+len(oldChains)+len(oldSets) > 0
	c.library.AddTable(t.library())
	appended := c.clear(t, s, rewrite)
	for _, name := range oldChains {
		c.library.FlushChain(&nftables.Chain{Name: name, Table: t.library()})
	}
	for _, name := range oldChains {
		c.library.DelChain(&nftables.Chain{Name: name, Table: t.library()})
	}
	for _, name := range append(oldSets, replace...) {
		c.library.DelSet(&nftables.Set{Name: name, Table: t.library()})
	}
	for _, set := range t.Sets {
		if s.sets[set.Name] == nil || slices.Contains(replace, set.Name) {
			if err := c.library.AddSet(t.set(set), nil); err != nil {
				return nil, fmt.Errorf("add set %s: %w", set.Name, err)
			}
		}
	}
	for _, chain := range t.Chains {
		c.library.AddChain(t.chain(chain))
	}
	for i, chain := range t.Chains {
		for _, rule := range appended[i] {
			c.library.AddRule(t.rule(chain, rule))
		}
	}
	messages, err := c.library.messages()
	if err != nil {
		return nil, err
	}
	elements, err := elementMessages(unix.NFT_MSG_NEWSETELEM, netlink.Create, kept, nil)
	return append(messages, elements...), err
}

// clear flushes the chains that cannot be made as wanted by appending rules, or all of them
// if rewrite is true, and returns the rules to append to each. A chain at another hook or
// priority is deleted.
func (c *Conn) clear(t Table, s state, rewrite bool) [][]Rule {
	var appended [][]Rule
	var misplaced []*nftables.Chain
	for _, chain := range t.Chains {
		found := s.chains[chain.Name]
		lacking, ok := chain.lacking(s.rules[chain.Name])
		fits := found == nil || chain.fits(found)
		if found != nil && (rewrite || !ok || !fits) {
			c.library.FlushChain(&nftables.Chain{Name: chain.Name, Table: t.library()})
			lacking = append(slices.Clone(chain.Rules), chain.others(s.rules[chain.Name])...)
		}
		if !fits {
			misplaced = append(misplaced, &nftables.Chain{Name: chain.Name, Table: t.library()})
		}
		appended = append(appended, lacking)
	}
	for _, chain := range misplaced {
		c.library.DelChain(chain)
	}
	return appended
}

// replacedSets returns the names of sets that have other types or flags, and the elements
// to copy into the sets that replace them.
func (c *Conn) replacedSets(t Table, s state) (names []string, kept []Element, err error) {
	for _, set := range t.Sets {
		found := s.sets[set.Name]
		if found == nil || set.fits(found) {
			continue
		}
		names = append(names, set.Name)
		if found.KeyType.Bytes != width(set.Key) || found.IsMap != (set.Data != nil) {
			continue // elements of another type: they are made again from their owners' records
		}
		elements, err := c.listSet(nil, t, set.Name)
		if err != nil {
			return nil, nil, err
		}
		kept = append(kept, elements...)
	}
	return names, kept, nil
}

// set converts to the library's type. NFT_SET_CONCAT is not set: only concatenations with
// intervals need it, and kernels before 5.6 refuse it.
func (t Table) set(s Set) *nftables.Set {
	set := &nftables.Set{Table: t.library(), Name: s.Name, IsMap: s.Data != nil, HasTimeout: true, KeyType: s.Key[0]}
	switch {
	case len(s.Key) > 1:
		set.KeyType = nftables.MustConcatSetType(s.Key...)
	case s.Key[0] == nftables.TypeIPAddr || s.Key[0] == nftables.TypeIP6Addr:
		set.KeyByteOrder = binaryutil.BigEndian // otherwise nft prints 192.0.2.1 as 1.2.0.192
	default:
		set.KeyByteOrder = nativeEndian // as nft does for interface names
	}
	if set.IsMap {
		set.DataType = nftables.MustConcatSetType(s.Data...)
	}
	return set
}

func (t Table) rule(chain Chain, r Rule) *nftables.Rule {
	rule := &nftables.Rule{Table: t.library(), Chain: &nftables.Chain{Name: chain.Name, Table: t.library()}, Exprs: r.Exprs}
	if r.Comment != "" {
		rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
	}
	return rule
}

// isOwned says whether a comment is the label of an attachment or a network: labels have no
// white space.
func isOwned(comment string) bool {
	return strings.Contains(comment, "/") && !strings.Contains(comment, " ")
}
