package nat

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Release deletes what the attachment has: port mappings, and its part in the
// masquerade of its network. The network's rule, and what holds rules, outlive it; see
// GC. also goes into the same transaction. It may be called again, and does little if
// there is nothing. What no program of iptables' takes away is left for GC: a DEL that
// fails would keep the plugins behind it from cleaning up.
func (h *Host) Release(o cni.Owner, also Also) error {
	return h.releaseTo(o, also, func(attachmentRecord) translation { return translation{} })
}

// ReleasePorts deletes the attachment's port mappings only.
func (h *Host) ReleasePorts(o cni.Owner) error {
	return h.releaseTo(o, Also{}, func(rec attachmentRecord) translation { return translation{Masquerade: rec.Value.Masquerade} })
}

// releaseTo leaves of the attachment's record what remains says.
func (h *Host) releaseTo(o cni.Owner, also Also, remains func(attachmentRecord) translation) error {
	if something, err := h.mayHave(o); err != nil || !something && also.isNothing() {
		return err
	}
	var mappings []Mapping
	err := h.locked(func() error {
		if err := h.heal(); err != nil {
			return err
		}
		rec, _, err := h.read(o)
		if err != nil {
			return err
		}
		left := remains(rec)
		if rec.Value.Ports != nil && left.Ports == nil {
			mappings = rec.Value.Ports.Mappings
		}
		err = h.releaseAlso(rec, o, left, also)
		if unreachable := (unreachableError{}); errors.As(err, &unreachable) {
			h.warn("%s: left for GC: %v", o, unreachable)
			rec.Value.Released = true
			err = h.write(rec)
		}
		return err
	})
	return errors.Join(err, forgetFlows(mappings, staleAtDel))
}

// releaseAlso goes on with the one where the other fails.
func (h *Host) releaseAlso(rec attachmentRecord, o cni.Owner, left translation, also Also) error {
	changes, err := also.changes()
	if err != nil {
		return errors.Join(err, h.release(rec, o, left, nft.Changes{}))
	}
	if err := h.release(rec, o, left, changes); err != nil {
		return err
	}
	return also.done()
}

// mayHave says, without the lock, whether there may be anything to release: a record,
// or elements whose records were lost. Chains of iptables ReleaseReference finds by their
// names.
func (h *Host) mayHave(o cni.Owner) (bool, error) {
	if known, err := h.Known(o); err != nil || known {
		return known, err
	}
	return h.lostRecords()
}

// Known says whether we have a record of the attachment, whatever the backend, or records
// of an earlier release that may tell of it. The kernel is not asked.
func (h *Host) Known(o cni.Owner) (bool, error) {
	if _, there, err := h.read(o); err != nil || there {
		return there, err
	}
	return h.isOld()
}

// lostRecords says whether our table is there and nothing tells of it.
func (h *Host) lostRecords() (bool, error) {
	known, err := h.isKnown()
	if err != nil || known {
		return false, err
	}
	return h.conn.Exists(inetTable())
}

// isKnown says whether we have made anything in our table since the records began.
func (h *Host) isKnown() (bool, error) {
	for _, t := range natTables() {
		if known, err := h.conn.IsKnown(t); err != nil || known {
			return known, err
		}
	}
	return false, nil
}

// release runs under the lock. What it does not reach, for an error or a kill,
// another call does: the record goes last.
func (h *Host) release(rec attachmentRecord, o cni.Owner, left translation, also nft.Changes) error {
	var unwanted translation
	if rec.Value.Ports != nil && left.Ports == nil {
		held, err := h.reservations().held(OwnedPorts{o, rec.Value.Ports.Ports})
		if err != nil {
			return err
		}
		ports := *rec.Value.Ports
		ports.Mappings = held
		unwanted.Ports = &ports
	}
	if err := h.applyRecord(attachmentRecord{Owner: o}, unwanted, also); err != nil {
		return err
	}
	next := attachmentRecord{Stamp: rec.Stamp, Owner: o, Value: left}
	if err := h.leave(rec, next); err != nil {
		return err
	}
	if left == (translation{}) {
		return h.store.Remove(place, o, nil)
	}
	return h.write(next)
}

// heal takes in what the kernel tells of and no record does: where /run was lost under
// running containers, or a ruleset of an earlier boot was loaded. An attachment that a
// link vouches for gets its record back; what has nobody goes. It costs
// something only where our table is there and unknown.
func (h *Host) heal() error {
	if err := h.healIPTables(); err != nil {
		return err
	}
	lost, err := h.lostRecords()
	if err != nil || !lost {
		return err
	}
	return h.adopt("", cni.Valid{})
}

// adopt is heal for one network, or for all; a runtime's list of what is valid vouches,
// too.
func (h *Host) adopt(network string, valid cni.Valid) error {
	elements, err := h.list()
	if err != nil {
		return err
	}
	byOwner := map[string][]nft.Element{}
	for _, e := range elements {
		byOwner[e.Owner] = append(byOwner[e.Owner], e)
	}
	stamp, err := record.NewStamp("") // which proves nothing but this boot
	if err != nil {
		return err
	}
	var void []nft.Element
	for label, own := range byOwner {
		if network != "" && !hasNetwork(label, network) {
			continue
		}
		recorded, err := h.recorded(label)
		if err != nil {
			return err
		}
		if recorded {
			continue
		}
		alive, err := h.stands(label)
		if err != nil {
			return err
		}
		owner, whole := cni.ParseOwner(label)
		switch {
		case !alive && !valid.KeepsLabel(label):
			void = append(void, own...)
		case whole: // a label that was shortened does not tell whose record to make
			if err := h.takeIn(owner, stamp, own, alive); err != nil {
				return err
			}
		}
	}
	if len(elements) == 0 {
		return nil
	}
	return h.conn.Commit(nft.Changes{Tables: natTables(), Remove: void}, h.stands)
}

