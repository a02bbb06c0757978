package nat

import (
	"errors"
	"slices"
	"sync"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// snapshot has the records, the reservations and the elements in the kernel, each read once,
// and what was decided about them: which attachments are kept, and which are gone. Only the
// liveness check takes a request for each attachment. It is made and used under the lock.
type snapshot struct {
	*Host
	network string // the network whose attachments it is about; "": all
	valid   cni.Valid
	exempt  bool // kube-proxy's services must be spared

	records  []attachmentRecord
	elements []nft.Element     // in nftables
	reserved map[string]string // reservations: the record that each links to

	kept    []attachmentRecord
	gone    []cni.Owner
	taken   []string         // labels of attachments that had no record and were given one
	stale   []string         // labels without a live owner
	decided map[string]bool  // the labels of the kept, gone and stale attachments, and their records' paths: what these have and the kept do not want is removed
	idle    []masqueradeRule // of networks without a live attachment
	refused []string         // port mappings in records whose port another attachment holds, as text
}

// takeSnapshot reads records, reservations and elements. unread is about records that cannot
// be read; the others are in the snapshot.
func (h *Host) takeSnapshot(network string, valid cni.Valid) (s *snapshot, unread, err error) {
	s = &snapshot{Host: h, network: network, valid: valid, exempt: mustExempt(), decided: map[string]bool{}}
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

// list returns all elements of NAT in the kernel.
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

// decide takes a snapshot, adopts what has no record, and finds the stale attachments. What
// an error is about stays as it is, and commit changes the rest; without a snapshot there is
// nothing to commit.
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

// changes returns what the kept attachments need in nftables, and removes all other elements
// of attachments that were decided about.
func (s *snapshot) changes() (nft.Changes, error) {
	want := rulesOf(s.kept, NFTables)
	loopback, err := s.loopback(rulesOf(s.kept, IPTables).Ports, nil)
	if err != nil {
		return nft.Changes{}, err
	}
	changes := changesOf(change{want: want, unwanted: ruleset{Networks: s.idle}, also: loopback})
	if slices.ContainsFunc(s.elements, isOfPorts) { // in an earlier release these sets may have had another layout
		changes.Tables = natTables(append(want.Networks, s.idle...)...)
	}
	var spare []nft.Element // a key that is wanted is not among them, whoever has it now
	changes.Create, spare = nft.Compare(changes.Create, s.elements)
	changes.Remove = slices.DeleteFunc(spare, func(e nft.Element) bool { return !s.decided[e.Owner] })
	return changes, nil
}

func isOfPorts(e nft.Element) bool { return e.Set != loopbackPorts && e.Set != loopbackAddresses }

// commit makes these changes in one transaction. After that it removes records and
// reservations of attachments that are gone.
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
