package nat

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Restore makes again, from the records, whatever of ours was lost in the
// kernel, by "nft flush ruleset" or a reload of firewalld. Where nothing is
// missing it changes nothing.
func (h *Host) Restore() error {
	var errs []error
	for _, backend := range []Backend{NFTables, IPTables} {
		known, err := exists(h.records(backend).dir)
		if err == nil && known {
			err = h.locked(func() error { return h.restore(backend) })
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (h *Host) restore(backend Backend) error {
	rules, err := h.records(backend).all()
	if err != nil {
		return err
	}
	k, err := h.kernel(backend)
	if err != nil {
		return err
	}
	lost, err := k.differences(rules)
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		if err := k.replace(rules); err != nil {
			return err
		}
	}
	var errs []error
	for _, bridge := range rules.Bridges {
		err := h.openLoopback(bridge)
		if !errors.Is(err, fs.ErrNotExist) { // a bridge that is gone took the setting along
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// all are the rules that the records tell of.
func (r records) all() (Rules, error) {
	var rules Rules
	networks, err := filesIn(filepath.Join(r.dir, "networks"))
	if err != nil {
		return Rules{}, err
	}
	for _, dir := range networks {
		network, whole, err := r.networkRule(filepath.Base(dir))
		if err != nil {
			return Rules{}, err
		}
		if whole {
			rules.Networks = append(rules.Networks, network)
		}
		if err := r.addForwards(&rules, network.Network); err != nil {
			return Rules{}, err
		}
	}
	return rules, nil
}

// addForwards adds what owners in the network have mapped.
func (r records) addForwards(rules *Rules, network string) error {
	files, err := filesIn(r.ports(network))
	if err != nil {
		return err
	}
	for _, file := range files {
		var f Forward
		whole, err := read(file, &f)
		if err != nil {
			return err
		}
		if whole {
			rules.merge(f.rules())
		}
	}
	return nil
}

// merge adds what is not there yet.
func (r *Rules) merge(other Rules) {
	r.Forwards = append(r.Forwards, other.Forwards...)
	for _, subnet := range other.Hairpins {
		if !slices.Contains(r.Hairpins, subnet) {
			r.Hairpins = append(r.Hairpins, subnet)
		}
	}
	for _, bridge := range other.Bridges {
		if !slices.Contains(r.Bridges, bridge) {
			r.Bridges = append(r.Bridges, bridge)
		}
	}
}

// Status says whether an ADD would get its rules; the error has code 50. The
// kernel is asked, not whether some program is installed.
func (h *Host) Status() error {
	backend, err := h.wanted()
	if err == nil {
		var k kernel
		if k, err = h.kernel(backend); err == nil {
			err = k.usable()
		}
	}
	if err != nil {
		return cni.UnavailableErrorf("NAT: %w", err)
	}
	return nil
}