// list are all elements of ours in the kernel.
func (h *Host) list() ([]nft.Element, error) {
	ports, err := h.conn.List(portsTable())
	if err != nil {
		return nil, err
	}
	loopback, err := h.conn.List(loopbackTable())
	return append(ports, loopback...), err
}

func hasNetwork(label, network string) bool {
	prefix := cni.NetworkLabel(network)
	return len(label) > len(prefix) && label[:len(prefix)] == prefix
}

// takeIn makes a record of an attachment's elements, for which a link stands or the
// runtime's list.
func (h *Host) takeIn(o cni.Owner, stamp record.Stamp, elements []nft.Element, byLink bool) error {
	rec, there, err := h.read(o)
	if err != nil {
		return err
	}
	if !there {
		rec = attachmentRecord{Stamp: stamp, Owner: o}
	}
	ports := portsOf(elements)
	if len(ports.Mappings) == 0 { // those that iptables has, with 127.0.0.1 in nftables
		found, err := ipTables{h}.foundOf(o)
		if err != nil {
			return err
		}
		found.HostAddress = ports.HostAddress
		ports = recordedPorts{IPTables, found}
	}
	rec.Value.Ports, rec.Value.ByLink = &ports, byLink
	if err := h.write(rec); err != nil {
		return err
	}
	_, err = h.keepHeld(rec)
	return err
}

// portsOf reads an attachment's port mappings back from its elements.
func portsOf(elements []nft.Element) recordedPorts {
	ports := recordedPorts{Backend: NFTables, Ports: Ports{PortOptions: PortOptions{MarkBit: defaultMarkBit}}}
	for _, e := range elements {
		if m, ok := mappingOf(e); ok {
			ports.Mappings = append(ports.Mappings, m)
		}
		switch strings.TrimRight(e.Set, "46") {
		case hairpinPorts, hairpinAddresses:
			ports.SNAT, ports.Bridge = true, textOf(e.Key)
		case loopbackPorts, loopbackAddresses:
			ports.HostAddress, _ = netip.AddrFromSlice(e.Value) // of the length that an address has
		case masqueradePorts, masqueradeAddresses:
			ports.SNAT, ports.MasqueradeAll = true, true
		}
	}
	return ports
}

// GC releases every attachment of the network that valid does not keep, by its record
// or by what the kernel says. Where the runtime sent no list, only what is proved dead
// goes. With an empty list nobody uses the network, and its masquerade goes too.
func (h *Host) GC(network string, valid cni.Valid) error {
	return h.locked(func() error {
		there, err := h.conn.Exists(inetTable())
		if err != nil {
			return err
		}
		var errs []error
		if there {
			errs = append(errs, h.adopt(network, valid))
		}
		errs = append(errs, ipTables{h}.adopt(network, valid))
		all, err := record.List[translation](h.store, place, network)
		errs = append(errs, err)
		var kept []attachmentRecord
		for _, rec := range all {
			gone, err := h.isGone(rec, valid)
			errs = append(errs, err)
			if gone {
				errs = append(errs, h.release(rec, rec.Owner, translation{}, nft.Changes{}))
				continue
			}
			if rec, err = h.keepHeld(rec); err == nil {
				kept = append(kept, rec)
			}
			errs = append(errs, err)
		}
		errs = append(errs, record.Prune[translation](h.store, place), h.reservations().sweep())
		if valid.IsEmpty() && len(kept) == 0 {
			errs = append(errs, h.forgetNetwork(network))
		}
		return errors.Join(append(errs, h.remake(kept))...)
	})
}

// isGone says whether the list does not keep the attachment, or its death is proved.
func (h *Host) isGone(rec attachmentRecord, valid cni.Valid) (bool, error) {
	if valid.Known && !valid.Keeps(rec.Owner) {
		return true, nil
	}
	return h.isDead(rec)
}

// remake makes again what a flush has taken of the attachments'.
func (h *Host) remake(kept []attachmentRecord) error {
	_, iptablesErr := h.restoreBackend(IPTables, kept)
	_, loopbackErr := h.restoreLoopback(kept)
	return errors.Join(iptablesErr, loopbackErr, h.remakeElements(kept))
}

// remakeElements is restoreBackend for nftables, by one listing rather than a question
// for each element.
func (h *Host) remakeElements(kept []attachmentRecord) error {
	want, err := rulesOf(kept, NFTables)
	if err != nil || want.empty() {
		return err
	}
	found, err := h.list()
	if err != nil {
		return err
	}
	changes := changesOf(change{want: want})
	changes.Create = nft.Lacking(changes.Create, found)
	return h.conn.Commit(changes, nobody)
}

// forgetNetwork removes the masquerade of a network that nobody uses, and all that
// holds rules where there are no others.
func (h *Host) forgetNetwork(network string) error {
	idle := change{unwanted: Rules{Networks: []NetworkRule{{Network: network}}}}
	var errs []error
	if there, err := h.conn.Exists(inetTable()); err != nil || there {
		errs = append(errs, err, nfTables{h}.apply(idle), h.conn.DeleteIdle(inetTable()))
	}
	return errors.Join(append(errs, ipTables{h}.forget(network))...)
}
