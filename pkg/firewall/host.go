package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/iptables"
	"github.com/trestle-cni/trestle/pkg/netns"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Host is the host's firewall: the rules, and the records of their owners. Several processes
// may call every method at once.
type Host struct {
	records record.Store
	conn    *nft.Conn
	bus     *bus
	// variants caches, by family, the programs whose tables the kernel has. locked clears it.
	variants map[string][]string
	tried    map[string]bool // the families whose table we have tried to make
}

// Open is the firewall whose records are in the store. It reads and changes nothing yet.
func Open(records record.Store) *Host {
	return &Host{records, nft.Open(records.Dir("nft")), &bus{}, map[string][]string{}, map[string]bool{}}
}

// Close closes the connections to the kernel and to the system bus.
func (h *Host) Close() {
	h.bus.close()
	h.conn.Close()
}

// place is the place of our records in the store.
const place = "firewall"

type ruleRecord = record.Record[Rules]

// locked runs do under the firewall's lock, after it has converted what earlier releases left.
// This is not the lock of the records, which NAT takes for a millisecond at a time: iptables'
// programs and firewalld take longer.
func (h *Host) locked(do func() error) (err error) {
	lock, err := flock.Create(h.records.Dir(place+".lock"), flock.Exclusive, flock.DefaultWait)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	clear(h.variants) // somebody may have made a table before we got the lock
	if err := h.convert(); err != nil {
		return err
	}
	return do()
}

func (h *Host) nftables() nftBackend { return nftBackend{h.conn, h.records} }

// backend makes, finds and removes the entries of one place.
type backend interface {
	// add makes those of the entries that are missing. If the place itself was lost, by a
	// flush, it makes allEntries, those of all records.
	add(entries []entry, allEntries func() ([]entry, error)) error
	// remove deletes those of the entries that are there.
	remove(entries []entry) error
	// diff lists, for people, those that are missing.
	diff(entries []entry) ([]string, error)
}

func (h *Host) backend(place, adminChain string) backend {
	if place == nftPlace {
		return h.nftables()
	}
	if zone, ok := strings.CutPrefix(place, zonePrefix); ok {
		return zoneBackend{h.bus, zone}
	}
	return ipBackend{place, adminChain, h.conn}
}

// Plan is the rules that configuration and result ask for.
func (h *Host) Plan(c Config, result *cni.Result) (Rules, error) {
	l := linksOf(result)
	rules := Rules{Interfaces: l.routed, Addresses: addressesOf(result), AdminChain: c.AdminChain}
	var ports []string
	var err error
	if c.Policy == policyIsolated && len(l.routed) > 0 {
		if ports, err = portsOf(l); err != nil {
			return Rules{}, err
		}
	}
	if err := rules.withPolicy(c, l, ports); err != nil {
		return Rules{}, err
	}
	asks, err := h.choose(c)
	if err != nil {
		return Rules{}, err
	}
	if asks == backendFirewalld {
		rules.Zone = c.Zone
	}
	rules.IPTables = whenOf(c, asks)
	rules.Programs, err = h.programs(rules.Addresses, rules.IPTables)
	return rules, err
}

// whenOf says in which tables of iptables rules are made, given the chosen backend. With
// backendAuto that is not none even if firewalld runs, since a chain of iptables may still
// drop what firewalld accepts.
func whenOf(c Config, asks backendName) whenAsked {
	switch {
	case asks == backendIPTables || asks == backendAuto && c.AdminChosen:
		return always
	case c.Backend == backendAuto:
		return ifThere
	}
	return never
}

// choose is the backend of the configuration; instead of backendAuto, backendFirewalld if
// that runs.
func (h *Host) choose(c Config) (backendName, error) {
	if c.Backend != backendAuto && c.Backend != backendFirewalld {
		return c.Backend, nil
	}
	running, err := h.bus.firewalldRuns()
	switch {
	case running:
		return backendFirewalld, nil
	case c.Backend == backendFirewalld && err == nil:
		return backendAuto, cni.UnsupportedErrorf("backend: %q is asked for, but firewalld does not run on this host; "+
			"start it, or leave the backend out", c.Backend)
	case c.Backend == backendFirewalld:
		return backendAuto, err
	}
	return backendAuto, nil // if the bus does not answer, firewalld does not run
}

