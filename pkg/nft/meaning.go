package nft

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// meaning describes a rule independently of its encoding: two rules with the same meaning
// and comment treat every packet alike. "nft -f" encodes a rule in another way than we do:
// with other registers, and "10.1.0.0/24" as a comparison of three bytes rather than of
// four under a mask.
func (r Rule) meaning() string {
	w := &walker{registers: map[uint32]source{}}
	for _, e := range r.Exprs {
		w.step(e)
	}
	return strings.Join(append(w.said, "# "+r.Comment), " ")
}

// source is what a register holds: bytes of something, under a mask.
type source struct {
	what  string
	mask  []byte // nil: as it is
	words uint32
	// lookedUp says that an earlier lookup used it as key or as part of one.
	lookedUp bool
}

// walker goes through a rule's expressions and describes them by what the registers hold.
type walker struct {
	registers map[uint32]source // by their first word
	said      []string
}

func (w *walker) say(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

// firstWord returns the 4-byte word that a register begins at: registers 1 to 4 have 16
// bytes, 8 to 23 have 4 (enum nft_registers, linux/netfilter/nf_tables.h).
func firstWord(register uint32) uint32 {
	if register >= unix.NFT_REG32_00 {
		return register - unix.NFT_REG32_00
	}
	return (register - unix.NFT_REG_1) * 4
}

func (w *walker) load(register uint32, what string, length uint32) {
	w.registers[firstWord(register)] = source{what: what, words: max(1, (length+3)/4)}
}

// from describes the registers from the given one on as a concatenation, and returns their
// words. The key of an earlier lookup is still in its registers, but is not part of a key
// that begins with something newer.
func (w *walker) from(register uint32) (text string, words []uint32) {
	var parts []string
	first := w.registers[firstWord(register)]
	for word := firstWord(register); ; {
		s, ok := w.registers[word]
		if !ok || s.lookedUp && !first.lookedUp {
			break
		}
		parts, words = append(parts, s.String()), append(words, word)
		word += s.words
	}
	return strings.Join(parts, " . "), words
}

// take is from, and clears these registers.
func (w *walker) take(register uint32) string {
	text, words := w.from(register)
	for _, word := range words {
		delete(w.registers, word)
	}
	return text
}

func (s source) String() string {
	if s.mask == nil {
		return s.what
	}
	return s.what + "&" + hex.EncodeToString(s.mask)
}

func (w *walker) step(e expr.Any) {
	switch e := e.(type) {
	case *expr.Payload:
		if e.OperationType == expr.PayloadWrite {
			w.say("payload %d+%d/%d set %s", e.Base, e.Offset, e.Len, w.take(e.SourceRegister))
			return
		}
		w.load(e.DestRegister, fmt.Sprintf("payload %d+%d", e.Base, e.Offset), e.Len)
		w.setLength(e.DestRegister, e.Len)
	case *expr.Meta:
		w.meta(e)
	case *expr.Ct:
		w.load(e.Register, fmt.Sprintf("ct %d/%d", e.Key, e.Direction), 4)
	case *expr.Fib:
		same := *e
		same.Register = 0
		w.load(e.Register, fmt.Sprintf("fib %+v", same), 4)
		if e.ResultOIFNAME {
			w.load(e.Register, fmt.Sprintf("fib %+v", same), unix.IFNAMSIZ)
		}
	case *expr.Immediate:
		w.load(e.Register, hex.EncodeToString(e.Data), uint32(len(e.Data)))
	case *expr.Bitwise:
		w.bitwise(e)
	case *expr.Cmp:
		w.compare(e)
	case *expr.Lookup:
		w.lookup(e)
	default:
		w.end(e)
	}
}

// end describes a statement: what the rule does with packets that match.
func (w *walker) end(e expr.Any) {
	switch e := e.(type) {
	case *expr.NAT:
		same := *e
		w.say("nat %d/%d to %s", e.Type, e.Family, w.target(&same))
	case *expr.Masq:
		w.say("masquerade %v %v %v", e.Random, e.FullyRandom, e.Persistent)
	case *expr.Verdict:
		w.say("verdict %d %s", e.Kind, e.Chain)
	case *expr.Counter: // the numbers do not matter
		w.say("counter")
	default:
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			w.say("%T %v", e, err)
			return
		}
		w.say("%T %x", e, data)
	}
}

// target describes the address and port of a translation. RegAddrMax and RegProtoMax are
// left out: our ranges have one address and one port.
func (w *walker) target(e *expr.NAT) string {
	address := w.take(e.RegAddrMin)
	port := ""
	if e.RegProtoMin != 0 {
		port = w.take(e.RegProtoMin)
	}
	return fmt.Sprintf("%s %s %v %v %v", address, port, e.Random, e.FullyRandom, e.Persistent)
}

func (w *walker) meta(e *expr.Meta) {
	if e.SourceRegister {
		w.say("meta %d set %s", e.Key, w.take(e.Register))
		return
	}
	length := uint32(4)
	if e.Key == expr.MetaKeyIIFNAME || e.Key == expr.MetaKeyOIFNAME {
		length = unix.IFNAMSIZ
	}
	w.load(e.Register, fmt.Sprintf("meta %d", e.Key), length)
}

func (w *walker) setLength(register, length uint32) {
	s := w.registers[firstWord(register)]
	s.mask = bytes.Repeat([]byte{0xff}, int(length))
	w.registers[firstWord(register)] = s
}

func (w *walker) bitwise(e *expr.Bitwise) {
	s := w.registers[firstWord(e.SourceRegister)]
	delete(w.registers, firstWord(e.SourceRegister))
	if slices.ContainsFunc(e.Xor, func(b byte) bool { return b != 0 }) {
		s.what, s.mask = fmt.Sprintf("(%s & %x ^ %x)", s, e.Mask, e.Xor), nil
	} else {
		s.mask = e.Mask
	}
	w.registers[firstWord(e.DestRegister)] = s
}

func (w *walker) compare(e *expr.Cmp) {
	s := w.registers[firstWord(e.Register)]
	delete(w.registers, firstWord(e.Register))
	data := e.Data
	if strings.HasPrefix(s.what, "payload") {
		s.mask = bytes.TrimRight(s.mask, "\x00")
		data = data[:min(len(data), len(s.mask))]
	}
	w.say("%s %d %x", s, e.Op, data)
}

func (w *walker) lookup(e *expr.Lookup) {
	key, words := w.from(e.SourceRegister)
	w.say("lookup %s in %s %v", key, e.SetName, e.Invert)
	for _, word := range words {
		s := w.registers[word]
		s.lookedUp = true
		w.registers[word] = s
	}
	if e.IsDestRegSet {
		// the value: an address and perhaps a port, at most five words
		for word := range uint32(5) {
			w.registers[firstWord(e.DestRegister)+word] = source{what: fmt.Sprintf("%s[%d]", e.SetName, word), words: 1}
		}
	}
}

// ruleOf converts a rule of the kernel's.
func ruleOf(r *nftables.Rule) Rule {
	return Rule{Comment: Comment(r.UserData), Exprs: r.Exprs}
}

func meanings(rules []Rule) []string {
	var all []string
	for _, r := range rules {
		all = append(all, r.meaning())
	}
	return all
}
