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
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nft"
	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// spoofTable drops frames that enter by a port in the set ports with a source MAC that is not
// in the set allowed. Each checked port has an element in both, so the number of rules, and
// the cost of a frame, do not depend on the number of ports.
//
//	table bridge trestle {
//		set ports   { type ifname; flags timeout; }
//		set allowed { type ifname . ether_addr; flags timeout; }
//		chain prerouting {
//			type filter hook prerouting priority raw; policy accept;
//			iifname @ports iifname . ether saddr != @allowed drop
//		}
//	}
func spoofTable() nft.Table {
	// an ifname takes four of the 32-bit registers; the MAC follows it in the key
	const ifname, mac = unix.NFT_REG32_00, unix.NFT_REG32_00 + 4
	return nft.Table{
		Family: nftables.TableFamilyBridge, Name: "trestle", Key: "macspoofchk 2",
		Sets: []nft.Set{
			{Name: spoofPorts, Key: []nftables.SetDatatype{nftables.TypeIFName}},
			{Name: spoofAllowed, Key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr}},
		},
		Chains: []nft.Chain{{
			Name: spoofChain,
			Hook: &nft.Hook{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
			Rules: []nft.Rule{{Comment: "MAC spoof check", Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: ifname},
				&expr.Lookup{SourceRegister: ifname, SetName: spoofPorts},
				&expr.Payload{DestRegister: mac, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
				&expr.Lookup{SourceRegister: ifname, SetName: spoofAllowed, Invert: true},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}}},
		}},
	}
}

const (
	spoofChain   = "prerouting"
	spoofPorts   = "ports"
	spoofAllowed = "allowed"
)

// spoofChanges add the check of the attachment's port: the table and the port's elements.
func spoofChanges(port string, mac net.HardwareAddr, o cni.Owner) nft.Changes {
	element := func(set string, key []byte) nft.Element {
		t := spoofTable()
		what := fmt.Sprintf("%s, for %s alone", port, mac)
		return nft.Element{Family: t.Family, Table: t.Name, Set: set, Key: key, Owner: o.String(), What: what}
	}
	return nft.Changes{Tables: []nft.Table{spoofTable()}, Create: []nft.Element{
		element(spoofPorts, nft.InterfaceKey(port)),
		element(spoofAllowed, append(nft.InterfaceKey(port), append(append([]byte{}, mac...), 0, 0)...)),
	}}
}

// spoofPlace is the place of the records of checked ports.
const spoofPlace = "macspoofchk"

type spoofRecord = record.Record[spoofCheck]

type spoofCheck struct{ Port, MAC string }

func changesOf(r spoofRecord) nft.Changes {
	mac, _ := net.ParseMAC(r.Value.MAC) // written by us; if somebody has made it invalid, no MAC is allowed
	return spoofChanges(r.Value.Port, mac, r.Owner)
}

// SpoofChecks makes, checks and removes the MAC checks of the host's ports. The caller of a
// method holds the lock of the records. Add and Release return the changes, so that the
// caller can commit them in one transaction with its own.
type SpoofChecks struct {
	records record.Store
	conn    *nft.Conn
}

// OpenSpoofChecks reads and changes nothing yet.
func OpenSpoofChecks(records record.Store, conn *nft.Conn) SpoofChecks {
	return SpoofChecks{records, conn}
}

// Add records the check of the attachment's port and returns the changes that make it. The
// caller pushes Remove to its undo first, and then commits the changes. Elements of an
// earlier ADD that no DEL has followed are removed at once.
func (s SpoofChecks) Add(o cni.Owner, port string, mac net.HardwareAddr) (nft.Changes, error) {
	changes := spoofChanges(port, mac, o)
	stale, err := s.find(o)
	if err != nil {
		return nft.Changes{}, err
	}
	// before the record is overwritten, by which they are found
	if err := s.conn.Commit(nft.Changes{Remove: nft.Without(stale, changes.Create)}, nil); err != nil {
		return nft.Changes{}, err
	}
	there, err := s.conn.HasChain(spoofTable(), spoofChain)
	if err != nil {
		return nft.Changes{}, err
	}
	if !there { // the first port, or somebody has flushed the table, with the elements of others
		if changes, err = s.wanted(changes); err != nil {
			return nft.Changes{}, err
		}
	}
	return changes, record.Write(s.records, spoofPlace, spoofRecord{Owner: o, Value: spoofCheck{port, mac.String()}})
}

// Release returns the changes that remove the check of the attachment's port. It finds the
// elements by the record or, without one, in the kernel. The caller commits the changes and
// then calls Forget.
func (s SpoofChecks) Release(o cni.Owner) (nft.Changes, error) {
	elements, err := s.find(o)
	return nft.Changes{Remove: elements}, err
}

