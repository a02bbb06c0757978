package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// The check for spoofed MACs is one table for the whole host, in the bridge
// family:
//
//	table bridge trestle {
//		set ports   { type ifname; }
//		set allowed { type ifname . ether_addr; }
//		chain prerouting {
//			type filter hook prerouting priority -300; policy accept;
//			iifname @ports iifname . ether saddr != @allowed drop
//		}
//	}
//
// A port costs one element of each set, whatever the number of ports. A record
// in the Host's directory says which ports are in it, so that the DEL of any
// other port needs no nftables socket. The directory is also the lock, and goes
// with the table after its last port.
const (
	spoofTable = "trestle"
	spoofChain = "prerouting"
)

// spoof is the table in memory.
type spoof struct {
	conn           *nftables.Conn
	table          *nftables.Table
	ports, allowed *nftables.Set
}

func newSpoof() (*spoof, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Name: spoofTable, Family: nftables.TableFamilyBridge}
	return &spoof{
		conn: conn, table: table,
		// the byte order is for those who list the set (NFTNL_UDATA_SET_KEYBYTEORDER)
		ports: &nftables.Set{Table: table, Name: "ports", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		allowed: &nftables.Set{
			Table: table, Name: "allowed", Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr),
		},
	}, nil
}

// guard lets only the container's MAC into the port, by one transaction.
func (h *Host) guard(s *State, o cni.Owner, undo *cni.Undo) (err error) {
	if !s.Port.SpoofCheck {
		return nil
	}
	lock, err := h.lockRecords()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	undo.Push("stop checking MACs of "+s.Port.Name, func() error { return h.unguard(s.Port.Name) })
	own := spoofRecord{port: s.Port.Name, mac: s.Container.MAC, label: o.String()}
	if err := own.write(h.dir); err != nil {
		return err
	}
	n, err := newSpoof()
	if err != nil {
		return err
	}
	there, err := n.exists()
	if err != nil {
		return err
	}
	records := []spoofRecord{own}
	if !there {
		// the first port, or the table was flushed with others' elements in it
		if records, err = spoofRecords(h.dir); err != nil {
			return err
		}
		if err := n.addTable(); err != nil {
			return err
		}
	}
	return n.addElements(records)
}

func (n *spoof) addElements(records []spoofRecord) error {
	for _, r := range records {
		if r.mac == nil {
			continue
		}
		for set, key := range n.elements(r.port, r.mac) {
			if err := n.conn.SetAddElements(set, []nftables.SetElement{{Key: key, Comment: r.label}}); err != nil {
				return fmt.Errorf("check MACs of %s: %w", r.port, err)
			}
		}
	}
	if err := n.conn.Flush(); err != nil {
		return fmt.Errorf("check MACs by table bridge %s: %w", spoofTable, err)
	}
	return nil
}

// lockRecords makes the directory and locks it; the last DEL may just take it
// away.
func (h *Host) lockRecords() (*flock.Lock, error) {
	for {
		if err := os.MkdirAll(h.dir, 0o755); err != nil {
			return nil, cni.IOErrorf("records of MAC check: %w", err)
		}
		lock, err := flock.Open(h.dir, flock.Exclusive, flock.DefaultWait)
		if !errors.Is(err, fs.ErrNotExist) {
			return lock, err
		}
	}
}

func (n *spoof) exists() (bool, error) {
	tables, err := n.conn.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == spoofTable }), nil
}

// addTable adds the table with its sets and rule.
func (n *spoof) addTable() error {
	n.conn.AddTable(n.table)
	for _, set := range []*nftables.Set{n.ports, n.allowed} {
		if err := n.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("add set %s: %w", set.Name, err)
		}
	}
	chain := n.conn.AddChain(&nftables.Chain{
		Table: n.table, Name: spoofChain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	n.conn.AddRule(&nftables.Rule{Table: n.table, Chain: chain, Exprs: n.rule()})
	return nil
}

// rule is: iifname @ports iifname . ether saddr != @allowed drop. An ifname
// takes four of the 32-bit registers, the MAC follows.
func (n *spoof) rule() []expr.Any {
	const ifname, mac = unix.NFT_REG32_00, unix.NFT_REG32_00 + 4
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: ifname},
		&expr.Lookup{SourceRegister: ifname, SetName: n.ports.Name, SetID: n.ports.ID},
		&expr.Payload{DestRegister: mac, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Lookup{SourceRegister: ifname, SetName: n.allowed.Name, SetID: n.allowed.ID, Invert: true},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

func (n *spoof) elements(port string, mac net.HardwareAddr) map[*nftables.Set][]byte {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, port)
	return map[*nftables.Set][]byte{
		n.ports:   name,
		n.allowed: append(append([]byte{}, name...), append(append([]byte{}, mac...), 0, 0)...),
	}
}

// unguard takes the port out of the check; the last one takes the table along.
// A port that was never in it costs one look for its record.
func (h *Host) unguard(port string) (err error) {
	record := filepath.Join(h.dir, port)
	if _, err := os.Lstat(record); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := h.lockRecords()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	text, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cni.IOErrorf("record of MAC check: %w", err)
	}
	last, err := isOnlyFile(h.dir)
	if err != nil {
		return err
	}
	if err := parseSpoofRecord(port, text).forget(last); err != nil {
		return err
	}
	if err := os.Remove(record); err != nil {
		return cni.IOErrorf("record of MAC check: %w", err)
	}
	for _, dir := range []string{h.dir, filepath.Dir(h.dir)} {
		_ = os.Remove(dir) // refused while there are other records
	}
	return nil
}

