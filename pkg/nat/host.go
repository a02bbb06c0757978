// Package nat makes the host's NAT rules for containers: masquerade for networks, and port
// mappings.
//
// A ruleset is the wanted state as plain data. Its record is written first, then a backend,
// nftables or iptables, applies it to the kernel. Start at Host.Add and Host.Release. To
// debug: nft list table inet trestle, or iptables-save; the records are in
// /run/trestle/translations.
package nat

import (
	"errors"
	"fmt"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Backend is the kernel interface that gets the rules.
type Backend string

// The backends. Auto is nftables, or iptables where the kernel has no nf_tables.
const (
	Auto     Backend = ""
	NFTables Backend = "nftables"
	IPTables Backend = "iptables"
)

// ParseBackend parses a value of the configuration. The error has code 7; the caller adds
// the name of the field.
func ParseBackend(s string) (Backend, error) {
	switch b := Backend(s); b {
	case Auto, NFTables, IPTables:
		return b, nil
	default:
		return Auto, cni.ConfigErrorf("unknown backend %q; use %q, %q, or leave it out", s, NFTables, IPTables)
	}
}

// Alive says whether a link or a lease shows that the attachment with this label
// (cni.Owner.String) is alive, or, for the label of a network (cni.NetworkLabel), any
// attachment to it. It is called for owners without a record, and for adopted records.
type Alive func(label string) (bool, error)

// Host is the NAT state of the host: kernel rules, and the records of their owners.
// Several processes may use it at once; a Host value is for one goroutine.
type Host struct {
	store record.Store
	conn  *nft.Conn
	alive Alive
	probe record.Prober
	// Warn receives warnings: of rules that cannot be removed now, say. It may be nil.
	Warn func(string)
}

// Open returns the NAT state whose records are in store and whose rules are reached by
// conn. alive may be nil: then only records count. Nothing is read or changed yet.
func Open(store record.Store, conn *nft.Conn, alive Alive) *Host {
	return &Host{store: store, conn: conn, alive: alive}
}

func (h *Host) warn(format string, args ...any) {
	if h.Warn != nil {
		h.Warn(fmt.Sprintf(format, args...))
	}
}

// kernel is a backend that holds our rules: nftables or iptables.
type kernel interface {
	// apply adds what is missing of want and removes what exists of unwanted, in one
	// transaction for each table. Only nftables includes also.
	apply(change) error
	// diff describes how the kernel differs from the rules.
	diff(ruleset) ([]string, error)
	// usable returns an error if the backend could not make rules.
	usable() error
}

// change is what a backend is to add and to remove.
type change struct {
	want     ruleset
	unwanted ruleset
	also     nft.Changes
	// recorded says that want follows from records and reservations only: if another owner
	// has one of these ports in the kernel, it came from a loaded ruleset.
	recorded bool
}

func (h *Host) kernel(b Backend) kernel {
	if b == IPTables {
		return ipTables{h}
	}
	return nfTables{h}
}

// resolve chooses the backend for rules that ask for b.
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

// locked calls do under the lock, after records of earlier releases were converted.
func (h *Host) locked(do func() error) error {
	return h.store.Locked(func() error {
		h.conn.Refresh()
		if err := h.upgrade(); err != nil {
			return err
		}
		return do()
	})
}

// isInUse says whether a record, a lease or a link shows that the owner with this label is
// alive.
func (h *Host) isInUse(label string) (bool, error) {
	recorded, err := h.recorded(label)
	if err != nil || recorded {
		return recorded, err
	}
	return h.isAlive(label)
}

// recorded says whether the attachment with this label has a record that is not stale.
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

// findLabel searches all records for a label, which may be shortened.
func (h *Host) findLabel(label string) (rec record.Record[translation], there bool, err error) {
	all, err := record.List[translation](h.store, place, "")
	for _, rec := range all {
		if rec.Owner.String() == label {
			return rec, true, err
		}
	}
	return rec, false, err
}

// isDead says whether the record is stale: its container is proved dead, or its DEL left
// rules that it could not remove, or it was adopted and no link or lease is left.
func (h *Host) isDead(rec record.Record[translation]) (bool, error) {
	if rec.Value.Released {
		return true, nil
	}
	life, err := h.probe.Life(rec.Stamp)
	if err != nil || life == record.Dead || !rec.Value.Adopted || h.alive == nil {
		return life == record.Dead, err
	}
	alive, err := h.isAlive(rec.Owner.String())
	return !alive, err
}

// Status returns an error with code 50 if an ADD with this backend could not make its
// rules. nftables is asked by netlink; for iptables programs are run. Status also warns of
// rules of iptables that the nftables backend is not bound by.
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

// isAlive says whether a link or a lease shows that the owner with this label is alive.
func (h *Host) isAlive(label string) (bool, error) {
	if h.alive == nil {
		return false, nil
	}
	return h.alive(label)
}

// isKnown says whether NAT has made its part of table inet trestle since /run is as it is:
// then every owner of something in it has a record.
func (h *Host) isKnown() (bool, error) {
	for _, t := range natTables() {
		if known, err := h.conn.IsKnown(t); err != nil || known {
			return known, err
		}
	}
	return false, nil
}
