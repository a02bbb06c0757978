package nat

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// snapshot is what records, reservations and the kernel hold, each read once, and what
// has been decided about it: which attachments are kept, which are gone. Only the
// liveness check costs a query for each attachment. It is made and used under the lock.
type snapshot struct {
	*Host
	network string // limits it to one network's attachments; "": all
	valid   cni.Valid

	records  []attachmentRecord
	elements []nft.Element     // in nftables
	reserved map[string]string // reservations: the record that each links to

	kept    []attachmentRecord
	gone    []cni.Owner
	taken   []string        // labels of attachments that had no record and were given one
	stale   []string        // labels without a live owner
	decided map[string]bool // the labels of the three above and their records' paths: whatever these have beyond what the kept want is removed
	idle    []NetworkRule   // of networks without a live attachment
	refused []string        // port mappings in records whose port another attachment holds, as text
}

// takeSnapshot reads everything. A record that cannot be read is reported in unread and
// does not affect the others.
func (h *Host) takeSnapshot(network string, valid cni.Valid) (s *snapshot, unread, err error) {
	s = &snapshot{Host: h, network: network, valid: valid, decided: map[string]bool{}}
	there, err := h.conn.Exists(inetTable()) // in this thread's namespace
	if err != nil {
		return s, nil, err
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		err = cni.Catch(func() (err error) {
			if s.reserved, err = h.reservations().all(); err == nil && there {
				s.elements, err = h.listTable()
			}
			return err
		})
	})
	s.records, unread = record.Sweep[translation](h.store, place, network)
	wait.Wait()
	return s, unread, err
}

// list returns all of our elements in the kernel.
func (h *Host) list() ([]nft.Element, error) {
	there, err := h.conn.Exists(inetTable())
	if err != nil || !there {
		return nil, err
	}
	return h.listTable()
}

func (h *Host) listTable() ([]nft.Element, error) {
	ports, err := h.conn.List(portsTable())
	if err != nil {
		return nil, err
	}
	loopback, err := h.conn.List(loopbackTable())
	return append(ports, loopback...), err
}

// decide takes a snapshot, adopts what has no record, and finds the stale attachments.
// What an error concerns is left unchanged; commit handles the rest.
func (h *Host) decide(network string, valid cni.Valid, lost bool) (*snapshot, error) {
	s, unread, err := h.takeSnapshot(network, valid)
	if err != nil {
		return nil, errors.Join(unread, err)
	}
	errs := []error{unread}
	if unread == nil { // an unreadable record may own any label
		errs = append(errs, s.adopt(lost))
	}
	return s, errors.Join(append(errs, s.findStale())...)
}

// unrecorded is what the kernel holds for an attachment or a network that has no record.
type unrecorded struct {
	elements []nft.Element
	chains   []foundChain
}

// adopt writes records for what the kernel holds without one, if a link, a lease, or the
// runtime's list shows that the owner is alive. The rest is stale. If records were lost, so is the
// masquerade of networks without a live attachment, which otherwise outlives the last
// container.
func (s *snapshot) adopt(lost bool) error {
	found, err := s.unrecorded(lost)
	if err != nil {
		return err
	}
	var stale []foundChain
	for label, u := range found {
		alive, err := s.isAlive(label)
		if err != nil {
			return err
		}
		network, isNetwork := strings.CutSuffix(label, "/")
		switch {
		case alive || s.valid.KeepsLabel(label):
			// a shortened label does not identify the owner
			if !isNetwork && !strings.Contains(label, "~") {
				err = s.takeIn(label, u, alive)
			}
		case isNetwork:
			s.idle = append(s.idle, NetworkRule{Network: network})
			s.stale, stale = append(s.stale, label), append(stale, u.chains...)
		default:
			s.markStale(label)
			stale = append(stale, u.chains...)
		}
		if err != nil {
			return err
		}
	}
	if old, err := s.isOld(); err != nil || old { // upgrade is still running and has not adopted all of it yet
		return errors.Join(err, removeChains(stale))
	}
	return errors.Join(removeChains(stale), ipTables{s.Host}.removeFormer())
}

