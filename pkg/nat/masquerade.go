package nat

import (
	"fmt"
	"reflect"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// maxKept bounds the destinations of a rule, each of which takes three
// expressions: a rule has 128 (NFT_RULE_MAXEXPRS, net/netfilter/nf_tables_api.c).
const maxKept = 40

// check refuses what no rule can be made of.
func (m Masquerade) check() error {
	for _, f := range families() {
		if kept := len(m.keeps(f)); kept > maxKept {
			return cni.ConfigErrorf("masquerade.exclude: %d destinations of one family, the network's own among them, and %d is the most; use fewer, wider prefixes",
				kept, maxKept)
		}
	}
	return nil
}

// AddMasquerade lets the owner's network be masqueraded by m: one rule for the
// network, which is replaced if it was another. It may be called again.
func (h *Host) AddMasquerade(owner cni.Owner, m Masquerade) error {
	if err := m.check(); err != nil {
		return err
	}
	backend, err := h.wanted()
	if err != nil {
		return err
	}
	k, err := h.kernel(backend)
	if err != nil {
		return err
	}
	rules := Rules{Networks: []NetworkRule{{owner.Network, m}}}
	return h.locked(func() error {
		old, err := h.records(backend).addUser(owner, m)
		if err != nil {
			return err
		}
		return k.add(rules, old)
	})
}

// addUser records that owner is served by m, the rule of its network, and
// returns the rule that was recorded before.
func (r records) addUser(owner cni.Owner, m Masquerade) (old Rules, err error) {
	if err := write(r.userFile(owner), ownerRecord{owner}); err != nil {
		return Rules{}, err
	}
	had, whole, err := r.networkRule(owner.Network)
	if err != nil || whole && reflect.DeepEqual(had.Masquerade, m) {
		return Rules{}, err
	}
	if whole {
		old.Networks = []NetworkRule{had}
	}
	return old, write(r.masquerade(owner.Network), m)
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
	diffs, err := k.differences(Rules{Networks: []NetworkRule{{owner.Network, m}}})
	if err != nil {
		return nil, err
	}
	recorded, err := exists(h.records(backend).userFile(owner))
	if err == nil && !recorded {
		diffs = append(diffs, fmt.Sprintf("record of %s as served by the masquerade of its network: want one, have none", owner))
	}
	return diffs, err
}
