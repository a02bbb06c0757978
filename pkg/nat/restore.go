package nat

import (
	"errors"
	"fmt"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Restored is what Restore did, for people.
type Restored struct {
	Attachments int      // recorded and alive
	Repaired    []string // what was not as recorded
	Released    []string // whose container is gone
	Void        int      // elements that nobody stood for
}

// Restore makes again, from the records, whatever of ours was lost in the kernel, by
// "nft flush ruleset" or a reload of firewalld; and takes away what is there and
// nobody's. Where nothing is missing it changes nothing. A record that cannot be
// restored is named, and harms no other.
func (h *Host) Restore() (done Restored, err error) {
	err = h.locked(func() error {
		done, err = h.restore()
		return err
	})
	return done, err
}

func (h *Host) restore() (done Restored, err error) {
	errs := []error{ipTables{h}.adopt("", cni.Valid{}), h.heal()}
	all, err := record.List[translation](h.store, place, "")
	errs = append(errs, err)
	var alive []attachmentRecord
	for _, rec := range all {
		dead, err := h.isDead(rec)
		errs = append(errs, err)
		if dead {
			done.Released = append(done.Released, rec.Owner.String())
			errs = append(errs, h.release(rec, rec.Owner, translation{}, nft.Changes{}))
			continue
		}
		if rec, err = h.keepHeld(rec); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rec.Owner, err))
			continue
		}
		alive = append(alive, rec)
	}
	done.Attachments = len(alive)
	for _, backend := range []Backend{NFTables, IPTables} {
		repaired, err := h.restoreBackend(backend, alive)
		done.Repaired = append(done.Repaired, repaired...)
		errs = append(errs, err)
	}
	repaired, err := h.restoreLoopback(alive)
	done.Repaired = append(done.Repaired, repaired...)
	errs = append(errs, err)
	void, err := h.removeVoid(alive)
	done.Void = void
	errs = append(errs, err, record.Prune[translation](h.store, place), h.reservations().sweep())
	return done, errors.Join(errs...)
}

// keepHeld leaves out of a record the mappings whose reservation another has: an ADD
// was killed before it reserved them. A reservation that was lost is made again.
func (h *Host) keepHeld(rec attachmentRecord) (attachmentRecord, error) {
	if rec.Value.Ports == nil {
		return rec, nil
	}
	ports := *rec.Value.Ports
	var held []Mapping
	for _, m := range ports.Mappings {
		_, taken, err := h.reservations().holder(m, rec.Owner)
		if err != nil {
			return rec, err
		}
		if !taken {
			held = append(held, m)
		}
	}
	ports.Mappings = held
	rec.Value.Ports = &ports
	return rec, h.reservations().take(OwnedPorts{rec.Owner, ports.Ports})
}

func (h *Host) restoreBackend(backend Backend, alive []attachmentRecord) (repaired []string, err error) {
	want, err := rulesOf(alive, backend)
	if err != nil || want.empty() {
		return nil, err
	}
	lost, err := h.kernel(backend).differences(want)
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	return lost, h.kernel(backend).apply(change{want: want, recorded: true})
}

// restoreLoopback restores what iptables' port mappings have need of nftables.
func (h *Host) restoreLoopback(alive []attachmentRecord) (repaired []string, err error) {
	want, err := rulesOf(alive, IPTables)
	if err != nil {
		return nil, err
	}
	lost, err := h.loopbackDifferences(want.Ports)
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	return lost, nfTables{h}.apply(change{also: loopbackChanges(want.Ports, nil), recorded: true})
}

// removeVoid removes elements that no record has, and nobody stands for.
func (h *Host) removeVoid(alive []attachmentRecord) (int, error) {
	there, err := h.conn.Exists(inetTable())
	if err != nil || !there {
		return 0, err
	}
	found, err := h.list()
	if err != nil {
		return 0, err
	}
	var wanted []nft.Element
	for _, rec := range alive {
		for _, p := range rec.Value.ports(rec.Owner, NFTables) {
			wanted = append(wanted, p.elements()...)
		}
		for _, p := range rec.Value.ports(rec.Owner, IPTables) {
			wanted = append(wanted, p.loopbackElements()...)
		}
	}
	void, err := nft.Void(found, wanted, h.stands)
	if err != nil || len(void) == 0 {
		return 0, err
	}
	return len(void), h.conn.Commit(nft.Changes{Remove: void}, h.stands)
}
