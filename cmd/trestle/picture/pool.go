package picture

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
)

// PoolMap is a pool as cells, each a block of addresses.
type PoolMap struct {
	Network string       `json:"network"`
	Subnet  netip.Prefix `json:"subnet"`
	First   netip.Addr   `json:"first"`
	Last    netip.Addr   `json:"last"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	Size    uint64       `json:"size"`
	Used    uint64       `json:"used"`
	Dead    uint64       `json:"dead"`
	// Unread says that the leases could not be read: Used and Dead are not known, and there are no cells.
	Unread bool `json:"unread,omitempty"`
	// Drawn is the subnet, or the part of a huge one that contains all leases.
	Drawn netip.Prefix `json:"drawn"`
	// CellBits is the prefix length of a cell.
	CellBits int    `json:"cellBits"`
	Cells    []Cell `json:"cells"`
}

// Cell is a block of addresses. Counts beyond 64 bits are math.MaxUint64.
type Cell struct {
	Block    netip.Prefix `json:"block"`
	Free     uint64       `json:"free"`
	Leased   uint64       `json:"leased"` // to containers that are alive or not proved dead
	Dead     uint64       `json:"dead"`
	Reserved uint64       `json:"reserved"` // never leased: gateways, exclusions, reservations, and addresses outside the range
}

// Sizes, as powers of 2.
const (
	cellsBits = 10 // the most cells
	vastBits  = 20 // the most addresses of a subnet that is drawn as a whole
	leastBits = 8  // the fewest addresses of a part that is drawn
)

// NewPoolMaps are the pools of the named networks, or of all, in order.
func NewPoolMaps(s *inventory.Snapshot, networks ...string) []PoolMap {
	maps := []PoolMap{}
	for _, n := range s.Networks {
		if len(networks) > 0 && !slices.Contains(networks, n.Name) {
			continue
		}
		taken := leasesOf(s, n)
		for _, p := range n.Pools {
			maps = append(maps, newPoolMap(n.Name, p, taken))
		}
	}
	return maps
}

// lease is an address that is not free.
type lease struct {
	address        netip.Addr
	dead, reserved bool
}

func leasesOf(s *inventory.Snapshot, n inventory.Network) []lease {
	var all []lease
	for _, a := range s.Attachments {
		if a.Network != n.Name || !a.Evidence.Lease {
			continue
		}
		for _, address := range a.Addresses {
			all = append(all, lease{address: address, dead: a.State == inventory.Dead})
		}
	}
	for _, address := range n.Reserved {
		all = append(all, lease{address: address, reserved: true})
	}
	return all
}

func newPoolMap(network string, p inventory.Pool, taken []lease) PoolMap {
	m := PoolMap{
		Network: network, Subnet: p.Subnet, First: p.First, Last: p.Last, Gateway: p.Gateway, Size: p.Size, Used: p.Used, Dead: p.Dead,
		Unread: p.Unread,
	}
	taken = slices.DeleteFunc(slices.Clone(taken), func(l lease) bool {
		return l.address.Less(p.First) || p.Last.Less(l.address) || !p.Subnet.Contains(l.address)
	})
	m.Drawn = drawn(p, taken)
	m.CellBits = min(m.Drawn.Bits()+cellsBits, m.Drawn.Addr().BitLen())
	if p.Unread {
		m.Cells = []Cell{}
		return m
	}
	m.Cells = make([]Cell, 1<<(m.CellBits-m.Drawn.Bits()))
	for i := range m.Cells {
		m.Cells[i].Block = block(m.Drawn, m.CellBits, i)
	}
	for _, l := range taken {
		cell := &m.Cells[place(l.address, m.Drawn.Bits(), m.CellBits)]
		switch {
		case l.reserved:
			cell.Reserved++
		case l.dead:
			cell.Dead++
		default:
			cell.Leased++
		}
	}
	for i := range m.Cells {
		m.Cells[i].rest(p)
	}
	return m
}

// rest computes the cell's free and reserved addresses.
func (c *Cell) rest(p inventory.Pool) {
	leasable := p.Range.SizeIn(c.Block)
	c.Free = leasable - min(c.Leased+c.Dead+c.Reserved, leasable)
	all := uint64(math.MaxUint64)
	if bits := c.Block.Addr().BitLen() - c.Block.Bits(); bits < 64 {
		all = 1 << bits
	}
	c.Reserved = all - min(c.Free+c.Leased+c.Dead, all)
	if leasable == math.MaxUint64 {
		c.Reserved = 0
	}
}

// drawn is the part of the pool that is drawn.
func drawn(p inventory.Pool, taken []lease) netip.Prefix {
	subnet := p.Subnet.Masked()
	length := subnet.Addr().BitLen()
	if length-subnet.Bits() <= vastBits {
		return subnet
	}
	part := netip.PrefixFrom(p.First, length-leastBits).Masked()
	for _, l := range taken {
		for !part.Contains(l.address) && part.Bits() > subnet.Bits() {
			part = netip.PrefixFrom(part.Addr(), part.Bits()-1).Masked()
		}
	}
	return part
}

// place is the value of the address's bits between two positions, which is its block's index.
func place(a netip.Addr, from, to int) int {
	raw := a.AsSlice()
	n := 0
	for bit := from; bit < to; bit++ {
		n = n<<1 | int(raw[bit/8]>>(7-bit%8)&1)
	}
	return n
}

// block is the i-th prefix of that length in p.
func block(p netip.Prefix, bits, i int) netip.Prefix {
	raw := p.Addr().AsSlice()
	for bit := bits - 1; bit >= p.Bits(); bit-- {
		raw[bit/8] |= byte(i&1) << (7 - bit%8)
		i >>= 1
	}
	address, _ := netip.AddrFromSlice(raw) // raw has 4 or 16 bytes
	return netip.PrefixFrom(address, bits)
}

// title says how much of the pool is leased.
func (m PoolMap) title() string {
	if m.Unread {
		return fmt.Sprintf("? of %s leased", amount(m.Size))
	}
	text := fmt.Sprintf("%d of %s leased", m.Used, amount(m.Size))
	if m.Dead > 0 {
		text += fmt.Sprintf(", %d of them to dead containers", m.Dead)
	}
	return text
}

// scale says how many addresses a cell is, and which part of the subnet is drawn.
func (m PoolMap) scale() string {
	if m.Unread {
		return "its leases could not be read"
	}
	text := "a cell is an address"
	switch bits := m.Subnet.Addr().BitLen() - m.CellBits; {
	case bits > 32:
		text = fmt.Sprintf("a cell is a /%d", m.CellBits)
	case bits > 0:
		text = fmt.Sprintf("a cell is %d addresses", 1<<bits)
	}
	if m.Drawn != m.Subnet.Masked() {
		text += fmt.Sprintf("; drawn is %s, all else is free", m.Drawn)
	}
	return text
}

// look is how a cell is drawn.
type look int

// The looks, in the order of the legend.
const (
	lookFree look = iota
	lookLeased1
	lookLeased2
	lookLeased3
	lookLeased
	lookDead
	lookReserved
)

// looksLike is the cell's look. Dead leases matter most, since they can be freed.
func (c Cell) looksLike() look {
	switch {
	case c.Dead > 0:
		return lookDead
	case c.Leased == 0 && c.Free > 0:
		return lookFree
	case c.Leased == 0:
		return lookReserved
	case c.Free == 0:
		return lookLeased
	}
	share := float64(c.Leased) / (float64(c.Leased) + float64(c.Free))
	switch {
	case share <= 1./3:
		return lookLeased1
	case share <= 2./3:
		return lookLeased2
	}
	return lookLeased3
}

// tip is the cell's tooltip.
func (c Cell) tip() string {
	text := c.Block.String()
	if c.Block.IsSingleIP() {
		text = c.Block.Addr().String()
	}
	for _, part := range []struct {
		n    uint64
		word string
	}{{c.Leased, "leased"}, {c.Dead, "dead"}, {c.Free, "free"}, {c.Reserved, "reserved"}} {
		switch {
		case part.n > 0 && c.Block.IsSingleIP():
			text += ": " + part.word
		case part.n > 0:
			text += fmt.Sprintf("\n%s %s", amount(part.n), part.word)
		}
	}
	return text
}