// MayHave says, without asking the kernel, whether there may be a check of the attachment's
// port: there is a record, or one of an earlier release.
func (s SpoofChecks) MayHave(o cni.Owner) (bool, error) {
	if _, err := os.Lstat(s.records.Path(spoofPlace, o)); err == nil {
		return true, nil
	}
	_, err := os.Lstat(filepath.Join(s.records.Dir(spoofPlace), HostName(o))) // of an earlier release
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Forget removes the record, if there is one.
func (s SpoofChecks) Forget(o cni.Owner) error { return s.records.Remove(spoofPlace, o, nil) }

// Remove is Release, a commit of its own, and Forget.
func (s SpoofChecks) Remove(o cni.Owner) error {
	changes, err := s.Release(o)
	if err == nil {
		err = s.conn.Commit(changes, nil)
	}
	if err != nil {
		return err
	}
	return s.Forget(o)
}

// find returns the elements of the attachment's port. Without a record, one look-up in the
// kernel is enough to see that there are none.
func (s SpoofChecks) find(o cni.Owner) ([]nft.Element, error) {
	if err := s.convert(); err != nil {
		return nil, err
	}
	r, there, err := record.Read[spoofCheck](s.records, spoofPlace, o)
	if err != nil || there {
		return changesOf(r).Create, err
	}
	port := spoofChanges(HostName(o), nil, o).Create[:1]
	found, err := s.conn.Find(port)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	all, err := s.conn.List(spoofTable())
	return slices.DeleteFunc(all, func(e nft.Element) bool { return !bytes.HasPrefix(e.Key, port[0].Key) }), err
}

// wanted adds to the changes the elements of all records.
func (s SpoofChecks) wanted(changes nft.Changes) (nft.Changes, error) {
	all, err := record.List[spoofCheck](s.records, spoofPlace, "")
	for _, r := range all {
		more := changesOf(r).Create
		changes.Create = append(changes.Create, nft.Without(more, changes.Create)...)
	}
	return changes, err
}

// Diff lists, for people, what is not as Add leaves it.
func (s SpoofChecks) Diff(o cni.Owner, port string, mac net.HardwareAddr) ([]string, error) {
	if err := s.convert(); err != nil {
		return nil, err
	}
	diffs, err := s.conn.Diff(spoofChanges(port, mac, o))
	if _, there, readErr := record.Read[spoofCheck](s.records, spoofPlace, o); !there {
		diffs, err = append(diffs, fmt.Sprintf("record of the MAC spoof check of %s: want one, have none", port)), errors.Join(err, readErr)
	}
	return diffs, err
}

// Reap removes the checks of all ports for which keep is false, whether a record or only the
// kernel's elements tell of them. For the other ports it makes missing elements again. It
// deletes the table if that is idle then.
func (s SpoofChecks) Reap(keep func(port string) (bool, error)) error {
	if err := s.convert(); err != nil {
		return err
	}
	records, err := record.Sweep[spoofCheck](s.records, spoofPlace, "")
	if err != nil {
		return err
	}
	var kept []nft.Element
	var gone []cni.Owner
	for _, r := range records {
		live, err := keep(r.Value.Port)
		if err != nil {
			return err
		}
		if live {
			kept = append(kept, changesOf(r).Create...)
		} else {
			gone = append(gone, r.Owner)
		}
	}
	changes, err := s.repairs(kept, keep)
	if err == nil {
		err = s.conn.Commit(changes, nil)
	}
	if err != nil {
		return err
	}
	for _, o := range gone {
		err = errors.Join(err, s.Forget(o))
	}
	return errors.Join(err, s.conn.DeleteIdle(spoofTable()))
}

// repairs are the changes that add those of the kept elements that are missing, and remove
// other elements: of the ports of kept ones, and of ports for which keep is false.
func (s SpoofChecks) repairs(kept []nft.Element, keep func(port string) (bool, error)) (nft.Changes, error) {
	found, err := s.conn.List(spoofTable())
	changes := nft.Changes{Create: nft.Without(kept, found)}
	if len(found)+len(kept) > 0 {
		changes.Tables = []nft.Table{spoofTable()}
	}
	recorded := map[string]bool{}
	for _, e := range kept {
		recorded[e.Interface()] = true
	}
	for _, e := range nft.Without(found, kept) {
		live, keepErr := keep(e.Interface())
		if err = errors.Join(err, keepErr); !live || recorded[e.Interface()] {
			changes.Remove = append(changes.Remove, e)
		}
	}
	return changes, err
}

// Restore makes missing elements of the records again, and removes other elements of their
// ports.
func (s SpoofChecks) Restore(done *cni.Restored) error {
	if err := s.convert(); err != nil {
		return err
	}
	return s.remake(done)
}

func (s SpoofChecks) remake(done *cni.Restored) error {
	changes, err := s.wanted(nft.Changes{})
	if err == nil {
		changes, err = s.repairs(changes.Create, func(string) (bool, error) { return true, nil })
	}
	var made []string
	for _, e := range changes.Create {
		if !slices.Contains(made, e.Owner) {
			made = append(made, e.Owner)
			done.Add(e.Owner, cni.Made{What: "MAC checks"})
		}
	}
	return errors.Join(err, s.conn.Commit(changes, nil))
}

// convert replaces records, and then the table, of releases before pkg/record: files named
// after the port that contain "MAC label", in a directory that everybody may open, by
// whose mode they are recognized. A shortened label does not tell the owner, so it gets no
// record; find finds its elements in the kernel by the port.
func (s SpoofChecks) convert() error {
	dir := s.records.Dir(spoofPlace)
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().Perm() == 0o700 {
		return nil
	}
	if err != nil {
		return cni.IOErrorf("records of MAC spoof checks: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return cni.IOErrorf("records of MAC spoof checks: %w", err)
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			if err := s.convertFile(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return cni.IOErrorf("records of MAC spoof checks: %w", err)
	}
	return s.remake(&cni.Restored{})
}

func (s SpoofChecks) convertFile(path string) error {
	text, err := rawfile.Read(path)
	if err != nil && !errors.Is(err, rawfile.ErrUnfit) {
		return cni.IOErrorf("record of a MAC spoof check: %w", err)
	}
	port := filepath.Base(path)
	mac, label, _ := strings.Cut(string(text), " ")
	if o, ok := cni.ParseOwner(label); ok && HostName(o) == port {
		if err := record.Write(s.records, spoofPlace, spoofRecord{Owner: o, Value: spoofCheck{port, mac}}); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil {
		return cni.IOErrorf("record of a MAC spoof check: %w", err)
	}
	return nil
}

// Layouts are the names of what we put into tables of nftables (nft.Table.Key).
func Layouts() []string { return []string{spoofTable().Key} }
