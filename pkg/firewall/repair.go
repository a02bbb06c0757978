package firewall

import (
	"errors"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/netns"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Restore makes again, from the records, what of ours was lost, by "nft flush ruleset" or a
// reload of firewalld. It also makes the rules in tables of iptables that are newer than the
// container, and removes what DELs had to leave. done gets, by network, the number of
// missing rules and elements.
func (h *Host) Restore(done *cni.Restored) error {
	return h.locked(func() error {
		missing, missingErr := h.countMissing()
		for network, n := range missing {
			done.Add(cni.NetworkLabel(network))
			if n > 0 {
				done.Add(cni.NetworkLabel(network), cni.Made{What: "rules of the firewall plugin", Count: n})
			}
		}
		_, err := h.repair(func(ruleRecord) bool { return false }, func(nft.Element, map[cni.Owner]bool) bool { return false })
		return errors.Join(missingErr, err)
	})
}

// countMissing counts, by network, the recorded rules and elements that are missing.
func (h *Host) countMissing() (map[string]int, error) {
	type where struct{ network, place, adminChain string }
	records, err := record.List[Rules](h.records, place, "")
	byPlace := map[where][]entry{}
	for _, r := range records {
		for _, e := range entriesOf([]ruleRecord{r}) {
			at := where{r.Owner.Network, e.place, r.Value.AdminChain}
			byPlace[at] = append(byPlace[at], e)
		}
	}
	missing, errs := map[string]int{}, []error{err}
	for at, entries := range byPlace {
		diffs, err := h.backend(at.place, at.adminChain).diff(entries)
		missing[at.network], errs = missing[at.network]+len(diffs), append(errs, err)
	}
	return missing, errors.Join(errs...)
}

// GC is Restore for the valid owners, and releases all others of the network: those with a
// record, and those that only elements in the kernel name. Without a list it removes only
// elements about links that are gone. If no record is left, it also deletes idle chains and
// tables.
func (h *Host) GC(network string, valid cni.Valid) error {
	isGone := func(r ruleRecord) bool {
		return valid.Known && r.Owner.Network == network && !valid.Keeps(r.Owner)
	}
	isVoid := func(e nft.Element, recorded map[cni.Owner]bool) bool {
		switch {
		case !valid.Known || !strings.HasPrefix(e.Owner, cni.NetworkLabel(network)):
			return false
		case e.Shared: // void unless a valid owner, who may need it, has lost its record
			return !slices.ContainsFunc(valid.Owners(), func(o cni.Owner) bool { return !recorded[o] })
		}
		return !valid.KeepsLabel(e.Owner)
	}
	return h.locked(func() error {
		left, err := h.repair(isGone, isVoid)
		if left == 0 && valid.Known {
			err = errors.Join(err, h.removeIdle())
		}
		return err
	})
}

// repair makes records and kernel agree: it releases records that are gone, removes elements
// without a record that are void or about a link that is gone, and makes what records need
// and is missing. It returns the number of records that are left.
func (h *Host) repair(isGone func(ruleRecord) bool, isVoid func(nft.Element, map[cni.Owner]bool) bool) (int, error) {
	all, err := record.Sweep[Rules](h.records, place, "")
	// "nft -f" may have loaded tables that were saved under an earlier release
	errs := []error{err, h.takeOver(nil)}
	var live []ruleRecord
	recorded := map[cni.Owner]bool{}
	for _, r := range all {
		if r.Value.Released || isGone(r) {
			errs = append(errs, h.release(r))
			continue
		}
		r, err := h.addPrograms(r)
		live, errs = append(live, r), append(errs, err)
		recorded[r.Owner] = true
	}
	entries := entriesOf(live)
	errs = append(errs, h.repairElements(inPlace(entries, nftPlace), func(e nft.Element) bool { return isVoid(e, recorded) }))
	repaired := map[string]bool{nftPlace: true}
	for _, r := range live {
		errs = append(errs, h.repairPlaces(r, entries, repaired))
	}
	return len(live), errors.Join(append(errs, h.fill())...)
}

// repairPlaces makes the missing entries, of all records, in each of the record's places that
// is not repaired yet.
func (h *Host) repairPlaces(r ruleRecord, entries []entry, repaired map[string]bool) error {
	var errs []error
	for _, place := range placesOf(r.Value.entries(r.Owner)) {
		if !repaired[place] {
			repaired[place] = true
			errs = append(errs, h.backend(place, r.Value.AdminChain).add(inPlace(entries, place), h.allEntries))
		}
	}
	return errors.Join(errs...)
}

// addPrograms adds to the record the programs of iptables whose tables are newer than it.
func (h *Host) addPrograms(r ruleRecord) (ruleRecord, error) {
	if r.Value.Released {
		return r, nil
	}
	if err := h.makeTables(r.Value); err != nil {
		return r, err
	}
	programs, err := h.programs(r.Value.Addresses, r.Value.IPTables)
	if err != nil {
		return r, err
	}
	more := slices.DeleteFunc(programs, func(p string) bool {
		return slices.Contains(r.Value.Programs, p) || slices.Contains(r.Value.Programs, iptables.FamilyOf(p).Program)
	})
	if len(more) == 0 {
		return r, nil
	}
	r.Value.Programs = append(slices.Clone(r.Value.Programs), more...)
	r.Shares = shares(r.Value.entries(r.Owner))
	return r, record.Write(h.records, place, r)
}

// repairElements adds the missing elements of the entries to our sets, and removes stale
// ones.
func (h *Host) repairElements(entries []entry, isVoid func(nft.Element) bool) error {
	found, err := h.nftables().list()
	if err != nil {
		return err
	}
	want := elementsOf(entries)
	changes := nft.Changes{Tables: tablesOf(append(slices.Clone(found), want...)), Create: nft.Without(want, found)}
	for _, e := range nft.Without(found, want) {
		e.Shared = e.Set != portSet
		if isVoid(e) || isLinkGone(e.Interface()) {
			changes.Remove = append(changes.Remove, e)
		}
	}
	return h.nftables().commit(changes, nobody)
}

// isLinkGone says whether there is certainly no such link; false after another error.
func isLinkGone(name string) bool {
	_, err := netlink.LinkByName(name)
	return netns.IsLinkGone(err)
}

// removeIdle deletes tables, chains and jumps that have no rule of a container.
func (h *Host) removeIdle() error {
	var errs []error
	for _, t := range tables() {
		errs = append(errs, h.nftables().recordsLocked(func() error { return h.conn.DeleteIdle(t) }))
	}
	return errors.Join(append(errs, removeIdle(h.conn))...)
}
