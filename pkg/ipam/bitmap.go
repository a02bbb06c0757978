package ipam

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// A block is the bitmap of one aligned group of 65,536 addresses, an IPv4 /16 or an IPv6
// /112: a bit is set if the address is leased. Blocks do not depend on ranges, so they stay
// valid when the configuration is edited; and a group without leases has no block, so a range
// may be as large as its address family.
type block struct {
	words   [blockWords]uint64
	count   uint32 // bits that are set
	changed bool   // since it was read
}

const (
	blockBits  = 1 << 16
	blockWords = blockBits / 64
	blockHead  = 8 // magic and count
	blockSize  = blockHead + blockBits/8
	blockMagic = 0x316b6c62 // "blk1"
)

// blockOf is the first address of the block that holds a, and a's bit in it.
func blockOf(a netip.Addr) (base netip.Addr, bit int) {
	raw := a.AsSlice()
	low := raw[len(raw)-2:]
	bit = int(binary.BigEndian.Uint16(low))
	low[0], low[1] = 0, 0
	base, _ = netip.AddrFromSlice(raw) // cannot fail: raw has 4 or 16 bytes
	return base, bit
}

// inBlock is the inverse of blockOf.
func inBlock(base netip.Addr, bit int) netip.Addr {
	raw := base.AsSlice()
	binary.BigEndian.PutUint16(raw[len(raw)-2:], uint16(bit))
	a, _ := netip.AddrFromSlice(raw) // cannot fail: raw has 4 or 16 bytes
	return a
}

func (b *block) has(bit int) bool { return b.words[bit/64]&(1<<(bit%64)) != 0 }

func (b *block) set(bit int) {
	if !b.has(bit) {
		b.words[bit/64] |= 1 << (bit % 64)
		b.count++
		b.changed = true
	}
}

func (b *block) clear(bit int) {
	if b.has(bit) {
		b.words[bit/64] &^= 1 << (bit % 64)
		b.count--
		b.changed = true
	}
}

// nextFree is the first bit at or after from that is not set.
func (b *block) nextFree(from int) (bit int, ok bool) {
	word := from / 64
	free := ^b.words[word] &^ (1<<(from%64) - 1)
	for free == 0 {
		if word++; word == blockWords {
			return 0, false
		}
		free = ^b.words[word]
	}
	return word*64 + bits.TrailingZeros64(free), true
}

// encode is the content of the block's file.
func (b *block) encode() []byte {
	data := make([]byte, 0, blockSize)
	data = binary.LittleEndian.AppendUint32(data, blockMagic)
	data = binary.LittleEndian.AppendUint32(data, b.count)
	for _, w := range &b.words {
		data = binary.LittleEndian.AppendUint64(data, w)
	}
	return data
}

// decodeBlock reads a block's file. ok is false if the file was truncated or overwritten,
// which shows by size, magic or a count that does not match the bits.
func decodeBlock(data []byte) (b *block, ok bool) {
	if len(data) != blockSize || binary.LittleEndian.Uint32(data) != blockMagic {
		return nil, false
	}
	b = &block{count: binary.LittleEndian.Uint32(data[4:])}
	count := 0
	for i := range b.words {
		b.words[i] = binary.LittleEndian.Uint64(data[blockHead+8*i:])
		count += bits.OnesCount64(b.words[i])
	}
	return b, uint32(count) == b.count
}
