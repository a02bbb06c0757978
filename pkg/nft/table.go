// Package nft makes and changes our tables of nftables. A caller describes what it wants
// as plain data: a Table with its sets, chains and rules, and Elements, each with its
// owner as comment. Conn.Commit compares that with the kernel's state and sends the
// difference in one transaction. Which tables were found as wanted is remembered in files,
// and in a Conn until its next Refresh.
//
// Start at Conn.Commit; Conn.Diff says what Commit would change. To see what a
// node has: nft list table inet trestle; to see what is sent: nft monitor. A test can put
// a function in the kernel's place (peer), and needs no root then.
//
// # How our tables live with others'
//
// Everything is in the tables "inet trestle" and "bridge trestle", and no other
// program's rules are touched. Docker, ufw, firewalld and kube-proxy have tables of
// their own, and the kernel evaluates all of them: of base chains of type nat the first
// that translates a connection wins, in the order of priorities; of base chains of type
// filter each may drop a packet, and none can accept it on behalf of another.
// So a FORWARD chain that drops (Docker's, ufw's) still drops: the firewall plugin is
// for that. "nft flush ruleset" and a reload of firewalld's nftables before 0.9 delete
// our tables, too: the next ADD and "trestle restore" make them again.
package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Table is what one part of Trestle (NAT, the firewall, the MAC check) wants in a table of
// nftables: its own sets and chains. Others in that table are left unchanged.
type Table struct {
	Family nftables.TableFamily
	Name   string
	Sets   []Set
	Chains []Chain
	// Former are names of sets and chains of earlier releases; Commit deletes them.
	Former []string
	// Key identifies what is wanted: the part's name, the number of its layout, and what
	// it depends on. A table that was found as wanted under a Key is not compared again
	// until its rules change.
	Key string
	// Complete returns the table with its sets and chains. It is called only if the table is
	// not known: mostly it is, and to make them takes longer than to learn that. nil: this
	// Table has them.
	Complete func() (Table, error)
}

// Whole returns the table with its sets and chains.
func (t Table) Whole() (Table, error) {
	if t.Complete == nil {
		return t, nil
	}
	return t.Complete()
}

// Set is a set, or a map if it has Data. Several types in Key or Data make a
// concatenation. All sets have "flags timeout", so that an element can be removed by
// expiry, which costs no grace period (see Conn.Commit).
type Set struct {
	Name string
	Key  []nftables.SetDatatype
	Data []nftables.SetDatatype
}

// Chain is a chain and all of its rules.
type Chain struct {
	Name string
	// Hook is that of a base chain; nil for a chain that others jump to.
	Hook  *Hook
	Rules []Rule
	// AnyOrder says that the order of Rules does not matter, so that a missing rule can
	// be appended.
	AnyOrder bool
	// Owners are the labels of owners whose rules Rules lists completely. In an AnyOrder
	// chain rules with other owners' labels as comments are left unchanged.
	Owners []string
}

// Hook is a base chain's place (nft(8), "CHAINS").
type Hook struct {
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority *nftables.ChainPriority
}

// Rule is one rule; Comment is shown by "nft list".
type Rule struct {
	Comment string
	Exprs   []expr.Any
}

// Element is an element of a set or map.
type Element struct {
	Family nftables.TableFamily
	Table  string
	Set    string
	Key    []byte
	Value  []byte // of a map
	// Owner is the element's comment: the label of the attachment or network that it
	// belongs to.
	Owner string
	// Shared says that several owners use the element, whichever of them made it: another
	// owner's is neither taken nor stale, as long as the value is the same. Before the
	// caller removes it, it makes sure that nobody else uses it.
	Shared bool
	What   string // for people: "mapping tcp 0.0.0.0:80 to 10.1.0.2:80"
}

// elementPlace identifies an element, whatever its value and owner.
type elementPlace struct {
	family          nftables.TableFamily
	table, set, key string
}

func (e Element) place() elementPlace { return elementPlace{e.Family, e.Table, e.Set, string(e.Key)} }

// Without returns the elements whose key is not among those of others, each key once.
// Owners and values do not matter.
func Without(elements, others []Element) []Element {
	seen := make(map[elementPlace]bool, len(elements)+len(others))
	for _, e := range others {
		seen[e.place()] = true
	}
	var left []Element
	for _, e := range elements {
		if !seen[e.place()] {
			seen[e.place()] = true
			left = append(left, e)
		}
	}
	return left
}

// Compare returns the wanted elements that are missing, or have another owner or value, and
// the found ones whose key is not wanted at all. An element that is found twice counts
// once: the kernel may list it twice while it grows a set's hash table.
func Compare(wanted, found []Element) (lacking, spare []Element) {
	has := make(map[elementPlace]int, len(found))
	for i, e := range found {
		has[e.place()] = i
	}
	isWanted := make([]bool, len(found))
	for _, e := range wanted {
		i, there := has[e.place()]
		if there {
			isWanted[i] = true
		}
		if !there || !e.isSame(found[i]) {
			lacking = append(lacking, e)
		}
	}
	for i, e := range found {
		if has[e.place()] == i && !isWanted[i] {
			spare = append(spare, e)
		}
	}
	return lacking, spare
}

// Changes is what one transaction is to change.
type Changes struct {
	// Tables are made or changed first.
	Tables []Table
	// Create are the wanted elements. One that exists with the same owner and value is
	// left unchanged.
	Create []Element
	// Remove are unwanted elements; those whose key is among Create's stay. The caller has
	// made sure that they belong to the owner that it removes them for.
	Remove []Element
}

// With joins both into one transaction.
func (c Changes) With(other Changes) Changes {
	both := Changes{
		Tables: slices.Clone(c.Tables),
		Create: slices.Concat(c.Create, other.Create),
		Remove: slices.Concat(c.Remove, other.Remove),
	}
	for _, t := range other.Tables {
		if !slices.ContainsFunc(both.Tables, func(has Table) bool { return has.Key == t.Key && has.String() == t.String() }) {
			both.Tables = append(both.Tables, t)
		}
	}
	return both
}

// Empty says whether there is nothing to do.
func (c Changes) Empty() bool { return len(c.Tables)+len(c.Create)+len(c.Remove) == 0 }

func (t Table) library() *nftables.Table {
	return &nftables.Table{Name: t.Name, Family: t.Family}
}

// chain converts to the library's type.
func (t Table) chain(c Chain) *nftables.Chain {
	chain := &nftables.Chain{Name: c.Name, Table: t.library()}
	if c.Hook != nil {
		chain.Type, chain.Hooknum, chain.Priority = c.Hook.Type, c.Hook.Hook, c.Hook.Priority
	}
	return chain
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "?"
}

// String names the table as nft does.
func (t Table) String() string { return familyName(t.Family) + " " + t.Name }
