package ipam

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// The index is in .trestle beside the leases:
//
//	index             the header
//	used.10.22.0.0    one block of the bitmap (see bitmap.go)
//	owner.<hash>      one record (see record.go)
//
// How a stale index is recognized: after we have changed leases and index, we set the
// modification time of the directory of leases to a time in the past, the stamp, which the
// header contains. If somebody creates or removes a lease afterwards (host-local, a person, a
// process of ours that is killed half-way), the kernel sets the present time, and our next
// operation rebuilds the index from the leases. The check takes one stat(2), and does not
// depend on the resolution of the kernel's clock. The index's own directory is stamped in
// the same way, so that a lost record is noticed.
//
// A change is not noticed if somebody makes it without the lock, while we hold it and are
// about to set the stamp. That cannot give one address to two owners, since the file of a
// lease is created exclusively; and no address is lost for good, since the leases
// themselves are read before a set counts as full.
const (
	indexDir    = ".trestle"
	headerName  = "index"
	blockPrefix = "used."
	headerMax   = 4096
	indexFormat = 2 // format 1 stamped only the directory of leases, and had no machine
)

// header says for which directory, and in which boot, the index was written.
type header struct {
	Format int    `json:"format"`
	Boot   string `json:"boot"`
	// Machine is the machine of that boot, since several may share the directory.
	Machine string `json:"machine,omitempty"`
	Ino     uint64 `json:"ino"`   // inode of the directory of leases, by which a copy is recognized
	Stamp   int64  `json:"stamp"` // seconds since 1970
	// Nameless says that some leases lack the interface name (host-local before 0.8).
	Nameless bool `json:"nameless,omitempty"`
}

// fits says whether the header was written in this boot for the directories with these
// statuses, and nothing has changed there since.
func (h header) fits(boot string, net, own unix.Stat_t) bool {
	return h.Format == indexFormat && h.Boot == boot && h.Ino == net.Ino &&
		isSecond(net.Mtim, h.Stamp) && isSecond(own.Mtim, h.Stamp)
}

// isSecond says whether a file's time is exactly that second since 1970.
func isSecond(t unix.Timespec, sec int64) bool {
	at, nsec := t.Unix()
	return at == sec && nsec == 0
}

func readHeader(own dir) header {
	var h header
	data, err := own.read(headerName, make([]byte, headerMax))
	if err != nil || cni.UnmarshalOnce(data, &h) != nil {
		return header{} // a header that never fits
	}
	return h
}

// bitmap is the index's bitmap of leased addresses. It reads a block when it is needed.
type bitmap struct {
	own    dir
	blocks map[netip.Addr]*block
	// complete says that blocks are all there are, so that no file need be read.
	complete bool
}

// errDamaged says that a file of the index cannot be used.
var errDamaged = errors.New("the index is damaged")

// block is the block that begins at base; errDamaged if its file cannot be used.
func (m *bitmap) block(base netip.Addr) (*block, error) {
	if b := m.blocks[base]; b != nil {
		return b, nil
	}
	b, err := m.read(base)
	if err != nil {
		return nil, err
	}
	m.blocks[base] = b
	return b, nil
}

// read reads the block's file. Without one, no address of the block is leased.
func (m *bitmap) read(base netip.Addr) (*block, error) {
	if m.complete {
		return newBlock(), nil
	}
	data, err := m.own.read(blockPrefix+base.String(), make([]byte, blockSize+1))
	if errors.Is(err, unix.ENOENT) {
		return newBlock(), nil
	}
	if err != nil {
		return nil, errors.Join(errDamaged, err)
	}
	b, ok := decodeBlock(data)
	if !ok {
		return nil, errDamaged
	}
	return b, nil
}

func (m *bitmap) set(a netip.Addr) error {
	base, bit := blockOf(a)
	b, err := m.block(base)
	if err == nil {
		b.set(bit)
	}
	return err
}

func (m *bitmap) clear(a netip.Addr) error {
	base, bit := blockOf(a)
	b, err := m.block(base)
	if err == nil {
		b.clear(bit)
	}
	return err
}

// save writes the blocks that have changed.
func (m *bitmap) save() error {
	for base, b := range m.blocks {
		if !b.changed {
			continue
		}
		if err := m.own.overwrite(blockPrefix+base.String(), b.encode()); err != nil {
			return err
		}
		b.changed = false
	}
	return nil
}

// isBlockName says whether the file of the index with that name is a block.
func isBlockName(name string) bool { return strings.HasPrefix(name, blockPrefix) }
