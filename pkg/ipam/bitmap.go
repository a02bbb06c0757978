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
	data    []byte // the content of its file: magic, count, and words of 64 bits, little-endian
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

func newBlock() *block {
	b := &block{data: make([]byte, blockSize)}
	binary.LittleEndian.PutUint32(b.data, blockMagic)
	return b
}

// word is the i-th 64 bits.
func (b *block) word(i int) uint64 { return binary.LittleEndian.Uint64(b.data[blockHead+8*i:]) }

func (b *block) has(bit int) bool { return b.word(bit/64)&(1<<(bit%64)) != 0 }

// flip changes a bit.
func (b *block) flip(bit int) {
	b.data[blockHead+bit/8] ^= 1 << (bit % 8)
	b.changed = true
}

func (b *block) set(bit int) {
	if !b.has(bit) {
		b.flip(bit)
		b.count++
	}
}

func (b *block) clear(bit int) {
	if b.has(bit) {
		b.flip(bit)
		b.count--
	}
}

// nextFree is the first bit at or after from that is not set.
func (b *block) nextFree(from int) (bit int, ok bool) {
	word := from / 64
	free := ^b.word(word) &^ (1<<(from%64) - 1)
	for free == 0 {
		if word++; word == blockWords {
			return 0, false
		}
		free = ^b.word(word)
	}
	return word*64 + bits.TrailingZeros64(free), true
}

// encode is the content of the block's file.
func (b *block) encode() []byte {
	binary.LittleEndian.PutUint32(b.data[4:], b.count)
	return b.data
}

// decodeBlock is the block with that content, which it keeps. ok is false if the file was
// truncated or overwritten, which shows by size, magic or a count that does not match the bits.
func decodeBlock(data []byte) (b *block, ok bool) {
	if len(data) != blockSize || binary.LittleEndian.Uint32(data) != blockMagic {
		return nil, false
	}
	b = &block{data: data, count: binary.LittleEndian.Uint32(data[4:])}
	count := 0
	for i := range blockWords {
		count += bits.OnesCount64(b.word(i))
	}
	return b, uint32(count) == b.count
}
