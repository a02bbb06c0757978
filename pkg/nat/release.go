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
func (h *Host) Release(o cni.Owner, also nft.Changes) error {
	return h.releaseTo(o, also, func(attachmentRecord) translation { return translation{} })
}

// ReleasePorts deletes the attachment's port mappings only.
func (h *Host) ReleasePorts(o cni.Owner) error {
	return h.releaseTo(o, nft.Changes{}, func(rec attachmentRecord) translation { return translation{Masquerade: rec.Value.Masquerade} })
}

// releaseTo leaves of the attachment's record what remains says.
func (h *Host) releaseTo(o cni.Owner, also nft.Changes, remains func(attachmentRecord) translation) error {
	if something, err := h.mayHave(o); err != nil || !something && also.Empty() {
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
		err = h.release(rec, o, left)
		if unreachable := (unreachableError{}); errors.As(err, &unreachable) {
			h.warn("%s: left for GC: %v", o, unreachable)
			rec.Value.Released = true
			err = h.write(rec)
		}
		return errors.Join(h.commitAlso(also), err)
	})
	return errors.Join(err, forgetFlows(mappings, staleAtDel))
}

// commitAlso makes changes that came along; a kernel without nf_tables has nothing
// that could be deleted.
func (h *Host) commitAlso(also nft.Changes) error {
	err := h.conn.Commit(also, h.stands)
	if errors.Is(err, nft.ErrUnsupported) {
		return nil
	}
	return err
}

// mayHave says, without the lock, whether there may be anything to release: a record,
// or elements whose records were lost. Chains of iptables ReleaseReference finds by their
// names.
func (h *Host) mayHave(o cni.Owner) (bool, error) {
	if _, there, err := h.read(o); err != nil || there {
		return there, err
	}
	if old, err := h.isOld(); err != nil || old {
		return old, err
	}
	return h.lostRecords()
}

// lostRecords says whether our table is there and nothing tells of it.
func (h *Host) lostRecords() (bool, error) {
	known, err := h.conn.IsKnown(inetTable())
	if err != nil || known {
		return false, err
	}
	return h.conn.Exists(inetTable())
}

// release runs under the lock. What it does not reach, for an error or a kill,
// another call does: the record goes last.
func (h *Host) release(rec attachmentRecord, o cni.Owner, left translation) error {
	if rec.Value.Ports != nil && left.Ports == nil {
		owned := OwnedPorts{o, rec.Value.Ports.Ports}
		held, err := h.reservations().held(owned)
		if err != nil {
			return err
		}
		owned.Mappings = held
		if rec.Value.Ports.Backend == IPTables {
			err = ipTables{h}.remove(owned)
		} else {
			err = nfTables{h}.apply(change{unwanted: Rules{Ports: []OwnedPorts{owned}}})
		}
		if err != nil {
			return err
		}
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
// lease or a link vouches for gets its record back; what has nobody goes. It costs
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
		owner, ok := cni.ParseOwner(label)
		if !ok || !alive && !valid.KeepsLabel(label) {
			void = append(void, own...)
			continue
		}
		if err := h.takeIn(owner, stamp, own); err != nil {
			return err
		}
	}
	if len(elements) == 0 {
		return nil
	}
	return h.conn.Commit(nft.Changes{Tables: []nft.Table{portsTable(), loopbackTable()}, Remove: void}, h.stands)
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

// takeIn makes a record of an attachment's elements.
func (h *Host) takeIn(o cni.Owner, stamp record.Stamp, elements []nft.Element) error {
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
	rec.Value.Ports = &ports
	if err := h.write(rec); err != nil {
		return err
	}
	return h.reservations().take(OwnedPorts{o, ports.Ports})
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
		kept := 0
		for _, rec := range all {
			gone := valid.Known && !valid.Keeps(rec.Owner)
			if !gone {
				dead, err := h.isDead(rec)
				errs = append(errs, err)
				gone = dead
			}
			if !gone {
				kept++
				continue
			}
			errs = append(errs, h.release(rec, rec.Owner, translation{}))
		}
		errs = append(errs, h.reservations().sweep())
		if valid.Known && valid.Empty() && kept == 0 {
			errs = append(errs, h.forgetNetwork(network))
		}
		return errors.Join(errs...)
	})
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
