package picture

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Masker replaces addresses: an address always with the same other one, and the addresses of
// a subnet with addresses of one other subnet. It is a keyed prefix-preserving permutation
// (Crypto-PAn; Xu, Fan, Ammar and Moon, ICNP 2002). It keeps what does not identify a host, so
// that the picture stays readable: loopback, multicast and unspecified addresses, and netmasks;
// the private range that an address is in, or else its first octet or group; and the host part
// of an IPv6 address if it is a small number, as pools count from 1.
type Masker struct {
	cipher cipher.Block
	pad    [16]byte
	known  map[netip.Addr]netip.Addr
}

// NewMasker makes a masker. The key must be secret: with it masked addresses can be restored.
func NewMasker(key [16]byte) (*Masker, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("make a mask: %w", err)
	}
	m := &Masker{cipher: block, known: map[netip.Addr]netip.Addr{}}
	block.Encrypt(m.pad[:], m.pad[:])
	return m, nil
}

// shown is a range of addresses whose first bits are kept.
type shown struct {
	of   netip.Prefix
	bits int
}

// shownBits are searched in order.
func shownBits() []shown {
	var all []shown
	for _, s := range []struct {
		of   string
		bits int
	}{
		{"0.0.0.0/8", 32},
		{"127.0.0.0/8", 32},
		{"224.0.0.0/3", 32}, // multicast, netmasks, broadcast
		{"10.0.0.0/8", 8},
		{"100.64.0.0/10", 10},
		{"169.254.0.0/16", 16},
		{"172.16.0.0/12", 12},
		{"192.168.0.0/16", 16},
		{"0.0.0.0/0", 8},
		{"::/127", 128},
		{"ff00::/8", 128},
		{"fe80::/10", 64},
		{"fc00::/7", 8},
		{"::/0", 16},
	} {
		all = append(all, shown{netip.MustParsePrefix(s.of), s.bits})
	}
	return all
}

// addr is the masked address.
func (m *Masker) addr(a netip.Addr) netip.Addr {
	a = a.WithZone("").Unmap()
	if masked, ok := m.known[a]; ok {
		return masked
	}
	masked := m.mask(a)
	m.known[a] = masked
	return masked
}

func (m *Masker) mask(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return a
	}
	raw := a.AsSlice()
	begin, end := 0, a.BitLen()
	for _, s := range shownBits() {
		if s.of.Contains(a) {
			begin = s.bits
			break
		}
	}
	if a.Is6() && raw[8]|raw[9]|raw[10]|raw[11] == 0 {
		end = 64 // pools count from 1; other host parts (EUI-64, random) identify a machine
	}
	masked := bytes.Clone(raw)
	for bit := begin; bit < end; bit++ {
		masked[bit/8] ^= m.flip(raw, bit) >> (bit % 8)
	}
	out, _ := netip.AddrFromSlice(masked) // masked has 4 or 16 bytes
	return out
}

// flip is the top bit of the cipher over the address's bits before this one: 0 or 0x80. A one
// and zeros follow them, so that no two prefixes, whatever their lengths, are the same block. (In
// Crypto-PAn secret bits follow, and one bit in two begins the block of the bit before again: of
// 2,000 addresses one stays what it is.)
func (m *Masker) flip(raw []byte, bit int) byte {
	var block [16]byte
	at, mark := bit/8, byte(0x80)>>(bit%8)
	copy(block[:], raw[:at])
	block[at] = raw[at]&^(mark-1) | mark
	m.cipher.Encrypt(block[:], block[:])
	return block[0] & 0x80
}

// text masks each address in the text: alone, as a prefix, with a port, in a name
// ("ip-10-0-0-7"), and in a MAC.
func (m *Masker) text(s string) string {
	var out strings.Builder
	m.scan(&out, s, false)
	return out.String()
}

// masked is a copy of the value, which must be plain data, with the addresses in all its strings
// masked.
func masked[T any](m *Masker, v T) (T, error) {
	var masked T
	data, err := json.Marshal(v)
	if err == nil {
		var out strings.Builder
		m.scan(&out, string(data), true)
		err = json.Unmarshal([]byte(out.String()), &masked)
	}
	if err != nil {
		return masked, fmt.Errorf("mask addresses: %w", err)
	}
	return masked, nil
}

