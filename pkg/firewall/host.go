package firewall

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// DefaultDir is where records live: they are worthless after a reboot, as the
// kernel's rules are.
const DefaultDir = "/run/trestle/firewall"

// Host is the firewall of the host: rules, and the records of whom they are for.
// Every method may be called from several processes at once.
type Host struct {
	records records
	nft     *nftables
	bus     *bus
}

// OpenHost gives the firewall whose records are in dir. Nothing is touched yet.
func OpenHost(dir string) *Host { return &Host{records: records{dir}, nft: &nftables{}, bus: &bus{}} }

// Close lets go of the kernel, which waits for what was deleted before
// (nft_rcv_nl_event, net/netfilter/nf_tables_api.c), and of firewalld.
func (h *Host) Close() error { return errors.Join(h.bus.close(), h.nft.close()) }

// backend makes, finds and removes the parts that are in one place.
type backend interface {
	// add makes what is not there yet, for the owner.
	add(parts []part, o cni.Owner) error
	// remove deletes what is there of parts; empty says that nothing of ours is
	// to stay in the place.
	remove(parts []part, empty bool) error
	// missing says which are not there, for people.
	missing(parts []part) ([]string, error)
}

func (h *Host) backend(place string, rules Rules) backend {
	if place == inetPlace || place == bridgePlace {
		return nftPlace{h.nft, place}
	}
	if zone, ok := strings.CutPrefix(place, zonePrefix); ok {
		return zonePlace{h.bus, zone}
	}
	return ipTable{place, rules.AdminChain, h.nft}
}

// Plan is what the owner of the result shall have.
func (h *Host) Plan(c Config, result *cni.Result) (Rules, error) {
	l := linksOf(result)
	rules := Rules{Interfaces: l.routed, Addresses: addressesOf(result), AdminChain: c.AdminChain}
	var ports []string
	var err error
	if c.Policy == Isolated && len(l.routed) > 0 {
		if ports, err = portsOf(l); err != nil {
			return Rules{}, err
		}
	}
	if err := rules.withPolicy(c.Policy, l, ports); err != nil {
		return Rules{}, err
	}
	asks, err := h.choose(c)
	if err != nil {
		return Rules{}, err
	}
	switch asks {
	case Firewalld:
		rules.Zone = c.Zone
	case IPTables, Auto:
		always := asks == IPTables || c.AdminChosen
		rules.Forwards, err = h.nft.findForwards(rules.Addresses, c.AdminChain, always)
	}
	return rules, err
}

// choose is the backend, firewalld in place of Auto where it runs.
func (h *Host) choose(c Config) (Backend, error) {
	if c.Backend != Auto && c.Backend != Firewalld {
		return c.Backend, nil
	}
	running, err := h.bus.firewalldRuns()
	switch {
	case running:
		return Firewalld, nil
	case c.Backend == Firewalld && err == nil:
		return Auto, cni.UnsupportedErrorf("backend: %q is asked for, but firewalld does not run on this host; start it, or leave the backend out", c.Backend)
	case c.Backend == Firewalld:
		return Auto, err
	}
	return Auto, nil // a bus that does not answer is no firewalld
}

// portsOf are those of the links that are ports of the bridge.
func portsOf(l links) ([]string, error) {
	bridge, err := netlink.LinkByName(l.routed[0])
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", l.routed[0], err)
	}
	var ports []string
	for _, name := range l.other {
		link, err := netlink.LinkByName(name)
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", name, err)
		}
		if link.Attrs().MasterIndex == bridge.Attrs().Index {
			ports = append(ports, name)
		}
	}
	return ports, nil
}

// Add makes the rules for the owner. What the owner had before, by an ADD that
// no DEL has followed, goes.
func (h *Host) Add(o cni.Owner, rules Rules, undo *cni.Undo) error {
	parts := rules.parts()
	old, there, _, err := read(h.records.owner(o))
	if err != nil || len(parts) == 0 && !there {
		return err
	}
	if there && !reflect.DeepEqual(old.Rules, rules) {
		if err := h.Release(o); err != nil || len(parts) == 0 {
			return err
		}
	}
	return h.locked(func() error {
		undo.Push("release the firewall's rules", func() error { return h.Release(o) })
		if err := h.records.write(o, rules); err != nil {
			return err
		}
		return h.make(o, rules)
	})
}

func (h *Host) make(o cni.Owner, rules Rules) error {
	parts := rules.parts()
	for _, place := range placesOf(parts) {
		if err := h.backend(place, rules).add(inPlace(parts, place), o); err != nil {
			return err
		}
	}
	return nil
}