// portsOf are those of the result's links that are ports of its bridge.
func portsOf(l links) ([]string, error) {
	bridge, err := netlink.LinkByName(l.routed[0])
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", l.routed[0], err)
	}
	var ports []string
	for _, name := range l.other {
		link, err := netlink.LinkByName(name)
		if netns.IsLinkGone(err) {
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

// Add makes the rules for the owner, and removes those of an earlier ADD that no DEL has
// followed. Each step pushes its inverse to undo, which the caller runs if the ADD fails.
func (h *Host) Add(o cni.Owner, rules Rules, undo *cni.Undo) error {
	if known, err := h.known(o); err != nil || rules.isNothing() && !known {
		return err
	}
	return h.locked(func() (err error) {
		if err := h.prepareTables(rules); err != nil {
			return err
		}
		if rules.Programs, err = h.programs(rules.Addresses, rules.IPTables); err != nil {
			return err
		}
		old, had, err := record.Read[Rules](h.records, place, o)
		if err == nil && had && !reflect.DeepEqual(old.Value, rules) {
			err = h.release(old)
		}
		if err != nil || rules.isNothing() {
			return err
		}
		undo.Push("release the firewall's rules", func() error {
			return h.locked(func() error { return h.release(ruleRecord{Owner: o, Value: rules}) })
		})
		return h.add(o, rules, !had)
	})
}

// add writes the record and makes the rules; isNew says that the owner had no record, and so
// has no rules.
func (h *Host) add(o cni.Owner, rules Rules, isNew bool) error {
	entries := rules.entries(o)
	if err := record.Write(h.records, place, ruleRecord{Owner: o, Shares: shares(entries), Value: rules}); err != nil {
		return err
	}
	for _, place := range placesOf(entries) {
		in := inPlace(entries, place)
		if ip, ok := h.backend(place, rules.AdminChain).(ipBackend); ok && isNew {
			lacking, err := h.unshared(in, o)
			if err != nil {
				return err
			}
			if added, err := ip.addNew(lacking); err != nil || added {
				if err != nil {
					return err
				}
				continue
			}
		}
		if err := h.backend(place, rules.AdminChain).add(in, h.allEntries); err != nil {
			return explain(err, rules)
		}
	}
	return nil
}

func explain(err error, rules Rules) error {
	if errors.Is(err, nft.ErrUnsupported) {
		return cni.UnsupportedErrorf("%s needs nf_tables%s; load its modules, or leave that out: %w", rules.key(), rules.withConntrack(), err)
	}
	return err
}

// allEntries are the entries of all records. It adds those in tables of iptables that are
// newer than the record.
func (h *Host) allEntries() ([]entry, error) {
	records, err := record.List[Rules](h.records, place, "")
	errs := []error{err}
	for i := range records {
		records[i], err = h.addPrograms(records[i])
		errs = append(errs, err)
	}
	return entriesOf(records), errors.Join(errs...)
}

func entriesOf(records []ruleRecord) []entry {
	var all []entry
	for _, r := range records {
		if !r.Value.Released {
			all = append(all, r.Value.entries(r.Owner)...)
		}
	}
	return all
}

// known says whether the owner has a record.
func (h *Host) known(o cni.Owner) (bool, error) {
	former, err := h.hasFormer()
	if former {
		err = h.locked(func() error { return nil }) // which converts them
	}
	if err != nil {
		return false, err
	}
	_, there, err := record.Read[Rules](h.records, place, o)
	return there, err
}

// Release deletes what only the owner has. It is idempotent and needs only the owner. found
// says whether there was a record; without one, see ReleaseUnrecorded. If something is out of
// reach, like a program of iptables or the bus, Release calls warn and leaves it to GC and
// Restore: an error would keep the plugins before this one from cleaning up.
func (h *Host) Release(o cni.Owner, warn func(error)) (found bool, err error) {
	err = h.locked(func() error {
		var r ruleRecord
		if r, found, err = record.Read[Rules](h.records, place, o); err != nil {
			return err
		}
		if !found {
			return h.records.Remove(place, o, nil) // what a killed ADD left
		}
		if err := h.release(r); err != nil {
			warn(err)
			r.Value.Released = true
			return record.Write(h.records, place, r)
		}
		return nil
	})
	return found, err
}

// release deletes those entries of the record that nobody else needs, and then the record.
func (h *Host) release(r ruleRecord) error {
	entries := r.Value.entries(r.Owner)
	free, err := h.unshared(entries, r.Owner)
	if err != nil {
		return err
	}
	var errs []error
	for _, place := range placesOf(free) {
		errs = append(errs, h.backend(place, r.Value.AdminChain).remove(inPlace(free, place)))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the record stays, for another attempt
	}
	return h.records.Remove(place, r.Owner, shares(entries))
}

// unshared are those of the entries that nobody but the owner needs.
func (h *Host) unshared(entries []entry, o cni.Owner) ([]entry, error) {
	var free []entry
	for _, e := range entries {
		if share := e.share(); share != "" {
			shared, err := h.records.Others(place, share, o)
			if err != nil {
				return nil, err
			}
			if shared {
				continue
			}
		}
		free = append(free, e)
	}
	return free, nil
}

// ReleaseUnrecorded deletes rules for the result's links and addresses that have no record:
// it was lost, or the reference plugin made them, whose rules have no owner. It keeps what a
// record of another owner needs, and the policies of bridges, which GC removes. result may be
// nil.
func (h *Host) ReleaseUnrecorded(o cni.Owner, c Config, result *cni.Result) error {
	rules := Rules{Addresses: addressesOf(result), AdminChain: c.AdminChain}
	var err error
	rules.Programs, err = h.programsInUse(rules)
	if running, busErr := h.bus.firewalldRuns(); running && busErr == nil && (c.Backend == backendAuto || c.Backend == backendFirewalld) {
		rules.Zone = c.Zone
	}
	ports := linksOf(result).other
	found, portErr := h.unrecordedPorts(o, ports)
	if err = errors.Join(err, portErr); len(found) == 0 && rules.isNothing() {
		return err
	}
	return errors.Join(err, h.locked(func() error {
		if _, there, err := record.Read[Rules](h.records, place, o); err != nil || there {
			return err // an ADD has written it meanwhile
		}
		found, err := h.unrecordedPorts(o, ports)
		errs := []error{err, h.nftables().commit(nft.Changes{Remove: found}, nil)}
		free, err := h.unshared(rules.entries(o), o)
		errs = append(errs, err)
		for _, place := range placesOf(free) {
			errs = append(errs, h.backend(place, c.AdminChain).remove(inPlace(free, place)))
		}
		return errors.Join(errs...)
	}))
}

// unrecordedPorts are the owner's elements for the ports. Without ports, they are searched
// among all elements if the kernel's rules were not compared before (nft.Conn.IsKnown), as
// when all of /run was lost.
func (h *Host) unrecordedPorts(o cni.Owner, ports []string) ([]nft.Element, error) {
	entries := Rules{Policy: policyIsolated, Ports: ports}.entries(o)
	found, err := h.conn.Find(elementsOf(entries))
	if err == nil && len(ports) == 0 {
		found, err = h.listLost()
	}
	return slices.DeleteFunc(found, func(e nft.Element) bool { return e.Owner != o.String() }), err
}

func (h *Host) listLost() ([]nft.Element, error) {
	known, err := h.conn.IsKnown(bridgeTable())
	if err != nil || known {
		return nil, err
	}
	return h.conn.List(bridgeTable())
}

// programsInUse are the programs of iptables whose table has our chain.
func (h *Host) programsInUse(r Rules) ([]string, error) {
	programs, err := h.programs(r.Addresses, ifThere)
	var inUse []string
	for _, program := range programs {
		there, hasErr := iptables.HasChain(h.conn, program, filterTable, ourChain)
		if err = errors.Join(err, hasErr); there {
			inUse = append(inUse, program)
		}
	}
	return inUse, err
}

// Diff lists, for people, what is not as Add(o, rules) leaves it.
func (h *Host) Diff(o cni.Owner, rules Rules) ([]string, error) {
	var diffs []string
	entries := rules.entries(o)
	if known, err := h.known(o); err != nil {
		return nil, err
	} else if !known && len(entries) > 0 {
		diffs = append(diffs, fmt.Sprintf("record of the firewall's rules for %s: want one, have none", o))
	}
	for _, place := range placesOf(entries) {
		more, err := h.backend(place, rules.AdminChain).diff(inPlace(entries, place))
		if err != nil {
			return nil, err
		}
		diffs = append(diffs, more...)
	}
	return diffs, nil
}

// Status is an error of code 50 if an ADD could not make its rules.
func (h *Host) Status(c Config) error {
	asks, err := h.choose(c)
	if err != nil {
		return cni.UnavailableErrorf("firewall: %w", err)
	}
	if rules := (Rules{Policy: c.Policy, Internal: c.Internal}); rules.asksNFTables() {
		if err := h.conn.Usable(); err != nil {
			return cni.UnavailableErrorf("%s: %w", rules.key(), err)
		}
	}
	when := whenOf(c, asks)
	if when == always {
		for _, f := range iptables.Families() {
			if err := f.Usable(filterTable); err != nil {
				return cni.UnavailableErrorf("firewall, by iptables: %w", err)
			}
		}
		return nil
	}
	if err := h.changeable(c, when); err != nil {
		return cni.UnavailableErrorf("firewall, by iptables: %w", err)
	}
	return nil
}

// changeable is an error if an existing table of iptables can be changed neither over
// netlink nor by its program. A table that does not exist drops nothing.
func (h *Host) changeable(c Config, when whenAsked) error {
	programs, err := h.programs([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, when)
	if err != nil {
		return err
	}
	for _, program := range programs {
		_, native, err := ipBackend{program, c.AdminChain, h.conn}.ours()
		if err == nil && !native {
			_, err = iptables.Save(program, filterTable)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
