package nat

import (
	"errors"
	"fmt"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Attachment is the NAT that an attachment is to have.
type Attachment struct {
	Owner cni.Owner
	Stamp record.Stamp
	// Masquerade is that of its network; nil leaves what the record has of it unchanged.
	Masquerade        *Masquerade
	MasqueradeBackend Backend
	// Ports are its port mappings; nil leaves those in the record unchanged, and Ports
	// without Mappings removes them.
	Ports        *Ports
	PortsBackend Backend
	// Also is committed in the same transaction of nftables, or in one of its own before
	// the rules of iptables are made.
	Also Also
}

// Also is what another part of Trestle (the MAC check, say) changes in nftables at the same
// time, to save a transaction. The zero value changes nothing.
type Also struct {
	// Changes is called under the lock of the records.
	Changes func() (nft.Changes, error)
	// Done is called under the same lock after the changes were committed.
	Done func() error
}

func (a Also) isNothing() bool { return a.Changes == nil }

func (a Also) changes() (nft.Changes, error) {
	if a.Changes == nil {
		return nft.Changes{}, nil
	}
	return a.Changes()
}

func (a Also) done() error {
	if a.Done == nil {
		return nil
	}
	return a.Done()
}

// Add brings the kernel to what the attachment shall have. A port that another
// container has is an error with code 102 that names it; nothing is changed then. Where that
// container's namespace is about to go, its end is waited for. One
// that the same container has by another network stays with that one. It may be
// called again, also with other ports and another masquerade. Each step pushes
// its inverse to undo, which the caller runs if the ADD fails.
func (h *Host) Add(a Attachment, undo *cni.Undo) error {
	var ports *Ports
	if a.Ports != nil && len(a.Ports.Mappings) > 0 {
		ports = &Ports{}
		*ports = *a.Ports
		ports.Mappings = canonical(ports.Mappings)
		if err := ports.findBridge(); err != nil {
			return err
		}
		if err := h.refuseReference(ownedPorts{a.Owner, *ports}); err != nil {
			return err
		}
	}
	given, err := h.addWanted(a, ports, undo)
	for taken := (portTakenError{}); errors.As(err, &taken) && h.hasEnded(taken.holder); {
		given, err = h.addWanted(a, ports, undo)
	}
	if err != nil || given == nil || a.Ports == nil {
		return err
	}
	if err := letHairpin(given.Ports); err != nil {
		return err
	}
	return forgetFlows(given.Mappings, staleAtAdd)
}

// addWanted is Add under the lock, and gives the ports that the attachment has then.
func (h *Host) addWanted(a Attachment, ports *Ports, undo *cni.Undo) (*recordedPorts, error) {
	var wanted translation
	if ports != nil {
		wanted.Ports = &recordedPorts{Ports: *ports}
	}
	err := h.locked(func() error {
		if err := h.choose(a, &wanted); err != nil {
			return err
		}
		if ports := wanted.Ports; ports != nil && ports.Auto && ports.Backend == IPTables {
			h.followKubeProxy()
		}
		return h.add(&wanted, a, undo)
	})
	return wanted.Ports, err
}

// hasEnded waits, without the lock, for a holder's namespace that is about to go.
func (h *Host) hasEnded(s record.Stamp) bool {
	life, err := h.probe.AwaitEnd(s)
	return err == nil && life == record.Dead
}

// choose sets the backends of t.
func (h *Host) choose(a Attachment, t *translation) (err error) {
	if a.Masquerade != nil {
		t.Masquerade = &recordedMasquerade{Masquerade: *a.Masquerade}
		if t.Masquerade.Backend, err = h.resolve(a.MasqueradeBackend); err != nil {
			return err
		}
	}
	if t.Ports == nil {
		return nil
	}
	t.Ports.Auto = a.PortsBackend == Auto
	if t.Ports.Backend, err = h.portsBackend(a.PortsBackend); err != nil {
		return err
	}
	return t.Ports.fits(t.Ports.Backend)
}

// diffTargets describes which host ports are recorded with another container port or address.
func diffTargets(want, have []Mapping) []string {
	var diffs []string
	for _, w := range want {
		for _, h := range have {
			if w.Protocol == h.Protocol && w.Host == h.Host && w.Container != h.Container {
				diffs = append(diffs, fmt.Sprintf("mapping %s: have it lead to %s", w, h.Container))
			}
		}
	}
	return diffs
}

// canonical returns the mappings without duplicates.
func canonical(mappings []Mapping) []Mapping {
	var all []Mapping
	for _, m := range mappings {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// add runs under the lock.
func (h *Host) add(t *translation, a Attachment, undo *cni.Undo) error {
	if err := h.reconcileUnrecorded(cni.Valid{}); err != nil {
		return err
	}
	had, there, err := h.read(a.Owner)
	if err != nil {
		return err
	}
	if a.Masquerade == nil {
		t.Masquerade = had.Value.Masquerade
	}
	if a.Ports == nil {
		t.Ports = had.Value.Ports
	}
	if err := h.reserve(a.Owner, t); err != nil {
		return err
	}
	former, unreserved, err := h.reserved(a.Owner, had.Value)
	if err != nil {
		return err
	}
	undo.Push("take NAT back", func() error { return h.restoreRecord(a.Owner, had, there) })
	rec := attachmentRecord{Stamp: a.Stamp, Owner: a.Owner, Value: *t}
	if *t != (translation{}) || there {
		if err := h.write(rec); err != nil {
			return err
		}
	}
	also, err := a.Also.changes()
	if err != nil {
		return err
	}
	if t.Ports != nil {
		if err := h.reservations().take(ownedPorts{a.Owner, t.Ports.Ports}); err != nil {
			return err
		}
	}
	wanted := rec
	if a.Masquerade == nil {
		wanted.Value.Masquerade = nil // another plugin of the list has made it
	}
	if err := h.applyRecord(wanted, former, also.With(unreserved)); err != nil {
		return err
	}
	if err := a.Also.done(); err != nil {
		return err
	}
	return h.leave(had, rec)
}

// reserve removes from t the ports that the same container has by another network. A port
// that another container has is an error.
func (h *Host) reserve(o cni.Owner, t *translation) (err error) {
	if t.Ports == nil {
		return nil
	}
	owned := ownedPorts{o, t.Ports.Ports}
	if t.Ports.Mappings, err = h.reservations().free(owned); err != nil {
		return err
	}
	if len(t.Ports.Mappings) == 0 {
		t.Ports = nil
	}
	return nil
}

// applyRecord changes each backend from the previous record's state to the new record's.
func (h *Host) applyRecord(rec attachmentRecord, had translation, also nft.Changes) error {
	for _, backend := range []Backend{NFTables, IPTables} {
		c, err := h.changeTo(backend, rec, had)
		if err != nil {
			return err
		}
		if backend == NFTables {
			c.also = also.With(c.also)
		}
		switch {
		case c.want.empty() && c.unwanted.empty() && c.also.Empty():
		case backend == IPTables && c.want.empty():
			err = h.removeIPTables(c.unwanted.Ports)
		default:
			err = explainTaken(h.kernel(backend).apply(c))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// changeTo returns what applyRecord is to change in the backend.
func (h *Host) changeTo(backend Backend, rec attachmentRecord, had translation) (c change, err error) {
	c.want.Ports, c.unwanted.Ports = rec.Value.ports(rec.Owner, backend), had.ports(rec.Owner, backend)
	if m := rec.Value.Masquerade; m != nil && m.Backend == backend {
		rule, err := h.networkRule(rec.Owner.Network, *m)
		if err != nil {
			return c, err
		}
		c.want.Networks = []masqueradeRule{rule}
	}
	if backend == NFTables {
		c.also, err = h.loopback(rec.Value.ports(rec.Owner, IPTables), had.ports(rec.Owner, IPTables))
	}
	return c, err
}

func (h *Host) removeIPTables(unwanted []ownedPorts) error {
	var errs []error
	for _, p := range unwanted {
		errs = append(errs, ipTables{h}.remove(p))
	}
	return errors.Join(errs...)
}

// networkRule returns the network's masquerade with the policy m. For nftables it reads the
// records of other attachments only if the kernel is not known to have a masquerade that was
// made for the same m.
func (h *Host) networkRule(network string, m recordedMasquerade) (masqueradeRule, error) {
	complete := func() (masqueradeRule, error) {
		all, err := record.List[translation](h.store, place, network)
		return networkRule(network, m.Backend, m.Masquerade, all), err
	}
	if m.Backend == NFTables {
		return masqueradeRule{Network: network, Masquerade: m.Masquerade, asked: m.Masquerade, complete: complete}, nil
	}
	return complete()
}

// explainTaken turns a TakenError of nftables, about a port that nobody has reserved, into
// an error with code 102 that names the holder.
func explainTaken(err error) error {
	var taken *nft.TakenError
	if !errors.As(err, &taken) {
		return err
	}
	holder := "container " + taken.Holder
	if o, ok := cni.ParseOwner(taken.Holder); ok {
		holder = "container " + o.ContainerID + " of network " + o.Network
	}
	return cni.ConflictErrorf("%s: the host port is taken by %s, by an element of set %s of nftables and without a record; stop that container or choose another host port (trestle restore writes the missing record)",
		taken.Element.What, holder, taken.Element.Set)
}

// restoreRecord undoes add: the attachment gets its previous record, reservations and rules
// back, and loses all others. A port that another container has taken since then stays with
// that one, and is an error.
func (h *Host) restoreRecord(o cni.Owner, had attachmentRecord, there bool) error {
	return h.locked(func() error {
		now, _, err := h.read(o)
		if err != nil {
			return err
		}
		if !there {
			return h.release(now, o, translation{}, nft.Changes{})
		}
		had, taken := h.withoutTaken(had)
		if err := h.write(had); err != nil {
			return errors.Join(taken, err)
		}
		if had.Value.Ports != nil {
			if err := h.reservations().take(ownedPorts{o, had.Value.Ports.Ports}); err != nil {
				return errors.Join(taken, err)
			}
		}
		return errors.Join(taken, h.applyRecord(had, now.Value, nft.Changes{}), h.leave(now, had))
	})
}

// withoutTaken returns the record without the ports that another container has by now, and
// an error that names their holders. Its code is the failed ADD's business.
func (h *Host) withoutTaken(rec attachmentRecord) (attachmentRecord, error) {
	if rec.Value.Ports == nil {
		return rec, nil
	}
	ports := *rec.Value.Ports
	var left []Mapping
	var failed error
	for _, m := range ports.Mappings {
		one := ports.Ports
		one.Mappings = []Mapping{m}
		free, err := h.reservations().free(ownedPorts{rec.Owner, one})
		var taken portTakenError
		switch {
		case errors.As(err, &taken):
			failed = errors.Join(failed, errors.New(err.Error()))
		case err != nil: // whether it is taken is not known
			left, failed = append(left, m), errors.Join(failed, err)
		default:
			left = append(left, free...)
		}
	}
	ports.Mappings = left
	rec.Value.Ports = &ports
	if len(left) == 0 {
		rec.Value.Ports = nil
	}
	return rec, failed
}

// leave removes the reservations of ports that the previous record had and the new one has
// not.
func (h *Host) leave(had, now attachmentRecord) error {
	if had.Value.Ports == nil {
		return nil
	}
	gone := ownedPorts{had.Owner, had.Value.Ports.Ports}
	gone.Mappings = slices.DeleteFunc(slices.Clone(gone.Mappings), func(m Mapping) bool {
		return now.Value.Ports != nil && slices.Contains(now.Value.Ports.Mappings, m)
	})
	return h.reservations().giveUp(gone)
}

// Diff describes what differs from what Add makes.
func (h *Host) Diff(a Attachment) ([]string, error) {
	if a.Masquerade == nil && (a.Ports == nil || len(a.Ports.Mappings) == 0) {
		return nil, nil
	}
	old, err := h.isOld()
	if err == nil && old {
		err = h.locked(func() error { return nil }) // converts records of an earlier release
	}
	if err != nil {
		return nil, err
	}
	rec, there, err := h.read(a.Owner)
	if err != nil {
		return nil, err
	}
	var diffs []string
	if a.Masquerade != nil && (!there || rec.Value.Masquerade == nil) {
		diffs = append(diffs, fmt.Sprintf("record of %s as served by the masquerade of its network: want one, have none", a.Owner))
	}
	if a.Ports != nil {
		for _, m := range canonical(a.Ports.Mappings) {
			diff, err := h.reservations().difference(a.Owner, m)
			if err != nil {
				return nil, err
			}
			diffs = append(diffs, diff...)
		}
		if rec.Value.Ports != nil {
			diffs = append(diffs, a.Ports.diff(rec.Value.Ports)...)
			diffs = append(diffs, diffTargets(a.Ports.Mappings, rec.Value.Ports.Mappings)...)
		}
	}
	lost, err := h.checkKernel(a, rec)
	return append(diffs, lost...), err
}

// checkKernel compares the kernel with what the record says that the backends have.
func (h *Host) checkKernel(a Attachment, rec attachmentRecord) ([]string, error) {
	all, err := record.List[translation](h.store, place, a.Owner.Network)
	if err != nil {
		return nil, err
	}
	var diffs []string
	for _, backend := range []Backend{NFTables, IPTables} {
		var want ruleset
		if m := rec.Value.Masquerade; a.Masquerade != nil && m != nil && m.Backend == backend {
			want.Networks = []masqueradeRule{networkRule(a.Owner.Network, backend, *a.Masquerade, all)}
		}
		if a.Ports != nil {
			want.Ports = rec.Value.ports(a.Owner, backend)
		}
		if want.empty() {
			continue
		}
		lost, err := h.kernel(backend).diff(want)
		if err != nil {
			return nil, err
		}
		diffs = append(diffs, lost...)
	}
	if a.Ports == nil {
		return diffs, nil
	}
	lost, err := h.diffLoopback(rec.Value.ports(a.Owner, IPTables))
	return append(diffs, lost...), err
}
