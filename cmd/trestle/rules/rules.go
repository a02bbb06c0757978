// Package rules tells what the host's rules do to one packet: those of nftables and of
// iptables, whoever made them. It reads a chain when a packet comes to it, and changes
// nothing.
//
// Start at Read, which lists the base chains, and Walk, which follows a packet through them. A
// condition that this package does not understand is answered with Maybe, so that no packet is
// said to be dropped that may pass.
package rules

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Packet is the first packet of a connection, or an answer.
type Packet struct {
	In, Out             string // interfaces; "" for none
	Source, Destination netip.Addr
	Protocol            string // "tcp", "udp", "icmp"
	Port                uint16 // the destination's
	Answer              bool   // it belongs to an established connection
	// Translated says that its destination was changed before (DNAT).
	Translated bool
	// Local says that the destination is an address of the host.
	Local bool
}

// Match says whether a rule matches a packet.
type Match int

// The values of Match.
const (
	No Match = iota
	Maybe
	Yes
)

func both(a, b Match) Match { return min(a, b) }

func not(m Match) Match { return Yes - m }

func yes(is bool) Match {
	if is {
		return Yes
	}
	return No
}

// Verdict is what a rule does with a packet.
type Verdict string

// The verdicts. Translate ends a chain of type nat.
const (
	Pass      Verdict = "" // the rule only counts, marks or logs
	Accept    Verdict = "accept"
	Drop      Verdict = "drop"
	Return    Verdict = "return"
	Translate Verdict = "translate"
)

// Rule is one rule of a chain.
type Rule struct {
	Text string
	// Counted says that the rule has a counter.
	Counted        bool
	Packets, Bytes uint64

	Verdict Verdict
	Jump    string // the chain that it jumps to; Verdict is Pass then
	Goto    bool   // the jump does not return
	matches func(Packet) Match
	// resolve fills in the verdict from the rule's verdict map; ok is false if that is unknown for
	// the packet.
	resolve func(Packet) (rule Rule, ok bool)
}

// Base is a base chain: one that the kernel calls at a hook.
type Base struct {
	Table    string // "ip filter", "inet firewalld"
	Program  string // the program that shows it: "iptables-legacy", "nft"
	Chain    string
	Hook     string // "prerouting", "forward" …
	Bridge   bool   // the hook is that of bridged frames
	NAT      bool
	Priority int
	Family   Family
	// Drops says that the chain's policy is drop.
	Drops bool
	// Ours says that the table is Trestle's.
	Ours bool

	rules func(chain string) ([]Rule, error)
}

// Rules are the rules of a chain in the base chain's table.
func (b Base) Rules(chain string) ([]Rule, error) {
	if b.rules == nil {
		return nil, nil
	}
	return b.rules(chain)
}

// Sees says whether packets of that family come to the chain.
func (b Base) Sees(p Packet) bool { return b.Family.has(p.Destination) }

// Family says which packets come to a table.
type Family int

// The families.
const (
	Both Family = iota
	IPv4
	IPv6
)

func (f Family) has(a netip.Addr) bool { return f == Both || (f == IPv4) == a.Is4() }

// Step is a rule that matches a packet, or may.
type Step struct {
	Table   string  `json:"table"`
	Chain   string  `json:"chain"`
	Rule    string  `json:"rule"`
	Counted bool    `json:"counted,omitempty"`
	Packets uint64  `json:"packets,omitempty"`
	Bytes   uint64  `json:"bytes,omitempty"`
	Maybe   bool    `json:"maybe,omitempty"`
	Verdict Verdict `json:"verdict,omitempty"`
}

// Way is what happens to a packet at one hook.
type Way struct {
	Steps []Step `json:"steps,omitempty"`
	// Verdict is Drop, Translate, or Accept if no chain does either.
	Verdict Verdict `json:"verdict"`
	// Maybe says that a rule with unknown conditions may decide otherwise.
	Maybe bool `json:"maybe,omitempty"`
	// By is the base chain in which the packet ended.
	By Base `json:"-"`
}

// Dropped says that the packet is dropped for certain.
func (w Way) Dropped() bool { return w.Verdict == Drop && !w.Maybe }

// Host has the host's base chains.
type Host struct{ Bases []Base }

// At are the base chains of a hook, in the order in which the kernel calls them.
func (h Host) At(hook string, bridge bool) []Base {
	var all []Base
	for _, b := range h.Bases {
		if b.Hook == hook && b.Bridge == bridge {
			all = append(all, b)
		}
	}
	slices.SortStableFunc(all, func(a, b Base) int { return cmp.Compare(a.Priority, b.Priority) })
	return all
}

// Walk evaluates the base chains for the packet, one after the other. A drop is final;
// an accept ends its own base chain only (nft(8), "Verdict statements").
func Walk(bases []Base, p Packet) (Way, error) {
	way := Way{Verdict: Accept}
	for _, base := range bases {
		if !base.Sees(p) {
			continue
		}
		w := walker{base: base, packet: p}
		verdict, err := w.chain(base.Chain, 0)
		if err != nil {
			return way, err
		}
		if verdict == Pass || verdict == Return {
			verdict = Accept
			if base.Drops {
				verdict = Drop
				w.say(base.Chain, Rule{Text: "policy drop", Verdict: Drop}, w.maybe)
			}
		}
		way.Steps = append(way.Steps, w.steps...)
		if verdict == Drop || verdict == Translate {
			way.Verdict, way.Maybe, way.By = verdict, w.maybe, base
			return way, nil
		}
	}
	return way, nil
}

// walker follows a packet through one base chain and the chains that it jumps to.
type walker struct {
	base   Base
	packet Packet
	steps  []Step
	// maybe says that a rule which may match would decide otherwise.
	maybe bool
}

// deepest is the kernel's limit of nested jumps (NFT_JUMP_STACK_SIZE).
const deepest = 16

func (w *walker) chain(name string, depth int) (Verdict, error) {
	rules, err := w.base.Rules(name)
	if err != nil || depth > deepest {
		return Pass, err
	}
	for _, rule := range rules {
		rule, match := w.match(rule)
		if match == No || rule.Verdict == Pass && rule.Jump == "" {
			continue
		}
		if rule.Jump == "" {
			w.say(name, rule, match == Maybe)
		}
		verdict, err := w.follow(rule, depth)
		if err != nil {
			return Pass, err
		}
		if match == Maybe {
			w.maybe = w.maybe || verdict != Pass
		} else if verdict != Pass || rule.Goto {
			return verdict, nil
		}
	}
	return Pass, nil
}

// match says whether the rule matches, and fills in the verdict of its verdict map.
func (w *walker) match(rule Rule) (Rule, Match) {
	match := rule.matches(w.packet)
	if match == No || rule.resolve == nil {
		return rule, match
	}
	rule, ok := rule.resolve(w.packet)
	if !ok {
		w.maybe = true
		return rule, No
	}
	return rule, match
}

// follow is the verdict of a rule that matches: its own, or that of the chain that it jumps to.
func (w *walker) follow(rule Rule, depth int) (Verdict, error) {
	if rule.Jump == "" {
		return rule.Verdict, nil
	}
	verdict, err := w.chain(rule.Jump, depth+1)
	if verdict == Return {
		verdict = Pass
	}
	return verdict, err
}

func (w *walker) say(chain string, rule Rule, maybe bool) {
	w.steps = append(w.steps, Step{
		Table: w.base.Table, Chain: chain, Rule: strings.TrimSpace(rule.Text), Maybe: maybe, Verdict: rule.Verdict,
		Counted: rule.Counted, Packets: rule.Packets, Bytes: rule.Bytes,
	})
}
