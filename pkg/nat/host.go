// Package nat knows what leaves and enters a host under another address:
// masquerade of networks and mapped host ports.
package nat

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// DefaultDir is where records live: they are worthless after a reboot, as the
// kernel's rules are.
const DefaultDir = "/run/trestle/nat"

// Backend is the part of the kernel that shall have the rules.
type Backend string

// The backends. Auto is nftables, or iptables where the kernel has no nf_tables.
const (
	Auto     Backend = ""
	NFTables Backend = "nftables"
	IPTables Backend = "iptables"
)

// ParseBackend reads a configuration's value. The caller adds the field's name
// to the error, which has code 7.
func ParseBackend(s string) (Backend, error) {
	switch b := Backend(s); b {
	case Auto, NFTables, IPTables:
		return b, nil
	default:
		return Auto, cni.ConfigErrorf("unknown backend %q; use %q, %q, or leave it out", s, NFTables, IPTables)
	}
}

// Host is the NAT state of the host: kernel rules, and the records of who they
// are for. Several processes may have one at once; a Host itself is for one
// goroutine.
type Host struct {
	dir     string
	backend Backend
	nft     *nftTable // nil until it is needed
}

// kernel has rules of ours; nftables and iptables are the two ways to.
type kernel interface {
	// add makes what is not there yet, in one transaction. The rule of a network
	// that is there otherwise is replaced.
	add(Rules) error
	// remove deletes what is there of rules; all says that nothing of ours is
	// to stay, not even what holds rules.
	remove(rules Rules, all bool) error
	// differences says what is not as in rules, for people.
	differences(Rules) ([]string, error)
	// replace makes rules the only ones of ours, in one transaction.
	replace(Rules) error
	// usable says whether the kernel would take rules.
	usable() error
}

// Open gives the NAT state whose records are in dir. Nothing is touched yet.
func Open(dir string, backend Backend) *Host {
	return &Host{dir: dir, backend: backend}
}

// Close lets go of the kernel. Closing waits for what was deleted before
// (nft_rcv_nl_event, net/netfilter/nf_tables_api.c), a good ten milliseconds;
// a process that still has a link to delete does that first, or leaves the
// closing to its end.
func (h *Host) Close() error {
	if h.nft == nil {
		return nil
	}
	err := h.nft.close()
	h.nft = nil
	return err
}

// wanted is the backend that new rules go to.
func (h *Host) wanted() (Backend, error) {
	if h.backend != Auto {
		return h.backend, nil
	}
	nft, err := h.nftables()
	if err != nil {
		return Auto, err
	}
	supported, err := nft.supported()
	if err != nil || supported {
		return NFTables, err
	}
	return IPTables, nil
}

func (h *Host) kernel(b Backend) (kernel, error) {
	if b == IPTables {
		return ipTables{}, nil
	}
	return h.nftables()
}

func (h *Host) nftables() (*nftTable, error) {
	if h.nft == nil {
		nft, err := openNFTables()
		if err != nil {
			return nil, err
		}
		h.nft = nft
	}
	return h.nft, nil
}

// lockPatience is how long a call waits for others. An ADD holds the lock for
// about a millisecond; a runtime gives up on us after minutes.
const lockPatience = 20 * time.Second

const lockName = "lock"

// locked runs do as the only one on this host.
func (h *Host) locked(do func() error) error {
	lock, err := flock.Create(filepath.Join(h.dir, lockName), flock.Exclusive, lockPatience)
	if err != nil {
		return err
	}
	return errors.Join(do(), h.tidy(), lock.Unlock())
}

// tidy removes the lock that is held, and its directories, where it is all that
// is left; who waits for it makes a new one.
func (h *Host) tidy() error {
	inUse, err := othersIn(h.dir, lockName)
	if err != nil || inUse {
		return err
	}
	return drop(filepath.Join(h.dir, lockName), h.dir, filepath.Dir(h.dir))
}

func (h *Host) records(b Backend) records { return records{filepath.Join(h.dir, string(b))} }
