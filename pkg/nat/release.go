package nat

import (
	"errors"
	"path/filepath"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// part is how much of an owner is released.
type part bool

const (
	everything part = true
	portsOnly  part = false
)

// Release deletes what the owner has: its port mappings, and its part in the
// masquerade of its network, with the last one of which the rule goes; with the
// last of all, everything of ours in the kernel. It may be called again, and
// does little if there is nothing.
func (h *Host) Release(owner cni.Owner) error { return h.releaseAll(owner, everything) }

// ReleasePorts deletes the owner's port mappings only.
func (h *Host) ReleasePorts(owner cni.Owner) error { return h.releaseAll(owner, portsOnly) }

// releaseAll goes through both backends: the configuration may have changed
// since the ADD.
func (h *Host) releaseAll(owner cni.Owner, part part) error {
	var errs []error
	for _, backend := range []Backend{NFTables, IPTables} {
		something, err := h.records(backend).mayHold(owner, part)
		if err == nil && something {
			err = h.locked(func() error { return h.release(backend, owner, part) })
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// mayHold says, without the lock, whether there may be anything to release:
// rules are made after the record, and directories removed after it.
func (r records) mayHold(owner cni.Owner, part part) (bool, error) {
	if part == portsOnly {
		if ports, err := exists(r.ports(owner.Network)); err != nil || ports {
			return ports, err
		}
		if users, err := exists(r.users(owner.Network)); err != nil || users {
			return false, err // whose last one removes the rest
		}
	}
	return exists(r.dir)
}

// release runs under the lock. What it does not reach, for an error or a kill,
// another call does: records go last.
func (h *Host) release(backend Backend, owner cni.Owner, part part) error {
	r := h.records(backend)
	f, _, err := r.forward(owner) // none, where the record is torn: nothing was made then
	if err != nil {
		return err
	}
	rules, all, err := h.onlyFor(r, owner, f, part)
	if err != nil {
		return err
	}
	if err := h.closeLoopback(r, rules.Bridges); err != nil {
		return err
	}
	if !rules.empty() {
		k, err := h.kernel(backend)
		if err != nil {
			return err
		}
		if err := k.remove(rules, all); err != nil {
			return err
		}
	}
	if err := forgetFlows(f.Mappings, staleAtDel); err != nil {
		return err
	}
	return h.forget(r, owner, f, part)
}

// forget drops what tells of a part of the owner, who has mapped f.
func (h *Host) forget(r records, owner cni.Owner, f Forward, part part) error {
	if err := h.claims().giveUp(r, f); err != nil {
		return err
	}
	return r.dropOwner(owner, f, part)
}

func (r Rules) empty() bool {
	return len(r.Networks)+len(r.Forwards)+len(r.Hairpins)+len(r.Bridges) == 0
}

// onlyFor are the rules that nobody but the owner, who has mapped f, needs; all
// says that there are no other rules at all.
func (h *Host) onlyFor(r records, owner cni.Owner, f Forward, part part) (rules Rules, all bool, err error) {
	if rules, err = h.forwardOnlyFor(r, f); err != nil {
		return Rules{}, false, err
	}
	users, err := r.usersRemain(owner, part)
	if err != nil {
		return Rules{}, false, err
	}
	if !users && part == everything {
		network, _, err := r.networkRule(owner.Network) // a torn record tells of nothing that was made
		if err != nil {
			return Rules{}, false, err
		}
		rules.Networks = []NetworkRule{network}
	}
	ports, err := othersIn(r.ports(owner.Network), key(owner))
	if err != nil {
		return Rules{}, false, err
	}
	networks, err := othersIn(filepath.Dir(r.network(owner.Network)), owner.Network)
	return rules, !users && !ports && !networks, err
}

// usersRemain says whether anybody uses the masquerade of the owner's network
// when that part of the owner is gone.
func (r records) usersRemain(owner cni.Owner, part part) (bool, error) {
	if part == everything {
		return othersIn(r.users(owner.Network), key(owner))
	}
	return othersIn(r.users(owner.Network), "")
}

// forwardOnlyFor are the mappings that are f's, and what they share with no others.
func (h *Host) forwardOnlyFor(r records, f Forward) (only Rules, err error) {
	if len(f.Mappings) == 0 {
		return Rules{}, nil
	}
	rules := f.rules()
	for _, subnet := range rules.Hairpins {
		others, err := othersIn(r.hairpin(subnet), key(f.Owner))
		if err != nil {
			return Rules{}, err
		}
		if !others {
			only.Hairpins = append(only.Hairpins, subnet)
		}
	}
	for _, bridge := range rules.Bridges {
		others, err := othersIn(r.bridge(bridge), key(f.Owner))
		if err != nil {
			return Rules{}, err
		}
		if !others {
			only.Bridges = append(only.Bridges, bridge)
		}
	}
	if f.Mappings, err = h.claims().held(r, f); err != nil {
		return Rules{}, err
	}
	only.Forwards = []Forward{f}
	return only, nil
}

// dropOwner forgets that part of the owner, and removes directories that are
// empty then.
func (r records) dropOwner(owner cni.Owner, f Forward, part part) error {
	var paths []string
	if len(f.Mappings) > 0 {
		for _, dir := range r.sharedBy(f) {
			paths = append(paths, filepath.Join(dir, key(owner)), dir, filepath.Dir(dir))
		}
	}
	paths = append(paths, r.forwardFile(owner), r.ports(owner.Network))
	if part == everything {
		others, err := othersIn(r.users(owner.Network), key(owner))
		if err != nil {
			return err
		}
		paths = append(paths, r.userFile(owner))
		if !others {
			paths = append(paths, r.masquerade(owner.Network), r.users(owner.Network))
		}
	}
	return drop(append(paths, r.network(owner.Network), filepath.Dir(r.network(owner.Network)), r.dir)...)
}
