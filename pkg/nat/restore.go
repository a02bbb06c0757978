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

// survey is what records, reservations and the kernel say, each read once, and what is
// to become of it. What takes a question for each attachment is the proof that it is
// alive. It is made and used under the lock.
type survey struct {
	*Host
	network string // whose attachments it is about; "": everybody's
	valid   cni.Valid

	records  []attachmentRecord
	elements []nft.Element     // in nftables
	reserved map[string]string // reservations: the record that each leads to

	kept    []attachmentRecord
	gone    []cni.Owner
	taken   []string        // labels of those that had no record, and have one now
	void    []string        // labels that nobody stands for
	decided map[string]bool // the labels of all three, and paths of their records: what they have and none of the kept wants goes
	idle    []NetworkRule   // of networks that nobody stands for
	refused []string        // port mappings of records whose port another has, for people
}

// look reads all of it. The error of a record that cannot be read is kept apart: it
// harms no other.
func (h *Host) look(network string, valid cni.Valid) (s *survey, unread, err error) {
	s = &survey{Host: h, network: network, valid: valid, decided: map[string]bool{}}
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

// list are all elements of ours in the kernel.
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

// survey looks, takes in what no record tells of, and judges who is gone. What the error
// is about is left unchanged; commit is for the rest.
func (h *Host) survey(network string, valid cni.Valid, anew bool) (*survey, error) {
	s, unread, err := h.look(network, valid)
	if err != nil {
		return nil, errors.Join(unread, err)
	}
	errs := []error{unread}
	if unread == nil { // whose label it may be
		errs = append(errs, s.adopt(anew))
	}
	return s, errors.Join(append(errs, s.judge())...)
}

// unrecorded is what the kernel has of an attachment, or a network, that no record tells
// of.
type unrecorded struct {
	elements []nft.Element
	chains   []foundChain
}

// adopt makes records of what is in the kernel and has none, where a link, a lease, or
// the runtime's list stands for it. The rest is void; so is, if anew, the masquerade of
// networks that nobody stands for, which otherwise outlives the last container.
func (s *survey) adopt(anew bool) error {
	found, err := s.unrecorded(anew)
	if err != nil {
		return err
	}
	var void []foundChain
	for label, u := range found {
		stands, err := s.vouches(label)
		if err != nil {
			return err
		}
		network, isNetwork := strings.CutSuffix(label, "/")
		switch {
		case stands || s.valid.KeepsLabel(label):
			// a label that was shortened does not tell whose record to make
			if !isNetwork && !strings.Contains(label, "~") {
				err = s.takeIn(label, u, stands)
			}
		case isNetwork:
			s.idle = append(s.idle, NetworkRule{Network: network})
			s.void, void = append(s.void, label), append(void, u.chains...)
		default:
			s.isVoid(label)
			void = append(void, u.chains...)
		}
		if err != nil {
			return err
		}
	}
	if old, err := s.isOld(); err != nil || old { // in the middle of upgrade, which has not taken over all of it yet
		return errors.Join(err, removeChains(void))
	}
	return errors.Join(removeChains(void), ipTables{s.Host}.removeFormer())
}

// unrecorded are those attachments by their labels and, if asked for, networks by theirs.
func (s *survey) unrecorded(networks bool) (map[string]*unrecorded, error) {
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

func (s *survey) isVoid(label string) {
	s.void = append(s.void, label)
	s.decided[label] = true
}

// takeIn makes a record of what the kernel has of an attachment.
func (s *survey) takeIn(label string, u *unrecorded, byVouch bool) error {
	owner, _ := cni.ParseOwner(label) // nobody stands for what is no owner's
	stamp, err := record.NewStamp("") // which proves nothing but this boot
	if err != nil {
		return err
	}
	ports := portsOf(u.elements)
	if len(ports.Mappings) == 0 { // iptables has them, with 127.0.0.1 in nftables
		ports.Backend = IPTables
		for _, c := range u.chains {
			c.table.read(c.chain, c.family, &ports.Ports)
		}
	}
	if len(ports.Mappings) == 0 {
		s.isVoid(label)
		return nil
	}
	rec := attachmentRecord{Stamp: stamp, Owner: owner, Value: translation{Ports: &ports, ByVouch: byVouch}}
	s.records, s.taken = append(s.records, rec), append(s.taken, label)
	return s.write(rec)
}

// vouches says whether a link or a lease stands for what has that label.
func (h *Host) vouches(label string) (bool, error) {
	if h.vouch == nil {
		return false, nil
	}
	return h.vouch(label)
}

// judge says of each record whether somebody stands for it. What the gone have in
// iptables is removed at once; where that fails, the record stays.
func (s *survey) judge() error {
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

// isGone says whether the list does not keep the attachment or, where there is none, its
// death is proved. What the runtime names is in use, and the kernel is not asked for it.
func (s *survey) isGone(rec attachmentRecord) (bool, error) {
	if s.valid.Known {
		return rec.Value.Released || !s.valid.Keeps(rec.Owner), nil
	}
	return s.isDead(rec)
}

// keepHeld leaves out of a record the mappings whose reservation another has: an ADD
// was killed before it reserved them; path is the record's. A reservation that was lost is made again.
func (s *survey) keepHeld(rec attachmentRecord, path string) (attachmentRecord, error) {
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

// changes bring nftables to what the kept shall have, and take away what else they, the
// gone and nobody have there.
func (s *survey) changes() (nft.Changes, error) {
	want := rulesOf(s.kept, NFTables)
	loopback, err := s.loopback(rulesOf(s.kept, IPTables).Ports, nil)
	if err != nil {
		return nft.Changes{}, err
	}
	changes := changesOf(change{want: want, unwanted: Rules{Networks: s.idle}, also: loopback})
	if slices.ContainsFunc(s.elements, isOfPorts) { // whoever's, they are in sets that this release may have another idea of
		changes.Tables = natTables(append(want.Networks, s.idle...)...)
	}
	var spare []nft.Element // but what is another's by now
	changes.Create, spare = nft.Compare(changes.Create, s.elements)
	changes.Remove = slices.DeleteFunc(spare, func(e nft.Element) bool { return !s.decided[e.Owner] })
	return changes, nil
}

func isOfPorts(e nft.Element) bool { return e.Set != loopbackPorts && e.Set != loopbackAddresses }

// commit makes it so, by one transaction; records and reservations of the gone go last.
func (s *survey) commit() error {
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

// sweepReservations removes those that lead nowhere, or to a record that says nothing of
// them.
func (s *survey) sweepReservations() error {
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
		void, err := path == "" || s.decided[path], error(nil)
		if !void {
			void, err = isDangling(file)
		}
		if err == nil && void {
			err = drop(file)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// restoreIPTables makes again what iptables lacks of the kept.
func (s *survey) restoreIPTables() error {
	want := rulesOf(s.kept, IPTables)
	if want.empty() {
		return nil
	}
	return ipTables{s.Host}.apply(change{want: want, recorded: true})
}

// heal takes in what the kernel tells of and no record does, at the first use after a
// boot or the loss of /run under running containers: a ruleset of before was loaded, and
// leads to containers of before. It costs something only then. A runtime's list of what is
// valid vouches, too.
func (h *Host) heal(valid cni.Valid) error {
	lost, err := h.isLost()
	if err != nil || !lost {
		return err
	}
	s, unread, err := h.look("", valid)
	if err := errors.Join(unread, err); err != nil {
		return err
	}
	known := len(s.records)
	if err := s.adopt(true); err != nil {
		return err
	}
	s.records = s.records[known:] // of the others it is known who stands for them
	s.valid = cni.Valid{}         // which is of one network, and says nothing of the others' containers
	if err := errors.Join(s.judge(), s.commit()); err != nil {
		return err
	}
	return h.noteIPTables()
}

// isLost says whether there may be something in the kernel of which no record ever told.
func (h *Host) isLost() (bool, error) {
	lost, err := h.lostIPTables()
	if err != nil || lost {
		return lost, err
	}
	return h.lostRecords()
}

// Restored is what Restore did, for people.
type Restored struct {
	Networks []string // the labels of those with a record, without "/"
	// Made are the labels of attachments whose mapped ports, and of networks
	// (cni.NetworkLabel) whose masquerade was made again.
	Made     []string
	Released []string // whose container is gone
	Taken    []string // who had no record, and a link or a lease
	Void     []string // of whom the kernel told alone
	Refused  []string // recorded port mappings that another has: whose, which, and who
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
	lost, err := h.isLost()
	if err != nil {
		return done, err
	}
	s, err := h.survey("", cni.Valid{}, lost)
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

// missing says what commit and restoreIPTables are going to do.
func (s *survey) missing() (Restored, error) {
	done := Restored{Taken: s.taken, Void: s.void, Refused: s.refused}
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

// GC releases every attachment of the network that valid does not keep, by its record
// or by what the kernel says, and makes again what was lost of the others. Where the
// runtime sent no list, only what is proved dead goes. With an empty list nobody uses
// the network, and its masquerade goes too.
func (h *Host) GC(network string, valid cni.Valid) error {
	return h.locked(func() error {
		healErr := h.heal(valid)
		s, err := h.survey(network, valid, false)
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
