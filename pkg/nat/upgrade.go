package nat

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Releases before pkg/record kept NAT's records in a directory of their own, which a node that
// was upgraded while containers ran still has:
//
//	nat/<backend>/networks/<network>/masquerade       the network's rule
//	nat/<backend>/networks/<network>/users/<owner>    an attachment that the rule serves
//	nat/<backend>/networks/<network>/ports/<owner>    the port mappings of one
//	nat/route_localnet/<bridge>                       a bridge on which we set route_localnet

// oldPorts is the content of such a file of port mappings.
type oldPorts struct {
	Owner cni.Owner
	Ports
}

// isOld says whether there are such records.
func (h *Host) isOld() (bool, error) {
	_, err := os.Lstat(h.store.Dir("nat"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// upgrade converts such records to those of this release, restores the rules from them, and
// removes the old ones last: after a kill the next call does the rest.
func (h *Host) upgrade() error {
	old, err := h.isOld()
	if err != nil || !old {
		return err
	}
	for _, backend := range []Backend{NFTables, IPTables} {
		if err := h.upgradeBackend(backend); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(h.store.Dir("nat"), "route_localnet", "*"))
	if err != nil {
		return cni.IOErrorf("read records of an earlier release: %w", err)
	}
	if err := h.restore(&cni.Restored{}); err != nil {
		return err
	}
	for _, file := range files { // only now: the restored rules serve 127.0.0.1 without it
		if err := closeLoopback(filepath.Base(file)); err != nil {
			return err
		}
	}
	if err := (ipTables{h}).removeFormer(); err != nil { // also the loopback filter in table raw
		return err
	}
	if err := os.RemoveAll(h.store.Dir("nat")); err != nil {
		return cni.IOErrorf("remove records of an earlier release: %w", err)
	}
	return nil
}

func (h *Host) upgradeBackend(backend Backend) error {
	stamp, err := record.NewStamp("") // of this boot: the old records have no network namespace
	if err != nil {
		return err
	}
	networks, err := filepath.Glob(filepath.Join(h.store.Dir("nat"), string(backend), "networks", "*"))
	if err != nil {
		return cni.IOErrorf("read records of an earlier release: %w", err)
	}
	for _, dir := range networks {
		if err := h.upgradeMasquerade(backend, dir, stamp); err != nil {
			return err
		}
		if err := h.upgradePorts(backend, dir, stamp); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) upgradeMasquerade(backend Backend, dir string, stamp record.Stamp) error {
	var rule Masquerade
	if !readOld(filepath.Join(dir, "masquerade"), &rule) {
		return nil // an ADD was killed before it made anything
	}
	users, _ := filepath.Glob(filepath.Join(dir, "users", "*")) // a pattern that is well formed
	for _, file := range users {
		var user struct{ Owner cni.Owner }
		if !readOld(file, &user) {
			continue // likewise
		}
		if err := h.takeOver(user.Owner, stamp, func(t *translation) { t.Masquerade = &recordedMasquerade{backend, rule} }); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) upgradePorts(backend Backend, dir string, stamp record.Stamp) error {
	files, _ := filepath.Glob(filepath.Join(dir, "ports", "*")) // a pattern that is well formed
	for _, file := range files {
		var p oldPorts
		if !readOld(file, &p) {
			continue
		}
		p.Bridge = ""
		if err := p.findBridge(); err != nil {
			return err
		}
		ports := recordedPorts{Backend: backend, Ports: p.Ports}
		if err := h.takeOver(p.Owner, stamp, func(t *translation) { t.Ports = &ports }); err != nil {
			return err
		}
		if err := h.reservations().take(ownedPorts(p)); err != nil {
			return err
		}
	}
	return nil
}

// takeOver adds to an attachment's record, or writes its first.
func (h *Host) takeOver(o cni.Owner, stamp record.Stamp, add func(*translation)) error {
	rec, there, err := h.read(o)
	if err != nil {
		return err
	}
	if !there {
		rec = attachmentRecord{Stamp: stamp, Owner: o}
	}
	add(&rec.Value)
	return h.write(rec)
}

// closeLoopback resets route_localnet, which those releases set on bridges with mapped ports.
// A bridge that is gone needs no reset.
func closeLoopback(bridge string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", bridge, "route_localnet"), []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cni.IOErrorf("keep %s from routing loopback addresses: %w", bridge, err)
	}
	return nil
}

func readOld(path string, v any) bool {
	data, err := rawfile.Read(path)
	return err == nil && json.Unmarshal(data, v) == nil
}
