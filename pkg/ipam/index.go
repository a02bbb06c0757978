package ipam

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// The index lies in .trestle beside the leases:
//
//	index             the header
//	used.10.22.0.0    one block of the bitmap (see bitmap.go)
//	owner.<hash>      one record (see record.go)
//
// How it is known to be right: when we have changed the directory of leases and
// then the index, we set the directory's modification time to the stamp, a time
// past that the header names. Whoever creates or removes a lease after that
// (host-local, a person, one of us that is killed half-way) makes the kernel put
// the present time there, and the next of us rebuilds the index from the
// leases. To look costs one stat, and it does not depend on how finely the
// kernel's clock ticks. The index's own directory is stamped in the same way, so
// that a record that is lost is missed.
//
// Only what somebody changes without the lock, while we hold it and are about to
// set the stamp, is not seen in this way. It cannot make two owners of one
// address, since a lease's file is created exclusively; and it cannot lose an
// address for good, since the leases themselves are looked at before a set is
// called full.
const (
	indexDir    = ".trestle"
	headerName  = "index"
	blockPrefix = "used."
	headerMax   = 4096
	indexFormat = 2 // 1 stamped the directory of leases alone, and knew no machines
)

// header says of which directory, and of which boot, the index is a picture.
type header struct {
	Format int    `json:"format"`
	Boot   string `json:"boot"`
	// Machine tells whose boot it is: several may share the directory.
	Machine string `json:"machine,omitempty"`
	Ino     uint64 `json:"ino"`   // of the directory of leases; a copy of it has another
	Stamp   int64  `json:"stamp"` // seconds since 1970
	// Nameless: some leases lack the interface name (host-local before 0.8).
	Nameless bool `json:"nameless,omitempty"`
}

// fits says whether the header was written in this boot for the directories with
// that status, and nothing changed there since.
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
	if err != nil || json.Unmarshal(data, &h) != nil {
		return header{} // fits nothing
	}
	return h
}

// bitmap is the part of the index that tells which addresses are taken, as far
// as it has been looked at.
type bitmap struct {
	own    dir
	blocks map[netip.Addr]*block
	// whole: the blocks are all that there are, and no file need be read.
	whole bool
}

// errDamaged says that a file of the index cannot be used.
var errDamaged = errors.New("the index is damaged")

// block is the block that begins at base. It is errDamaged if its file is damaged.
func (m *bitmap) block(base netip.Addr) (*block, error) {
	if b := m.blocks[base]; b != nil {
		return b, nil
	}
	b := &block{}
	if !m.whole {
		data, err := m.own.read(blockPrefix+base.String(), make([]byte, blockSize+1))
		switch {
		case errors.Is(err, unix.ENOENT): // no leases there
		case err != nil:
			return nil, errors.Join(errDamaged, err)
		default:
			var sound bool
			if b, sound = decodeBlock(data); !sound {
				return nil, errDamaged
			}
		}
	}
	m.blocks[base] = b
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

// save writes the blocks that changed.
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

// isBlockName says whether a file of the index is a block.
func isBlockName(name string) bool { return strings.HasPrefix(name, blockPrefix) }
