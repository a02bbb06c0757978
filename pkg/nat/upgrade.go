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

// Releases before the records of pkg/record kept them in a tree of their own, which a
// node that is upgraded at work still has:
//
//	nat/<backend>/networks/<network>/masquerade       the network's rule
//	nat/<backend>/networks/<network>/users/<owner>    an attachment that the rule serves
//	nat/<backend>/networks/<network>/ports/<owner>    the port mappings of one
//	nat/route_localnet/<bridge>                       switched on by us

// oldPorts is an attachment's file there.
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

// upgrade makes records of this release of them, brings the kernel to it, and removes
// them. A kill meanwhile leaves what the next call goes on with.
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
	for _, file := range files { // only now is there another way
		if err := closeLoopback(filepath.Base(file)); err != nil {
			return err
		}
	}
	if err := (ipTables{h}).removeFormer(); err != nil { // the guard of loopback addresses among it
		return err
	}
	if err := os.RemoveAll(h.store.Dir("nat")); err != nil {
		return cni.IOErrorf("remove records of an earlier release: %w", err)
	}
	return nil
}

func (h *Host) upgradeBackend(backend Backend) error {
	stamp, err := record.NewStamp("") // an attachment of this boot, whose namespace nobody noted
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
		return nil // of an ADD that was killed before it made anything
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
		if err := h.takeOver(p.Owner, stamp, func(t *translation) { t.Ports = &recordedPorts{backend, p.Ports} }); err != nil {
			return err
		}
		if err := h.reservations().take(ownedPorts(p)); err != nil {
			return err
		}
	}
	return nil
}

// takeOver adds to an attachment's record.
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

// closeLoopback takes back the leave to route loopback addresses, which those releases
// gave to bridges with mapped ports. A bridge that is gone took it along.
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
