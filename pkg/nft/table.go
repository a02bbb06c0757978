// Package nft brings tables of ours in nftables to what is wanted. What a caller
// wants is plain data: a Table with its sets, chains and rules, and Elements, each
// with its owner as comment. Conn.Commit compares that with the kernel's and sends
// the difference in one transaction; nothing is kept in memory between calls.
//
// Start at Conn.Commit; Conn.Diff says what Commit would change. To see what a
// node has: nft list table inet trestle; to see what is sent: nft monitor. In tests the
// kernel may be a function (peer), which needs no root.
//
// # How our tables live with others'
//
// Everything is in the tables "inet trestle" and "bridge trestle", and no other
// program's rules are touched. Docker, ufw, firewalld and kube-proxy have tables of
// their own, and the kernel asks all of them: at a hook of type nat the first one
// that translates a connection wins, in the order of priorities; at a hook of type
// filter everybody may drop a packet, and nobody can accept it on another's behalf.
// So a FORWARD chain that drops (Docker's, ufw's) still does: the firewall plugin is
// for that. "nft flush ruleset" and a reload of firewalld's nftables before 0.9 take
// our tables along: the next ADD and "trestle restore" make them again.
package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Table is what one part of Trestle wants in a table: its own sets and chains. Those
// that it does not name belong to other parts and are left unchanged.
type Table struct {
	Family nftables.TableFamily
	Name   string
	Sets   []Set
	Chains []Chain
	// Former are names of sets and chains that earlier releases made and this one
	// has no use for.
	Former []string
	// Key names what was asked for, for people and for Commit: a table that has been
	// found to hold that is not compared again until its rules change.
	Key string
	// Whole is asked for the table to compare with, where that costs a search and the
	// table is known, as a rule; nil: it is this one.
	Whole func() (Table, error)
}

// Set is a set, or a map where it has Data. Elements of several Types are
// concatenations. All have "flags timeout", so that an element can be removed by
// expiry, which costs no grace period (see Conn.Commit).
type Set struct {
	Name string
	Key  []nftables.SetDatatype
	Data []nftables.SetDatatype
}

// Chain is a chain and all of its rules.
type Chain struct {
	Name string
	// Hook is where packets come from; nil for a chain that others jump to.
	Hook  *Hook
	Rules []Rule
	// AnyOrder says that the order of Rules means nothing, so that a rule can be
	// added without the others being touched.
	AnyOrder bool
	// Owners are the labels of those whose rules are all in Rules. In a chain of
	// any order rules of further owners, by their comments, are left unchanged.
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
	// Owner is the element's comment: the label of an attachment, or of what else
	// has it.
	Owner string
	// Shared says that the element serves several owners, whoever made it: it is
	// never refused, nor replaced because of its owner. Whether somebody else still
	// needs it when it is removed the caller has made sure of.
	Shared bool
	What   string // for people: "mapping tcp 0.0.0.0:80 to 10.1.0.2:80"
}

// elementPlace is where an element is, whatever it holds and whoever has it.
type elementPlace struct {
	family          nftables.TableFamily
	table, set, key string
}

func (e Element) place() elementPlace { return elementPlace{e.Family, e.Table, e.Set, string(e.Key)} }

// Without are the elements whose key is not among others', each key once, whoever has
// them there and here.
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

// Compare gives those of the elements wanted that are not found as they shall be, nobody's
// or another's, and those found whose key is not wanted at all. What is found twice is
// one: the kernel may list it so, if it makes a set's hash table larger meanwhile.
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

// Changes is one transaction's worth of changes.
type Changes struct {
	// Tables are brought to what is wanted, before elements are looked at.
	Tables []Table
	// Create are elements that are to be there, each with its owner. One that is
	// there already is left unchanged.
	Create []Element
	// Remove are elements that are to be gone, but for those among Create. The caller has
	// made sure that they are its owner's.
	Remove []Element
}

// With is both changes in one.
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

// chain is the chain as the library has it.
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