func isOnlyFile(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, cni.IOErrorf("records of MAC check: %w", err)
	}
	defer func() { _ = d.Close() }() // only read from
	names, err := d.Readdirnames(2)
	if err != nil {
		return false, cni.IOErrorf("records of MAC check: %w", err)
	}
	return len(names) == 1, nil
}

// forget deletes the port's elements, or the whole table after the last one.
func (r spoofRecord) forget(last bool) error {
	n, err := newSpoof()
	if err != nil {
		return err
	}
	if last {
		n.conn.DelTable(n.table)
		return n.flush("delete table bridge " + spoofTable)
	}
	if r.mac == nil {
		return nil // nothing was made
	}
	elements := n.elements(r.port, r.mac)
	if err := n.deleteElements(elements); !errors.Is(err, unix.ENOENT) {
		return err
	}
	// one of them is missing, so that neither went: now each for itself
	var failed error
	for set, key := range elements {
		err := n.deleteElements(map[*nftables.Set][]byte{set: key})
		if !errors.Is(err, unix.ENOENT) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

func (n *spoof) deleteElements(elements map[*nftables.Set][]byte) error {
	for set, key := range elements {
		if err := n.conn.SetDeleteElements(set, []nftables.SetElement{{Key: key}}); err != nil {
			return fmt.Errorf("delete element of set %s: %w", set.Name, err)
		}
	}
	if err := n.conn.Flush(); err != nil {
		return fmt.Errorf("delete elements of table bridge %s: %w", spoofTable, err)
	}
	return nil
}

// flush commits a deletion; what is gone already is well.
func (n *spoof) flush(what string) error {
	if err := n.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// isGuarded says whether the port's frames are checked for the MAC: both elements
// and the rule are there.
func isGuarded(port string, mac net.HardwareAddr) (bool, error) {
	n, err := newSpoof()
	if err != nil {
		return false, err
	}
	rules, err := n.conn.GetRules(n.table, &nftables.Chain{Name: spoofChain, Table: n.table})
	if err == nil && len(rules) == 0 || errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list table bridge %s: %w", spoofTable, err)
	}
	for set, key := range n.elements(port, mac) {
		elements, err := n.conn.GetSetElements(set)
		if err != nil {
			return false, fmt.Errorf("list set %s of table bridge %s: %w", set.Name, spoofTable, err)
		}
		if !slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return bytes.Equal(e.Key, key) }) {
			return false, nil
		}
	}
	return true, nil
}

// spoofRecord is the file that says which MAC a port is checked for, and whose it
// is: "MAC label".
type spoofRecord struct {
	port  string
	mac   net.HardwareAddr
	label string
}

// parseSpoofRecord gives no MAC where the record is torn: an ADD was killed while it
// wrote it, which comes first.
func parseSpoofRecord(port string, text []byte) spoofRecord {
	mac, label, _ := strings.Cut(string(text), " ")
	r := spoofRecord{port: port, label: label}
	if parsed, err := net.ParseMAC(mac); err == nil {
		r.mac = parsed
	}
	return r
}

func (r spoofRecord) write(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, r.port), []byte(r.mac.String()+" "+r.label), 0o600); err != nil {
		return cni.IOErrorf("record of MAC check: %w", err)
	}
	return nil
}

// spoofRecords are all of them; none where there is no directory.
func spoofRecords(dir string) ([]spoofRecord, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, cni.IOErrorf("records of MAC check: %w", err)
	}
	var records []spoofRecord
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // its DEL was faster
		}
		if err != nil {
			return nil, cni.IOErrorf("records of MAC check: %w", err)
		}
		records = append(records, parseSpoofRecord(e.Name(), text))
	}
	return records, nil
}

// reapUnguarded takes ports out of the check whose links are gone: with a
// container's namespace its link goes, and nobody tells us.
func (h *Host) reapUnguarded() error {
	records, err := spoofRecords(h.dir)
	failed := err
	for _, r := range records {
		if _, err := h.nl.LinkByName(r.port); isLinkGone(err) {
			failed = errors.Join(failed, h.unguard(r.port))
		}
	}
	return failed
}
