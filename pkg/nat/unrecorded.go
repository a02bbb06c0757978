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

// lostRecords says whether there is anything of ours in our table, in which the firewall
// has a part too, and nothing tells of it.
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
		for _, chain := range t.Chains {
			if there, err := h.conn.HasChain(t, chain.Name); err != nil || there {
				return there, err
			}
		}
	}
	return false, nil
}
