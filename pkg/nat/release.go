package nat

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// Release deletes the attachment's port mappings and its record. The masquerade of its
// network, the table and the shared chains stay; see GC. also is committed in the same
// transaction of nftables. Release may be called again, and does little if nothing is left.
// Rules of iptables that cannot be removed are left for GC, with a warning: if DEL failed,
// the plugins before this one in the list could not clean up.
func (h *Host) Release(o cni.Owner, also Also) error {
	return h.releaseTo(o, also, func(attachmentRecord) translation { return translation{} })
}

// ReleasePorts deletes the attachment's port mappings, and keeps its masquerade.
func (h *Host) ReleasePorts(o cni.Owner) error {
	return h.releaseTo(o, Also{}, func(rec attachmentRecord) translation { return translation{Masquerade: rec.Value.Masquerade} })
}

// ReleaseLost deletes the owner's port mappings if its record was lost. It looks up the host
// ports that s asks for, in nftables and among the reservations. (ReleaseReference finds
// chains of iptables by their names.) If there is a record it does nothing.
func (h *Host) ReleaseLost(o cni.Owner, s PortSettings) error {
	if known, err := h.Known(o); err != nil || known || !s.Any() {
		return err
	}
	anywhere := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	ports, err := s.For(anywhere, nil)
	if err != nil {
		return nil //nolint:nilerr // no ADD can have mapped such ports
	}
	ports.SNAT, ports.HostAddress = true, loopback4() // any address: elements are looked up by key
	asked := ownedPorts{o, ports}
	isOthers := func(e nft.Element) bool { return e.Owner != o.String() }
	found, err := h.conn.Find(asked.elements())
	held, heldErr := h.reservations().held(asked)
	if err := errors.Join(err, heldErr); err != nil || len(slices.DeleteFunc(found, isOthers))+len(held) == 0 {
		return err
	}
	return h.locked(func() error {
		if _, there, err := h.read(o); err != nil || there {
			return err // an ADD has written one meanwhile
		}
		all, err := h.list()
		if err == nil {
			err = h.conn.Commit(nft.Changes{Remove: slices.DeleteFunc(all, isOthers)}, nil)
		}
		if err != nil {
			return err
		}
		return h.reservations().giveUp(asked)
	})
}

// releaseTo reduces the attachment's record and rules to what remains returns.
func (h *Host) releaseTo(o cni.Owner, also Also, remains func(attachmentRecord) translation) error {
	if something, err := h.mayHave(o); err != nil || !something && also.isNothing() {
		return err
	}
	var mappings []Mapping
	err := h.locked(func() error {
		if err := h.reconcileUnrecorded(cni.Valid{}); err != nil {
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

// releaseAlso releases also in the same transaction. If also's changes cannot be made out, it
// releases NAT alone.
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

// mayHave says, without the lock, whether there may be anything to release: a record, or
// rules whose records were lost. Chains of iptables do not count, since ReleaseReference finds
// them by their names.
func (h *Host) mayHave(o cni.Owner) (bool, error) {
	if known, err := h.Known(o); err != nil || known {
		return known, err
	}
	return h.lostRecords()
}

// Known says whether the attachment has a record, whatever the backend, or may have one of an
// earlier release. The kernel is not asked.
func (h *Host) Known(o cni.Owner) (bool, error) {
	if there, err := h.store.Has(place, o); err != nil || there {
		return there, err
	}
	return h.isOld()
}

// release is Release under the lock. The record is removed last, so that after an error or a
// kill another call does the rest.
func (h *Host) release(rec attachmentRecord, o cni.Owner, left translation, also nft.Changes) error {
	var unwanted translation
	if left.Ports == nil {
		unwanted.Ports = rec.Value.Ports
	}
	unwanted, unreserved, err := h.reserved(o, unwanted)
	if err != nil {
		return err
	}
	if err := h.applyRecord(attachmentRecord{Owner: o}, unwanted, also.With(unreserved)); err != nil {
		return err
	}
	if unwanted.Ports != nil {
		if err := h.reservations().drop(unwanted.Ports.Mappings); err != nil {
			return err
		}
	}
	if left == (translation{}) {
		return h.store.Remove(place, o, nil)
	}
	return h.write(attachmentRecord{Stamp: rec.Stamp, Owner: o, Value: left})
}

// reserved is what a record has without the host ports that are not reserved for the owner: another
// container has them by now, maybe with the same address, whose elements differ by the owner alone.
// unreserved removes what the kernel still has of the owner for these ports: a reservation was
// lost.
func (h *Host) reserved(o cni.Owner, t translation) (_ translation, unreserved nft.Changes, err error) {
	if t.Ports == nil {
		return t, unreserved, nil
	}
	ports := *t.Ports
	if ports.Mappings, err = h.reservations().held(ownedPorts{o, t.Ports.Ports}); err != nil {
		return t, unreserved, err
	}
	if len(ports.Mappings) == len(t.Ports.Mappings) {
		return t, unreserved, nil
	}
	lost := ownedPorts{o, t.Ports.Ports}
	lost.Mappings = slices.DeleteFunc(slices.Clone(lost.Mappings), func(m Mapping) bool { return slices.Contains(ports.Mappings, m) })
	found, err := h.conn.Find(lost.elements())
	unreserved.Remove = slices.DeleteFunc(found, func(e nft.Element) bool { return e.Owner != o.String() })
	t.Ports = &ports
	return t, unreserved, err
}
