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
func (h *Host) Release(owner cni.Owner) error {
	return h.releaseAll(owner, everything)
}

// releaseAll goes through both backends: the configuration may have changed
// since the ADD.
func (h *Host) releaseAll(owner cni.Owner, part part) error {
	var errs []error
	for _, backend := range []Backend{NFTables, IPTables} {
		errs = append(errs, h.releaseFrom(backend, owner, part))
	}
	return errors.Join(errs...)
}

func (h *Host) releaseFrom(backend Backend, owner cni.Owner, part part) error {
	r := h.records(backend)
	// A network without records has no rules: they are made after the record.
	if known, err := exists(r.network(owner.Network)); err != nil || !known {
		return err
	}
	if known, err := exists(r.forwardFile(owner)); part == portsOnly && (err != nil || !known) {
		return err
	}
	k, err := h.kernel(backend)
	if err != nil {
		return err
	}
	return h.locked(func() error { return h.release(r, k, owner, part) })
}

// release runs under the lock. What it does not reach, for an error or a kill,
// another call does: records go last.
func (h *Host) release(r records, k kernel, owner cni.Owner, part part) error {
	rules, all, err := h.onlyFor(r, owner, part)
	if err != nil {
		return err
	}
	if err := h.closeLoopback(r, rules.Bridges); err != nil {
		return err
	}
	if !rules.empty() {
		if err := k.remove(rules, all); err != nil {
			return err
		}
	}
	for _, f := range rules.Forwards {
		if err := forgetFlows(f.Mappings, staleAtDel); err != nil {
			return err
		}
		if err := h.claims().giveUp(f.Mappings); err != nil {
			return err
		}
	}
	return r.dropOwner(owner, part)
}

func (r Rules) empty() bool {
	return len(r.Networks)+len(r.Forwards)+len(r.Hairpins)+len(r.Bridges) == 0
}

// onlyFor are the rules that nobody but the owner needs; all says that there
// are no other rules at all.
func (h *Host) onlyFor(r records, owner cni.Owner, part part) (rules Rules, all bool, err error) {
	f, whole, err := r.forward(owner)
	if err != nil {
		return Rules{}, false, err
	}
	if whole {
		if rules, err = h.forwardOnlyFor(r, f); err != nil {
			return Rules{}, false, err
		}
	}
	users, err := r.remain(r.users(owner.Network), owner, part)
	if err != nil {
		return Rules{}, false, err
	}
	if !users && part == everything {
		network, _, err := r.networkRule(owner.Network) // what is torn was not made yet
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

// remain says whether dir has an entry that stays when part of owner goes.
func (r records) remain(dir string, owner cni.Owner, part part) (bool, error) {
	if part == everything {
		return othersIn(dir, key(owner))
	}
	return othersIn(dir, "")
}

// forwardOnlyFor are the mappings that are f's, and what they share with no others.
func (h *Host) forwardOnlyFor(r records, f Forward) (only Rules, err error) {
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

// dropOwner forgets the owner, or its ports only, and removes the directories
// that are empty then.
func (r records) dropOwner(owner cni.Owner, part part) error {
	f, whole, err := r.forward(owner)
	if err != nil {
		return err
	}
	var paths []string
	if whole {
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
