package nat

import (
	"errors"
	"maps"
	"net/netip"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// unrecorded is what the kernel has of an attachment or a network without a record.
type unrecorded struct {
	elements []nft.Element
	chains   []foundChain
}

// adopt writes records for attachments that have rules but no record, if a link, a lease, or
// the runtime's list shows that they are alive. The others are stale. If records were lost,
// networks without a live attachment are stale, too: otherwise the masquerade of a network
// stays after its last attachment.
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
			s.idle = append(s.idle, masqueradeRule{Network: network})
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

// unrecorded returns attachments without a record by label and, if networks is true, networks
// without one by theirs.
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

// takeIn writes a record for an attachment from its rules in the kernel.
func (s *snapshot) takeIn(label string, u *unrecorded, adopted bool) error {
	owner, _ := cni.ParseOwner(label) // a live label that is not a network's is an owner's
	stamp, err := record.NewStamp("") // without a network namespace: it proves this boot only
	if err != nil {
		return err
	}
	ports := portsOf(u.elements)
	if len(ports.Mappings) == 0 { // they are in iptables, and only the elements for 127.0.0.1 in nftables
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

// portsOf decodes an attachment's port mappings from its elements.
func portsOf(elements []nft.Element) recordedPorts {
	ports := recordedPorts{Backend: NFTables, Ports: Ports{PortOptions: PortOptions{MarkBit: defaultMarkBit}}}
	for _, e := range elements {
		if m, ok := mappingOf(e); ok {
			ports.Mappings = append(ports.Mappings, m)
		}
		switch strings.TrimRight(e.Set, "46") {
		case hairpinPorts, hairpinAddresses:
			ports.SNAT, ports.Bridge = true, e.Interface()
		case loopbackPorts, loopbackAddresses:
			ports.HostAddress, _ = netip.AddrFromSlice(e.Value) // the set's type fixes the length
		case masqueradePorts, masqueradeAddresses:
			ports.SNAT, ports.MasqueradeAll = true, true
		}
	}
	return ports
}

// reconcileUnrecorded adopts rules without a record, or removes them if they are stale. It does so at the
// first use after a boot, when a saved ruleset may have been loaded that maps ports to former
// containers, and after /run was lost while containers ran; otherwise it costs nothing. An
// owner in the runtime's list of valid attachments counts as alive.
func (h *Host) reconcileUnrecorded(valid cni.Valid) error {
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
	s.records = s.records[known:] // only the adopted ones: the others are left to GC
	s.valid = cni.Valid{}         // it covers one network and says nothing about others
	if err := errors.Join(s.findStale(), s.commit()); err != nil {
		return err
	}
	return h.noteIPTables()
}

// isLost says whether the kernel may have rules without a record.
func (h *Host) isLost() (bool, error) {
	lost, err := h.lostIPTables()
	if err != nil || lost {
		return lost, err
	}
	return h.lostRecords()
}

// lostRecords says whether our table has chains of NAT, but is not known (isKnown). That the
// table exists is not enough, since the firewall uses it, too.
func (h *Host) lostRecords() (bool, error) {
	known, err := h.isKnown()
	if err != nil || known {
		return false, err
	}
	there, err := h.conn.Exists(inetTable())
	if err != nil || !there {
		return false, err
	}
	for _, t := range natTables() {
		t, err := t.Whole()
		if err != nil {
			return false, err
		}
		for _, chain := range t.Chains {
			if there, err := h.conn.HasChain(t, chain.Name); err != nil || there {
				return there, err
			}
		}
	}
	return false, nil
}
