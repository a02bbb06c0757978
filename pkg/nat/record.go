package nat

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// place is where the records of NAT are: one for each attachment that has a
// masquerade or mapped ports.
const place = "translations"

// translation is what an attachment has of NAT, and by which backend. In a chain of
// plugins bridge writes the masquerade and portmap the ports.
type translation struct {
	Masquerade *recordedMasquerade `json:",omitempty"`
	Ports      *recordedPorts      `json:",omitempty"`
	// Released says that its attachment was deleted, and that what is left of it could
	// not be reached then.
	Released bool `json:",omitempty"`
	// ByVouch says that its record was lost, and that a link or a lease stood for it:
	// without the namespace, they tell when it is gone.
	ByVouch bool `json:"ByLink,omitempty"`
}

type recordedMasquerade struct {
	Backend Backend
	Masquerade
}

type recordedPorts struct {
	Backend Backend
	Ports
}

// attachmentRecord is a translation with its owner.
type attachmentRecord = record.Record[translation]

func (h *Host) read(o cni.Owner) (attachmentRecord, bool, error) {
	return record.Read[translation](h.store, place, o)
}

func (h *Host) write(rec attachmentRecord) error { return record.Write(h.store, place, rec) }

// rules are what the translation wants of a backend. Of its network's masquerade it
// has its own subnets; see Host.networkRule.
func (t translation) ports(o cni.Owner, backend Backend) []OwnedPorts {
	if t.Ports == nil || t.Ports.Backend != backend {
		return nil
	}
	return []OwnedPorts{{o, t.Ports.Ports}}
}

// networkRule is the network's masquerade by the backend: the policy m, for its own
// subnets and those of all others on the network that are recorded.
func networkRule(network string, backend Backend, m Masquerade, all []attachmentRecord) NetworkRule {
	rule := NetworkRule{Network: network, Masquerade: m, asked: m}
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

// rulesOf are all that the records want of a backend. Of a network whose configuration
// was edited, the last attachment says how it is masqueraded, as it did at its ADD.
func rulesOf(all []attachmentRecord, backend Backend) Rules {
	var rules Rules
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
