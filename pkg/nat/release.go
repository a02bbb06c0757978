package nat

import (
	"errors"
	"path/filepath"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Release deletes what the owner has: its part in the masquerade of its
// network, and with the last one the rule; with the last of all, everything of
// ours in the kernel. It may be called again, and does little if there is nothing.
func (h *Host) Release(owner cni.Owner) error {
	var errs []error
	for _, backend := range []Backend{NFTables, IPTables} {
		errs = append(errs, h.releaseFrom(backend, owner))
	}
	return errors.Join(errs...)
}

func (h *Host) releaseFrom(backend Backend, owner cni.Owner) error {
	r := h.records(backend)
	// A network without records has no rules: they are made after the record.
	if known, err := exists(r.network(owner.Network)); err != nil || !known {
		return err
	}
	k, err := h.kernel(backend)
	if err != nil {
		return err
	}
	return h.locked(func() error {
		rules, all, err := r.onlyFor(owner)
		if err != nil {
			return err
		}
		if len(rules.Networks) > 0 {
			if err := k.remove(rules, all); err != nil {
				return err
			}
		}
		return r.dropOwner(owner, rules)
	})
}

// onlyFor are the rules that nobody but the owner needs; all says that there
// are no other rules at all.
func (r records) onlyFor(owner cni.Owner) (rules Rules, all bool, err error) {
	otherUsers, err := othersIn(r.users(owner.Network), key(owner))
	if err != nil || otherUsers {
		return Rules{}, false, err
	}
	rules.Networks = []NetworkRule{{Network: owner.Network}}
	otherNetworks, err := othersIn(filepath.Dir(r.network(owner.Network)), owner.Network)
	return rules, !otherNetworks, err
}

// dropOwner forgets the owner, and the networks whose rules are gone.
func (r records) dropOwner(owner cni.Owner, gone Rules) error {
	paths := []string{filepath.Join(r.users(owner.Network), key(owner))}
	for _, n := range gone.Networks {
		paths = append(paths, r.masquerade(n.Network), r.users(n.Network), r.network(n.Network))
	}
	return drop(append(paths, filepath.Join(r.dir, "networks"), r.dir)...)
}