// Release deletes what the owner has and nobody else. It needs nothing but the
// owner, may be called again, and does little if there is nothing.
func (h *Host) Release(o cni.Owner) error {
	_, there, _, err := read(h.records.owner(o))
	if err != nil || !there {
		return err
	}
	return h.locked(func() error {
		rec, _, _, err := read(h.records.owner(o)) // a torn one has no parts
		if err != nil {
			return err
		}
		parts := rec.Rules.parts()
		free, empty, err := h.records.unshared(o, parts)
		if err != nil {
			return err
		}
		var errs []error
		for _, place := range placesOf(free) {
			errs = append(errs, h.backend(place, rec.Rules).remove(inPlace(free, place), empty[place]))
		}
		if err := errors.Join(errs...); err != nil {
			return err // the record stays, for the next DEL
		}
		return h.records.drop(o, parts)
	})
}

// Known says whether the owner has a record.
func (h *Host) Known(o cni.Owner) (bool, error) {
	_, there, _, err := read(h.records.owner(o))
	return there, err
}

// ReleaseForeign deletes what the reference plugin made for a container with
// the result's addresses. One that a container of ours has now is let be.
func (h *Host) ReleaseForeign(c Config, result *cni.Result) error {
	addresses := addressesOf(result)
	forwards, err := h.nft.foreignForwards(addresses)
	if err != nil {
		return err
	}
	rules := Rules{Addresses: addresses, Forwards: forwards, AdminChain: c.AdminChain}
	if running, err := h.bus.firewalldRuns(); running && err == nil && (c.Backend == Auto || c.Backend == Firewalld) {
		rules.Zone = c.Zone
	}
	if len(rules.parts()) == 0 {
		return nil
	}
	return h.locked(func() error {
		var free []part
		for _, p := range rules.parts() {
			used, err := h.records.inUse(p)
			if err != nil {
				return err
			}
			if !used {
				free = append(free, p)
			}
		}
		var errs []error
		for _, place := range placesOf(free) {
			errs = append(errs, h.backend(place, rules).remove(inPlace(free, place), false))
		}
		return errors.Join(errs...)
	})
}

// Diff says what is not as Add(o, rules) leaves it.
func (h *Host) Diff(o cni.Owner, rules Rules) ([]string, error) {
	var diffs []string
	parts := rules.parts()
	if known, err := h.Known(o); err != nil {
		return nil, err
	} else if !known && len(parts) > 0 {
		diffs = append(diffs, fmt.Sprintf("record of the firewall's rules for %s: want one, have none", o))
	}
	for _, place := range placesOf(parts) {
		missing, err := h.backend(place, rules).missing(inPlace(parts, place))
		if err != nil {
			return nil, err
		}
		diffs = append(diffs, missing...)
	}
	return diffs, nil
}

// GC releases every owner in network that valid does not keep. Without a list
// nothing is known to be dead, and nothing is released.
func (h *Host) GC(network string, valid cni.Valid) error {
	if !valid.Known {
		return nil
	}
	all, err := h.records.list(network)
	errs := []error{err}
	for _, rec := range all {
		if !valid.Keeps(rec.Owner) {
			errs = append(errs, h.Release(rec.Owner))
		}
	}
	return errors.Join(errs...)
}

// Restore makes again, from the records, whatever of ours was lost, by "nft
// flush ruleset" or a reload of firewalld.
func (h *Host) Restore() error {
	all, err := h.records.list("")
	errs := []error{err}
	for _, rec := range all {
		errs = append(errs, h.locked(func() error { return h.make(rec.Owner, rec.Rules) }))
	}
	return errors.Join(errs...)
}

// Status says whether an ADD would get its rules; the error has code 50.
func (h *Host) Status(c Config) error {
	if _, err := h.choose(c); err != nil {
		return cni.UnavailableErrorf("firewall: %w", err)
	}
	if c.Policy != Open {
		if err := h.nft.usable(); err != nil {
			return cni.UnavailableErrorf("ingressPolicy %q: %w", c.Policy, err)
		}
	}
	if c.Backend == IPTables {
		if err := usablePrograms(); err != nil {
			return cni.UnavailableErrorf("backend %q: %w", c.Backend, err)
		}
	}
	return nil
}

// locked runs do as the only one on this host.
func (h *Host) locked(do func() error) (err error) {
	lock, err := flock.Create(filepath.Join(h.records.dir, "lock"), flock.Exclusive, flock.DefaultWait)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	return do()
}
