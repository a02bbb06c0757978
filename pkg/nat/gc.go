package nat

import (
	"errors"
	"fmt"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// GC releases every attachment of the network that the runtime's list does not keep, whether
// it has a record or only rules in the kernel, and restores lost rules of the others. If the
// runtime sent no list, only attachments that are proved dead are released. If the list is
// empty, nobody uses the network, and its masquerade is removed, too.
func (h *Host) GC(network string, valid cni.Valid) error {
	return h.locked(func() error {
		reconcileErr := h.reconcileUnrecorded(valid)
		s, err := h.decide(network, valid, false)
		if s == nil {
			return errors.Join(reconcileErr, err)
		}
		err = errors.Join(reconcileErr, err, s.commit(), s.restoreIPTables())
		if valid.IsEmpty() && len(s.kept) == 0 {
			err = errors.Join(err, h.forgetNetwork(network))
		}
		return err
	})
}

// findStale decides for each record whether its owner is kept or gone. Rules in iptables of
// those that are gone are removed at once; if that fails, the record stays.
func (s *snapshot) findStale() error {
	var errs []error
	s.kept = make([]attachmentRecord, 0, len(s.records))
	for _, rec := range s.records {
		path := s.store.Path(place, rec.Owner)
		gone, err := s.isGone(rec)
		switch {
		case gone:
			if err = s.removeIPTables(rec.Value.ports(rec.Owner, IPTables)); err == nil {
				s.gone = append(s.gone, rec.Owner)
			}
		default:
			var heldErr error
			if rec, heldErr = s.keepHeld(rec, path); heldErr == nil {
				rec, heldErr = s.keepFollowing(rec)
			}
			if heldErr == nil {
				s.kept = append(s.kept, rec)
			}
			err = errors.Join(err, heldErr)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rec.Owner, err))
			continue
		}
		s.decided[rec.Owner.String()], s.decided[path] = true, true
	}
	return errors.Join(errs...)
}

// keepFollowing is the record as `following` has it, written anew: commit and restoreIPTables
// move the rules.
func (s *snapshot) keepFollowing(rec attachmentRecord) (attachmentRecord, error) {
	if !s.exempt {
		return rec, nil
	}
	moved, ok := following(rec)
	if !ok {
		return rec, nil
	}
	return moved, s.write(moved)
}

// isGone says whether the runtime's list does not name the attachment or, without a list,
// whether its record is stale. The kernel is not asked about attachments on the list.
func (s *snapshot) isGone(rec attachmentRecord) (bool, error) {
	if s.valid.Known {
		return rec.Value.Released || !s.valid.Keeps(rec.Owner), nil
	}
	return s.isDead(rec)
}

// sweepReservations removes reservations that are dangling, or whose record does not have the
// port.
func (s *snapshot) sweepReservations() error {
	all, wanted := s.reservations(), map[string]bool{}
	for _, rec := range s.kept {
		for _, p := range append(rec.Value.ports(rec.Owner, NFTables), rec.Value.ports(rec.Owner, IPTables)...) {
			for _, m := range p.Mappings {
				wanted[all.file(m)] = true
			}
		}
	}
	var errs []error
	for file, path := range s.reserved {
		if wanted[file] {
			continue
		}
		stale, err := path == "" || s.decided[path], error(nil)
		if !stale {
			stale, err = isDangling(file)
		}
		if err == nil && stale {
			err = drop(file)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forgetNetwork removes the masquerade of a network that nobody uses, and the table and the
// shared chains if no other network needs them.
func (h *Host) forgetNetwork(network string) error {
	idle := change{unwanted: ruleset{Networks: []masqueradeRule{{Network: network}}}}
	var errs []error
	if there, err := h.conn.Exists(inetTable()); err != nil || there {
		errs = append(errs, err, nfTables{h}.apply(idle), h.conn.DeleteIdle(inetTable()))
	}
	return errors.Join(append(errs, ipTables{h}.forget(network))...)
}
