package firewall

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Releases before pkg/record had files of their own,
//
//	/run/trestle/firewall/lock
//	/run/trestle/firewall/owners/<network>/<owner>       an owner's rules
//	/run/trestle/firewall/users/<place>/<entry>/<owner>  an owner who needs the entry
//
// and tables of nftables of their own. A node is upgraded while containers run on it, so the
// first command after an upgrade converts both.

// formerRecord is an owner's file.
type formerRecord struct {
	Owner cni.Owner
	Rules struct {
		Policy            policy
		Interfaces, Ports []string
		Addresses         []netip.Addr
		Forwards          []struct{ Program string }
		Zone, AdminChain  string
	}
}

func (f formerRecord) now() ruleRecord {
	rules := Rules{
		Policy: f.Rules.Policy, Interfaces: f.Rules.Interfaces, Ports: f.Rules.Ports, Addresses: f.Rules.Addresses,
		IPTables: ifThere, AdminChain: f.Rules.AdminChain, Zone: f.Rules.Zone,
	}
	for _, forward := range f.Rules.Forwards {
		rules.Programs = append(rules.Programs, forward.Program)
	}
	return ruleRecord{Owner: f.Owner, Shares: shares(rules.entries(f.Owner)), Value: rules}
}

func (h *Host) formerLock() string { return filepath.Join(h.records.Dir(place), "lock") }

// hasFormer says whether there are records of such a release. It created its lock first, and
// convert removes that last.
func (h *Host) hasFormer() (bool, error) {
	info, err := os.Lstat(h.formerLock())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cni.IOErrorf("look for records of the firewall: %w", err)
	}
	return info.Mode().IsRegular(), nil
}

// convert replaces the records and tables of earlier releases. It takes their lock, since one
// of their plugins may still be running, and removes it last, so that after a kill the next
// command starts again.
func (h *Host) convert() (err error) {
	former, err := h.hasFormer()
	if err != nil || !former {
		return err
	}
	lock, err := flock.Open(h.formerLock(), flock.Exclusive, flock.DefaultWait)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	dir := h.records.Dir(place)
	if err := os.Chmod(dir, 0o700); err != nil {
		return cni.IOErrorf("take over records of the firewall: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "owners", "*", "*"))
	if err != nil {
		return err
	}
	var entries []entry
	for _, file := range files {
		data, err := rawfile.Read(file)
		if err != nil && !errors.Is(err, rawfile.ErrUnfit) {
			return cni.IOErrorf("take over a record of the firewall: %w", err)
		}
		var former formerRecord
		if json.Unmarshal(data, &former) != nil {
			continue // truncated, or no record at all: nothing was made
		}
		now := former.now()
		if err := record.Write(h.records, place, now); err != nil {
			return err
		}
		entries = append(entries, now.Value.entries(now.Owner)...)
	}
	if err := h.takeOver(elementsOf(inPlace(entries, nftPlace))); err != nil {
		return err
	}
	for _, path := range []string{"users", "owners", "lock"} {
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			return cni.IOErrorf("remove records of the firewall: %w", err)
		}
	}
	return nil
}

// takeOver adds the given elements, and those of earlier releases' tables, to our tables,
// and then deletes the earlier tables. The policy is enforced all the time.
func (h *Host) takeOver(elements []nft.Element) error {
	var former []nft.Table
	for _, t := range tables() {
		t.Name = formerTable
		there, err := h.conn.Exists(t)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		former = append(former, t)
		found, err := h.conn.List(t)
		if err != nil {
			return err
		}
		for i := range found {
			found[i].Table, found[i].Shared = tableName, t.Family == nftables.TableFamilyINet
		}
		elements = append(elements, nft.Without(found, elements)...)
	}
	if err := h.nftables().commit(nft.Changes{Tables: tablesOf(elements), Create: elements}, nobody); err != nil {
		return err
	}
	var errs []error
	for _, t := range former {
		errs = append(errs, h.conn.DeleteTable(t))
	}
	return errors.Join(errs...)
}

const formerTable = "trestle_firewall"
