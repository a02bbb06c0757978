package nat

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// maxKept bounds the destinations of a rule, each of which takes three
// expressions: a rule has 128 (NFT_RULE_MAXEXPRS, net/netfilter/nf_tables_api.c).
const maxKept = 40

// check refuses what no rule can be made of; errors have code 7.
func (m Masquerade) check() error {
	for _, f := range families() {
		if kept := len(m.keeps(f)); kept > maxKept {
			return cni.ConfigErrorf("masquerade.exclude: %d destinations of one family, the network's own among them, and %d is the most; use fewer, wider prefixes",
				kept, maxKept)
		}
		source := m.snat(f)
		if source.IsValid() && (source.Is4() != f.is4 || source.Zone() != "" || source.IsUnspecified() || source.IsMulticast()) {
			return cni.ConfigErrorf("masquerade.snatIP%s: %s is not a source address of that family; use one of the host's, like 192.0.2.1 or 2001:db8::1", f.digit(), source)
		}
	}
	return nil
}

// AddMasquerade lets the owner's network be masqueraded by m: one rule for each
// of its subnets, which is replaced if the policy was another. Subnets of others
// on the network stay. It may be called again.
func (h *Host) AddMasquerade(owner cni.Owner, m Masquerade) error {
	backend, err := h.wanted()
	if err != nil {
		return err
	}
	k, err := h.kernel(backend)
	if err != nil {
		return err
	}
	return h.locked(func() error {
		r := h.records(backend)
		rule, had, err := r.masqueradeWith(owner.Network, m)
		if err != nil {
			return err
		}
		if err := write(r.userFile(owner), ownerRecord{owner}); err != nil {
			return err
		}
		if !had {
			if err := write(r.masquerade(owner.Network), rule); err != nil {
				return err
			}
		}
		return k.add(Rules{Networks: []NetworkRule{{owner.Network, rule}}})
	})
}

// masqueradeWith is m for the subnets that the network has already, too; had
// says whether that is just what is recorded.
func (r records) masqueradeWith(network string, m Masquerade) (rule Masquerade, had bool, err error) {
	recorded, _, err := r.networkRule(network) // a torn record has no subnets, and is written anew
	if err != nil {
		return rule, false, err
	}
	rule = m
	rule.Prefixes = slices.Clone(recorded.Prefixes)
	for _, p := range m.Prefixes {
		if !slices.Contains(rule.Prefixes, p) {
			rule.Prefixes = append(rule.Prefixes, p)
		}
	}
	return rule, reflect.DeepEqual(recorded.Masquerade, rule), rule.check()
}

// networkRule reads the network's rule; whole is false where there is no record.
func (r records) networkRule(network string) (rule NetworkRule, whole bool, err error) {
	rule.Network = network
	whole, err = read(r.masquerade(network), &rule.Masquerade)
	return rule, whole, err
}

// CheckMasquerade says what is not as AddMasquerade(owner, m) leaves it.
func (h *Host) CheckMasquerade(owner cni.Owner, m Masquerade) ([]string, error) {
	backend, err := h.wanted()
	if err != nil {
		return nil, err
	}
	k, err := h.kernel(backend)
	if err != nil {
		return nil, err
	}
	r := h.records(backend)
	rule, _, err := r.masqueradeWith(owner.Network, m)
	if err != nil {
		return nil, err
	}
	diffs, err := k.differences(Rules{Networks: []NetworkRule{{owner.Network, rule}}})
	if err != nil {
		return nil, err
	}
	recorded, err := exists(r.userFile(owner))
	if err == nil && !recorded {
		diffs = append(diffs, fmt.Sprintf("record of %s as served by the masquerade of its network: want one, have none", owner))
	}
	return diffs, err
}
