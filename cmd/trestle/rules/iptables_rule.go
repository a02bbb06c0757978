package rules

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// parseIPTables reads a line of `iptables -v -S`.
func parseIPTables(line string) Rule {
	p := ruleParser{words: fields(line)}
	p.next() // -A
	p.next() // its chain
	for len(p.words) > 0 {
		p.option()
	}
	conditions := p.conditions
	p.rule.Text = strings.Join(p.text, " ")
	p.rule.matches = func(packet Packet) Match {
		match := Yes
		for _, condition := range conditions {
			if match = both(match, condition(packet)); match == No {
				return No
			}
		}
		return match
	}
	return p.rule
}

// fields splits a line at blanks outside of quotes.
func fields(line string) []string {
	quoted := false
	return strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
}

type condition func(Packet) Match

type ruleParser struct {
	words      []string
	text       []string // the rule without its counters
	conditions []condition
	rule       Rule
}

func (p *ruleParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

// value is the next word, which becomes part of the text.
func (p *ruleParser) value() string {
	word := p.next()
	p.text = append(p.text, word)
	return word
}

func (p *ruleParser) option() {
	negated := false
	word := p.next()
	if word == "!" {
		negated = true
		p.text = append(p.text, word)
		word = p.next()
	}
	if word == "-c" {
		p.rule.Counted = true
		p.rule.Packets, _ = strconv.ParseUint(p.next(), 10, 64) // iptables prints numbers
		p.rule.Bytes, _ = strconv.ParseUint(p.next(), 10, 64)
		return
	}
	p.text = append(p.text, word)
	switch word {
	case "-m":
		p.value()
	case "-j", "-g":
		p.target(word == "-g")
	default:
		p.add(negated, p.condition(word))
	}
}

func (p *ruleParser) add(negated bool, c condition) {
	if c == nil {
		return
	}
	p.conditions = append(p.conditions, func(packet Packet) Match {
		if negated {
			return not(c(packet))
		}
		return c(packet)
	})
}

// condition reads an option with its values; nil for one that matches every packet.
func (p *ruleParser) condition(option string) condition {
	switch option {
	case "--comment":
		p.value()
		return nil
	case "-s", "-d":
		return address(p.value(), option == "-s")
	case "-i", "-o":
		return linkNamed(p.value(), option == "-i")
	case "-p":
		protocol := p.value()
		return func(packet Packet) Match {
			return yes(protocol == "all" || protocol == packet.Protocol || packet.Protocol == "icmp" && strings.Contains(protocol, "icmp"))
		}
	case "--dport":
		return ports(p.value())
	case "--ctstate", "--state":
		return states(strings.Split(p.value(), ","))
	case "--dst-type":
		kind := p.value()
		return func(packet Packet) Match {
			if kind != "LOCAL" {
				return Maybe
			}
			return yes(packet.Local)
		}
	}
	for len(p.words) > 0 && !strings.HasPrefix(p.words[0], "-") && p.words[0] != "!" {
		p.value()
	}
	return func(Packet) Match { return Maybe }
}

func address(text string, source bool) condition {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return func(Packet) Match { return Maybe }
	}
	return func(packet Packet) Match {
		if source {
			return yes(prefix.Contains(packet.Source))
		}
		return yes(prefix.Contains(packet.Destination))
	}
}

func linkNamed(name string, in bool) condition {
	beginning, wild := strings.CutSuffix(name, "+")
	return func(packet Packet) Match {
		have := packet.Out
		if in {
			have = packet.In
		}
		return yes(have == name || wild && strings.HasPrefix(have, beginning))
	}
}

func ports(text string) condition {
	first, last, isRange := strings.Cut(text, ":")
	if !isRange {
		last = first
	}
	low, lowErr := strconv.ParseUint(first, 10, 16)
	high, highErr := strconv.ParseUint(last, 10, 16)
	return func(packet Packet) Match {
		if lowErr != nil || highErr != nil {
			return Maybe
		}
		return yes(uint64(packet.Port) >= low && uint64(packet.Port) <= high)
	}
}

func states(names []string) condition {
	return func(packet Packet) Match {
		state := "NEW"
		if packet.Answer {
			state = "ESTABLISHED"
		}
		return yes(slices.Contains(names, state) || packet.Translated && slices.Contains(names, "DNAT"))
	}
}

// passing are targets that do not end the chain: the next rule follows.
var passing = []string{"MARK", "CONNMARK", "LOG", "NFLOG", "TCPMSS", "CHECKSUM", "CT", "SET", "TRACE", "AUDIT", "CLASSIFY", "DSCP", "TOS"}

// target reads the rule's target and its options, which are the rest of the line.
func (p *ruleParser) target(isGoto bool) {
	name := p.value()
	switch {
	case name == "ACCEPT":
		p.rule.Verdict = Accept
	case name == "DROP" || name == "REJECT":
		p.rule.Verdict = Drop
	case name == "RETURN":
		p.rule.Verdict = Return
	case slices.Contains([]string{"DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"}, name):
		p.rule.Verdict = Translate
	case slices.Contains(passing, name):
	default:
		p.rule.Jump, p.rule.Goto = name, isGoto
	}
	for len(p.words) > 0 && p.words[0] != "-c" {
		p.value()
	}
}
