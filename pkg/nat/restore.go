package nat

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// keepHeld returns the record without the port mappings that another attachment has reserved:
// an ADD was killed before it could reserve them. A lost reservation is made again. path is
// the record's file.
func (s *snapshot) keepHeld(rec attachmentRecord, path string) (attachmentRecord, error) {
	if rec.Value.Ports == nil {
		return rec, nil
	}
	all := s.reservations()
	ports, lost := *rec.Value.Ports, ownedPorts{Owner: rec.Owner}
	ports.Mappings = nil
	for _, m := range rec.Value.Ports.Mappings {
		if s.reserved[all.file(m)] != path {
			holder, taken, err := all.holder(m, rec.Owner)
			if err != nil {
				return rec, err
			}
			if taken {
				s.refused = append(s.refused, fmt.Sprintf("%s: mapping %s: %s has the port", rec.Owner, m, holder.Owner))
				continue
			}
			lost.Mappings = append(lost.Mappings, m)
		}
		ports.Mappings = append(ports.Mappings, m)
	}
	rec.Value.Ports = &ports
	return rec, all.take(lost)
}

// restoreIPTables adds the iptables rules that the kept attachments lack.
func (s *snapshot) restoreIPTables() error {
	want := rulesOf(s.kept, IPTables)
	if want.empty() {
		return nil
	}
	return ipTables{s.Host}.apply(change{want: want, recorded: true})
}

// Restore makes again from the records what the kernel has lost, by "nft flush ruleset" or a
// reload of firewalld, and removes what has no live owner. If nothing is missing or stale it
// changes nothing. A record that cannot be restored is reported and does not affect the
// others.
func (h *Host) Restore(done *cni.Restored) error {
	return h.locked(func() error { return h.restore(done) })
}

func (h *Host) restore(done *cni.Restored) error {
	lost, err := h.isLost()
	if err != nil {
		return err
	}
	s, err := h.decide("", cni.Valid{}, lost)
	if s == nil {
		return err
	}
	err = errors.Join(err, s.report(done), s.commit(), s.restoreIPTables())
	if err == nil && lost {
		err = h.noteIPTables()
	}
	return err
}

// report adds to done what commit and restoreIPTables are going to do.
func (s *snapshot) report(done *cni.Restored) error {
	done.Taken, done.Void, done.Refused = s.taken, s.stale, s.refused
	for _, rec := range s.kept {
		done.Add(cni.NetworkLabel(rec.Owner.Network))
	}
	for _, o := range s.gone {
		done.Released = append(done.Released, o.String())
	}
	missing, err := s.missing()
	for _, label := range missing {
		switch {
		case !strings.Contains(label, "/"):
			done.Shared = true
		case strings.HasSuffix(label, "/"):
			done.Add(label, cni.Made{What: "masquerade"})
		default:
			done.Add(label, cni.Made{What: "mapped ports"})
		}
	}
	return err
}

// missing returns the labels of attachments whose port mappings the kernel lacks, those of
// networks (cni.NetworkLabel) whose masquerade it lacks, and the comments of missing shared
// rules.
func (s *snapshot) missing() ([]string, error) {
	changes, err := s.changes()
	if err != nil {
		return nil, err
	}
	var labels []string
	for _, e := range changes.Create {
		labels = append(labels, e.Owner)
	}
	for _, t := range changes.Tables {
		owners, err := s.conn.Lost(t)
		if err != nil {
			return nil, err
		}
		labels = append(labels, owners...)
	}
	if want := rulesOf(s.kept, IPTables); !want.empty() {
		var lost []string
		lost, err = ipTables{s.Host}.lost(want)
		labels = append(labels, lost...)
	}
	slices.Sort(labels)
	return slices.Compact(labels), err
}
