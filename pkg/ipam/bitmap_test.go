package ipam

import (
	"bytes"
	"net/netip"
	"testing"
)

func TestBlockOf(t *testing.T) {
	tests := []struct {
		address string
		base    string
		bit     int
	}{
		{"10.1.0.0", "10.1.0.0", 0},
		{"10.1.255.255", "10.1.0.0", 65535},
		{"255.255.1.2", "255.255.0.0", 258},
		{"fd00::1:5", "fd00::1:0", 5},
		{"fd00:1::", "fd00:1::", 0},
	}
	for _, test := range tests {
		base, bit := blockOf(netip.MustParseAddr(test.address))
		if base.String() != test.base || bit != test.bit {
			t.Errorf("blockOf(%s): got %s, %d, want %s, %d", test.address, base, bit, test.base, test.bit)
		}
		if back := inBlock(base, bit); back.String() != test.address {
			t.Errorf("inBlock(%s, %d): got %s, want %s", base, bit, back, test.address)
		}
	}
}

func TestBlockNextFree(t *testing.T) {
	b := newBlock()
	for bit := range 200 {
		b.set(bit)
	}
	b.set(blockBits - 1)
	b.clear(77)
	tests := []struct {
		from, want int
		ok         bool
	}{
		{0, 77, true},
		{77, 77, true},
		{78, 200, true},
		{5000, 5000, true},
		{blockBits - 2, blockBits - 2, true},
		{blockBits - 1, 0, false},
	}
	for _, test := range tests {
		if got, ok := b.nextFree(test.from); got != test.want || ok != test.ok {
			t.Errorf("nextFree(%d): got %d, %v, want %d, %v", test.from, got, ok, test.want, test.ok)
		}
	}
	if b.count != 200 {
		t.Errorf("count: got %d, want 200", b.count)
	}
}

func TestDecodeBlockRefusesDamage(t *testing.T) {
	b := newBlock()
	b.set(5)
	b.set(70)
	sound := b.encode()
	flipped := append([]byte{}, sound...)
	flipped[4000] ^= 4
	tests := []struct {
		name string
		data []byte
		ok   bool
	}{
		{"sound", sound, true},
		{"empty", nil, false},
		{"cut", sound[:4096], false},
		{"longer", append(append([]byte{}, sound...), 0), false},
		{"zeros", make([]byte, blockSize), false},
		{"one bit flipped", flipped, false},
	}
	for _, test := range tests {
		got, ok := decodeBlock(test.data)
		if ok != test.ok {
			t.Errorf("%s: got %v, want %v", test.name, ok, test.ok)
		}
		if ok && !bytes.Equal(got.encode(), b.encode()) {
			t.Errorf("%s: the bits differ", test.name)
		}
	}
}