// unrecorded returns such attachments by label and, if asked, such networks by theirs.
func (s *snapshot) unrecorded(networks bool) (map[string]*unrecorded, error) {
	known := make(map[string]bool, len(s.records))
	for _, rec := range s.records {
		known[rec.Owner.String()], known[cni.NetworkLabel(rec.Owner.Network)] = true, true
	}
	isOther := func(label string) bool {
		ofAnother := s.network != "" && !strings.HasPrefix(label, cni.NetworkLabel(s.network))
		return known[label] || ofAnother || !networks && strings.HasSuffix(label, "/")
	}
	all := map[string]*unrecorded{}
	of := func(label string) *unrecorded {
		if all[label] == nil {
			all[label] = &unrecorded{}
		}
		return all[label]
	}
	for _, e := range s.elements {
		if !isOther(e.Owner) {
			of(e.Owner).elements = append(of(e.Owner).elements, e)
		}
	}
	chains, err := ipTables{s.Host}.list()
	if err != nil {
		return nil, err
	}
	for label, own := range chains {
		of(label).chains = own
	}
	var rules []string
	if networks {
		rules, err = s.conn.Owners(inetTable(), postrouting)
	}
	for _, label := range rules {
		of(label)
	}
	maps.DeleteFunc(all, func(label string, _ *unrecorded) bool { return isOther(label) })
	return all, err
}

func (s *snapshot) markStale(label string) {
	s.stale = append(s.stale, label)
	s.decided[label] = true
}

// takeIn writes a record for what the kernel holds for an attachment.
func (s *snapshot) takeIn(label string, u *unrecorded, adopted bool) error {
	owner, _ := cni.ParseOwner(label) // a label that is alive is an owner's
	stamp, err := record.NewStamp("") // it proves this boot only
	if err != nil {
		return err
	}
	ports := portsOf(u.elements)
	if len(ports.Mappings) == 0 { // they are in iptables, with those of 127.0.0.1 in nftables
		ports.Backend = IPTables
		for _, c := range u.chains {
			c.table.read(c.chain, c.family, &ports.Ports)
		}
	}
	if len(ports.Mappings) == 0 {
		s.markStale(label)
		return nil
	}
	rec := attachmentRecord{Stamp: stamp, Owner: owner, Value: translation{Ports: &ports, Adopted: adopted}}
	s.records, s.taken = append(s.records, rec), append(s.taken, label)
	return s.write(rec)
}

// isAlive says whether a link or a lease shows that the label's owner is alive.
func (h *Host) isAlive(label string) (bool, error) {
	if h.alive == nil {
		return false, nil
	}
	return h.alive(label)
}

// findStale decides for each record whether its owner is alive. The iptables rules of
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

// isGone says whether the runtime's list leaves the attachment out or, without a list,
// whether its container is proved dead. What the list names is in use without asking the
// kernel.
func (s *snapshot) isGone(rec attachmentRecord) (bool, error) {
	if s.valid.Known {
		return rec.Value.Released || !s.valid.Keeps(rec.Owner), nil
	}
	return s.isDead(rec)
}

