package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/google/nftables"
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
const spoofTable = "trestle"

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
		ports: &nftables.Set{Table: table, Name: "ports", KeyType: nftables.TypeIFName},
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
	if err := os.WriteFile(filepath.Join(h.dir, s.Port.Name), []byte(s.Container.MAC.String()), 0o600); err != nil {
		return cni.IOErrorf("record of MAC check: %w", err)
	}
	n, err := newSpoof()
	if err != nil {
		return err
	}
	if err := n.ensureTable(); err != nil {
		return err
	}
	for set, key := range n.elements(s.Port.Name, s.Container.MAC) {
		if err := n.conn.SetAddElements(set, []nftables.SetElement{{Key: key, Comment: o.String()}}); err != nil {
			return fmt.Errorf("check MACs of %s: %w", s.Port.Name, err)
		}
	}
	if err := n.conn.Flush(); err != nil {
		return fmt.Errorf("check MACs of %s: %w", s.Port.Name, err)
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

// ensureTable adds the table with its sets and rule unless it is there.
func (n *spoof) ensureTable() error {
	tables, err := n.conn.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == spoofTable {
			return nil
		}
	}
	n.conn.AddTable(n.table)
	for _, set := range []*nftables.Set{n.ports, n.allowed} {
		if err := n.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("add set %s: %w", set.Name, err)
		}
	}
	chain := n.conn.AddChain(&nftables.Chain{
		Table: n.table, Name: "prerouting", Type: nftables.ChainTypeFilter,
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
	if err := forgetPort(port, string(text), last); err != nil {
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

// forgetPort deletes the port's elements, or the whole table after the last one.
func forgetPort(port, record string, last bool) error {
	n, err := newSpoof()
	if err != nil {
		return err
	}
	if last {
		n.conn.DelTable(n.table)
		return n.flush("delete table bridge " + spoofTable)
	}
	mac, err := net.ParseMAC(record)
	if err != nil {
		return nil // an ADD was killed while it wrote the record, which comes first
	}
	elements := n.elements(port, mac)
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

// isGuarded says whether the port is in the check.
func isGuarded(port string) (bool, error) {
	n, err := newSpoof()
	if err != nil {
		return false, err
	}
	elements, err := n.conn.GetSetElements(n.ports)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list set %s of table bridge %s: %w", n.ports.Name, spoofTable, err)
	}
	for _, e := range elements {
		if unix.ByteSliceToString(e.Key) == port {
			return true, nil
		}
	}
	return false, nil
}
