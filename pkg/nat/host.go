// Package nat knows what leaves and enters a host under another address: masquerade
// of networks and mapped host ports.
//
// What is wanted is plain data (Rules); it goes one way: to a backend, nftables or
// iptables, which brings the kernel to it, after a record of it was written. Start at
// Host.Add and Host.Release. To debug: nft list table inet trestle, or iptables-save;
// the records are in /run/trestle/translations.
package nat

import (
	"errors"
	"fmt"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

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

// Vouch says whether a link or a lease stands for the attachment with that label
// (cni.Owner's), or for any of the network with that one (cni.NetworkLabel): asked only
// for what has no record.
type Vouch func(label string) (bool, error)

// Host is the NAT state of the host: kernel rules, and the records of who they
// are for. Several processes may have one at once; a Host itself is for one
// goroutine.
type Host struct {
	store record.Store
	conn  *nft.Conn
	vouch Vouch
	probe record.Prober
	// Warn is told, for people, what is left for later; it may be nil.
	Warn func(string)
}

// Open gives the NAT state whose records are in store and whose rules are reached by
// conn. vouch may be nil: then only records vouch for anybody. Nothing is touched yet.
func Open(store record.Store, conn *nft.Conn, vouch Vouch) *Host {
	return &Host{store: store, conn: conn, vouch: vouch}
}

func (h *Host) warn(format string, args ...any) {
	if h.Warn != nil {
		h.Warn(fmt.Sprintf(format, args...))
	}
}

// kernel has rules of ours; nftables and iptables are the two ways to.
type kernel interface {
	// apply makes what of want is not there yet and removes what is there of
	// unwanted, in one transaction for each table; also goes along where the
	// backend can.
	apply(change) error
	// diff says what is not as in rules, for people.
	diff(Rules) ([]string, error)
	// usable says whether the kernel would take rules.
	usable() error
}

// change is what a backend is brought to.
type change struct {
	want     Rules
	unwanted Rules
	also     nft.Changes
	// recorded says that what is wanted is what records have, and reservations: whoever
	// else has a port of it in the kernel has it by a ruleset that was loaded.
	recorded bool
}

func (h *Host) kernel(b Backend) kernel {
	if b == IPTables {
		return ipTables{h}
	}
	return nfTables{h}
}

// resolve is the backend that rules for which b is asked go to.
func (h *Host) resolve(b Backend) (Backend, error) {
	if b != Auto {
		return b, nil
	}
	if known, err := h.isKnown(); err != nil || known {
		return NFTables, err
	}
	switch err := h.conn.Usable(); {
	case errors.Is(err, nft.ErrUnsupported):
		return IPTables, nil
	case err != nil:
		return Auto, err
	}
	return NFTables, nil
}

// locked runs do as the only one on this host, with records that this release
// understands.
func (h *Host) locked(do func() error) error {
	lock, err := h.store.Lock()
	if err != nil {
		return err
	}
	h.conn.Refresh()
	err = h.upgrade()
	if err == nil {
		err = do()
	}
	return errors.Join(err, lock.Unlock())
}

// stands says whether a record, a lease or a link vouches for the attachment with
// that label.
func (h *Host) stands(label string) (bool, error) {
	recorded, err := h.recorded(label)
	if err != nil || recorded {
		return recorded, err
	}
	return h.vouches(label)
}

// recorded says whether there is a record of the attachment with that label that is
// not proved dead.
func (h *Host) recorded(label string) (bool, error) {
	owner, ok := cni.ParseOwner(label)
	if !ok {
		return false, nil
	}
	rec, there, err := record.Read[translation](h.store, place, owner)
	if err != nil {
		return false, err
	}
	if !there {
		if rec, there, err = h.findLabel(label); err != nil || !there {
			return false, err
		}
	}
	dead, err := h.isDead(rec)
	return !dead, err
}

// findLabel looks through all records for a label that was shortened.
func (h *Host) findLabel(label string) (rec record.Record[translation], there bool, err error) {
	all, err := record.List[translation](h.store, place, "")
	for _, rec := range all {
		if rec.Owner.String() == label {
			return rec, true, err
		}
	}
	return rec, false, err
}

// isDead says whether nobody stands for the record: its container is proved dead, or
// was deleted while a rule of its could not be reached.
func (h *Host) isDead(rec record.Record[translation]) (bool, error) {
	if rec.Value.Released {
		return true, nil
	}
	life, err := h.probe.Life(rec.Stamp)
	if err != nil || life == record.Dead || !rec.Value.ByVouch || h.vouch == nil {
		return life == record.Dead, err
	}
	stands, err := h.vouches(rec.Owner.String())
	return !stands, err
}

// Status says whether an ADD would get its rules by the backend; the error has code
// 50. The kernel is asked, not whether some program is installed.
func (h *Host) Status(b Backend) error {
	backend, err := h.resolve(b)
	if err == nil {
		err = h.kernel(backend).usable()
	}
	if err == nil && backend == NFTables {
		err = h.warnExempt()
	}
	if err != nil {
		return cni.UnavailableErrorf("NAT: %w", err)
	}
	return nil
}