// keepHeld drops from a record the mappings that another attachment has reserved: the ADD
// was killed before it reserved them. A lost reservation is made again. path is the
// record's file.
func (s *snapshot) keepHeld(rec attachmentRecord, path string) (attachmentRecord, error) {
	if rec.Value.Ports == nil {
		return rec, nil
	}
	all := s.reservations()
	ports, lost := *rec.Value.Ports, OwnedPorts{Owner: rec.Owner}
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

// changes brings nftables to what the kept attachments need, and removes everything else
// that they, the gone ones and stale owners have there.
func (s *snapshot) changes() (nft.Changes, error) {
	want := rulesOf(s.kept, NFTables)
	loopback, err := s.loopback(rulesOf(s.kept, IPTables).Ports, nil)
	if err != nil {
		return nft.Changes{}, err
	}
	changes := changesOf(change{want: want, unwanted: Rules{Networks: s.idle}, also: loopback})
	if slices.ContainsFunc(s.elements, isOfPorts) { // an earlier release may have laid out these sets differently
		changes.Tables = natTables(append(want.Networks, s.idle...)...)
	}
	var spare []nft.Element // less what belongs to another owner by now
	changes.Create, spare = nft.Compare(changes.Create, s.elements)
	changes.Remove = slices.DeleteFunc(spare, func(e nft.Element) bool { return !s.decided[e.Owner] })
	return changes, nil
}

func isOfPorts(e nft.Element) bool { return e.Set != loopbackPorts && e.Set != loopbackAddresses }

// commit applies this in one transaction; records and reservations of the gone are
// removed last.
func (s *snapshot) commit() error {
	changes, err := s.changes()
	if err == nil {
		err = s.conn.Commit(changes, nobody)
	}
	if err != nil {
		return err
	}
	for _, o := range s.gone {
		err = errors.Join(err, s.store.Remove(place, o, nil))
	}
	return errors.Join(err, s.sweepReservations())
}

// sweepReservations removes reservations that are dangling, or that their record does not
// list.
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

// restoreIPTables adds the iptables rules that the kept attachments lack.
func (s *snapshot) restoreIPTables() error {
	want := rulesOf(s.kept, IPTables)
	if want.empty() {
		return nil
	}
	return ipTables{s.Host}.apply(change{want: want, recorded: true})
}

// heal adopts what the kernel holds without a record, at the first use after a boot or
// after /run was lost under running containers: a saved ruleset was loaded that leads to
// earlier containers. It costs something only then. An owner in the runtime's list of
// valid attachments counts as alive.
func (h *Host) heal(valid cni.Valid) error {
	lost, err := h.isLost()
	if err != nil || !lost {
		return err
	}
	s, unread, err := h.takeSnapshot("", valid)
	if err := errors.Join(unread, err); err != nil {
		return err
	}
	known := len(s.records)
	if err := s.adopt(true); err != nil {
		return err
	}
	s.records = s.records[known:] // the others are known to be alive or not
	s.valid = cni.Valid{}         // it covers one network and says nothing about others
	if err := errors.Join(s.findStale(), s.commit()); err != nil {
		return err
	}
	return h.noteIPTables()
}

// isLost says whether the kernel may hold something that never had a record.
func (h *Host) isLost() (bool, error) {
	lost, err := h.lostIPTables()
	if err != nil || lost {
		return lost, err
	}
	return h.lostRecords()
}

// Restored is a report of what Restore did.
type Restored struct {
	Networks []string // labels of those with a record, without "/"
	// Made are the labels of attachments whose mapped ports were restored, and of
	// networks (cni.NetworkLabel) whose masquerade was.
	Made     []string
	Released []string // their container is gone
	Taken    []string // they had no record, but a link or a lease
	Void     []string // only the kernel had anything of them
	Refused  []string // recorded port mappings whose port another attachment holds
}

// Restore adds from the records whatever the kernel has lost, after "nft flush ruleset"
// or a reload of firewalld, and removes what has no live owner. If nothing is missing it
// changes nothing. A record that cannot be restored is reported and does not affect the
// others.
func (h *Host) Restore() (done Restored, err error) {
	err = h.locked(func() error {
		done, err = h.restore()
		return err
	})
	return done, err
}

func (h *Host) restore() (done Restored, err error) {
	lost, err := h.isLost()
	if err != nil {
		return done, err
	}
	s, err := h.decide("", cni.Valid{}, lost)
	if s == nil {
		return done, err
	}
	done, missingErr := s.missing()
	err = errors.Join(err, missingErr, s.commit(), s.restoreIPTables())
	if err == nil && lost {
		err = h.noteIPTables()
	}
	return done, err
}

// missing reports what commit and restoreIPTables are going to do.
func (s *snapshot) missing() (Restored, error) {
	done := Restored{Taken: s.taken, Void: s.stale, Refused: s.refused}
	for _, rec := range s.kept {
		done.Networks = append(done.Networks, strings.TrimSuffix(cni.NetworkLabel(rec.Owner.Network), "/"))
	}
	for _, o := range s.gone {
		done.Released = append(done.Released, o.String())
	}
	changes, err := s.changes()
	if err != nil {
		return done, err
	}
	for _, e := range changes.Create {
		done.Made = append(done.Made, e.Owner)
	}
	for _, t := range changes.Tables {
		owners, err := s.conn.Lost(t)
		if err != nil {
			return done, err
		}
		done.Made = append(done.Made, owners...)
	}
	want := rulesOf(s.kept, IPTables)
	if !want.empty() {
		var lost []string
		lost, err = ipTables{s.Host}.lost(want)
		done.Made = append(done.Made, lost...)
	}
	slices.Sort(done.Made)
	done.Made = slices.Compact(done.Made)
	return done, err
}

// GC releases every attachment of the network that valid does not keep, found by its
// record or in the kernel, and restores what the others have lost. If the runtime sent no
// list, only what is proved dead is released. An empty list means that nobody uses the
// network: its masquerade is removed too.
func (h *Host) GC(network string, valid cni.Valid) error {
	return h.locked(func() error {
		healErr := h.heal(valid)
		s, err := h.decide(network, valid, false)
		if s == nil {
			return errors.Join(healErr, err)
		}
		err = errors.Join(healErr, err, s.commit(), s.restoreIPTables())
		if valid.IsEmpty() && len(s.kept) == 0 {
			err = errors.Join(err, h.forgetNetwork(network))
		}
		return err
	})
}