// scan copies s with addresses masked. In JSON a backslash begins an escape, which is not
// part of a word.
func (m *Masker) scan(out *strings.Builder, s string, isJSON bool) {
	for len(s) > 0 {
		n := strings.IndexFunc(s, func(r rune) bool { return !isWord(r) })
		if n < 0 {
			n = len(s)
		}
		if n == 0 {
			n = 1
			if isJSON && s[0] == '\\' {
				n = 2
				if s[1] == 'u' {
					n = 6
				}
			}
			out.WriteString(s[:n])
			s = s[n:]
			continue
		}
		word, rest := s[:n], s[n:]
		text, taken := m.word(word, rest)
		out.WriteString(text)
		s = rest[taken:]
	}
}

func isWord(r rune) bool {
	return r == '.' || r == ':' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// word masks a word, and what follows as far as it belongs to the word; taken is how much.
func (m *Masker) word(word, rest string) (text string, taken int) {
	trimmed := strings.TrimRight(word, ".:")
	if strings.HasSuffix(word, "::") {
		trimmed = word // fd00::
	}
	end := word[len(trimmed):]
	if a, err := netip.ParseAddr(trimmed); err == nil {
		if bits, n := prefixLength(rest); end == "" && n > 0 && bits <= a.BitLen() {
			return m.prefix(netip.PrefixFrom(a, bits)) + rest[:n], n
		}
		return m.addr(a).String() + end, 0
	}
	if ap, err := netip.ParseAddrPort(trimmed); err == nil {
		return netip.AddrPortFrom(m.addr(ap.Addr()), ap.Port()).String() + end, 0
	}
	if mac, ok := m.mac(trimmed); ok {
		return mac + end, 0
	}
	if a, n := dashed(word, rest); n > 0 {
		return strings.ReplaceAll(m.addr(a).String(), ".", "-"), n
	}
	return m.within(word), 0
}

// prefixLength reads "/24".
func prefixLength(rest string) (bits, taken int) {
	if !strings.HasPrefix(rest, "/") {
		return 0, 0
	}
	n := 1
	for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	bits, err := strconv.Atoi(rest[1:n])
	if err != nil {
		return 0, 0
	}
	return bits, n
}

// prefix masks the address of a prefix. A subnet's first address becomes a subnet's first
// address.
func (m *Masker) prefix(p netip.Prefix) string {
	a := netip.PrefixFrom(m.addr(p.Addr()), p.Bits())
	if p == p.Masked() {
		a = a.Masked()
	}
	return a.Addr().String()
}

// mac masks a MAC and keeps its vendor's part. A container's MAC that is made from its IPv4
// address is masked like that address.
func (m *Masker) mac(s string) (string, bool) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(raw) != 6 || len(s) != 17 {
		return "", false
	}
	if raw[0] == 0x0a && raw[1] == 0x58 {
		a := m.addr(netip.AddrFrom4([4]byte(raw[2:]))).As4()
		copy(raw[2:], a[:])
	} else {
		block := m.pad
		copy(block[8:], raw)
		m.cipher.Encrypt(block[:], block[:])
		copy(raw[3:], block[:3])
	}
	text := make([]string, 6)
	for i, b := range raw {
		text[i] = hex.EncodeToString([]byte{b})
	}
	return strings.Join(text, ":"), true
}

// dashed reads an IPv4 address in a name, "10-0-0-7"; word is its first number.
func dashed(word, rest string) (a netip.Addr, taken int) {
	text := word
	for range 3 {
		n := 1
		for taken+n < len(rest) && rest[taken+n] >= '0' && rest[taken+n] <= '9' {
			n++
		}
		if taken >= len(rest) || rest[taken] != '-' || n == 1 {
			return netip.Addr{}, 0
		}
		text += "." + rest[taken+1:taken+n]
		taken += n
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return netip.Addr{}, 0
	}
	return a, taken
}

// within masks IPv4 addresses in the middle of a word ("web10.0.0.7.local").
func (m *Masker) within(word string) string {
	isDigit := func(i int) bool { return i >= 0 && i < len(word) && word[i] >= '0' && word[i] <= '9' }
	for i := 0; i < len(word); i++ {
		if !isDigit(i) || isDigit(i-1) {
			continue
		}
		end, dots := i, 0
		for isDigit(end) || dots < 3 && end < len(word) && word[end] == '.' && isDigit(end+1) {
			if word[end] == '.' {
				dots++
			}
			end++
		}
		if a, err := netip.ParseAddr(word[i:end]); err == nil {
			return word[:i] + m.addr(a).String() + m.within(word[end:])
		}
	}
	return word
}
