package nat

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// place is the directory of NAT's records: one for each attachment with masquerade or port
// mappings.
const place = "translations"

// translation is the NAT of an attachment, and its backends. In a plugin list bridge writes
// the masquerade, and portmap the ports.
type translation struct {
	Masquerade *recordedMasquerade `json:",omitempty"`
	Ports      *recordedPorts      `json:",omitempty"`
	// Released says that the attachment was deleted, but some of its rules in iptables
	// could not be.
	Released bool `json:",omitempty"`
	// Adopted says that the record was lost, and written again because a link or a lease
	// exists. It has no network namespace: only link and lease show when the attachment
	// is gone.
	Adopted bool `json:"ByLink,omitempty"`
}

type recordedMasquerade struct {
	Backend Backend
	Masquerade
}

type recordedPorts struct {
	Backend Backend
	Ports
	// Auto says that the configuration did not name the backend.
	Auto bool `json:",omitempty"`
}

// attachmentRecord is a translation with its owner.
type attachmentRecord = record.Record[translation]

func (h *Host) read(o cni.Owner) (attachmentRecord, bool, error) {
	return record.Read[translation](h.store, place, o)
}

func (h *Host) write(rec attachmentRecord) error { return record.Write(h.store, place, rec) }

// ports returns the port mappings in the backend, with their owner.
func (t translation) ports(o cni.Owner, backend Backend) []ownedPorts {
	if t.Ports == nil || t.Ports.Backend != backend {
		return nil
	}
	return []ownedPorts{{o, t.Ports.Ports}}
}

// networkRule returns the network's masquerade in the backend: the policy m for the subnets
// of m and of all recorded attachments to the network.
func networkRule(network string, backend Backend, m Masquerade, all []attachmentRecord) masqueradeRule {
	rule := masqueradeRule{Network: network, Masquerade: m, asked: m}
	m.Prefixes = slices.Clone(m.Prefixes)
	for _, rec := range all {
		if rec.Owner.Network != network || rec.Value.Masquerade == nil || rec.Value.Masquerade.Backend != backend {
			continue
		}
		for _, p := range rec.Value.Masquerade.Prefixes {
			if !slices.Contains(m.Prefixes, p) {
				m.Prefixes = append(m.Prefixes, p)
			}
		}
	}
	slices.SortFunc(m.Prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	rule.Masquerade = m
	return rule
}

// rulesOf returns the rules of all records in a backend. If a network's configuration was
// edited, the masquerade of its newest attachment applies.
func rulesOf(all []attachmentRecord, backend Backend) ruleset {
	var rules ruleset
	var networks []string
	last := map[string]attachmentRecord{}
	for _, rec := range all {
		rules.Ports = append(rules.Ports, rec.Value.ports(rec.Owner, backend)...)
		network := rec.Owner.Network
		if m := rec.Value.Masquerade; m == nil || m.Backend != backend {
			continue
		}
		was, there := last[network]
		if !there {
			networks = append(networks, network)
		}
		if !there || rec.Stamp.Time.After(was.Stamp.Time) {
			last[network] = rec
		}
	}
	for _, network := range networks {
		rules.Networks = append(rules.Networks, networkRule(network, backend, last[network].Value.Masquerade.Masquerade, all))
	}
	return rules
}
