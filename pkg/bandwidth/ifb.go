package bandwidth

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// What a container sends arrives at its host veth, where it can only be dropped,
// not queued. So it is redirected to an intermediate functional block, a device
// of its own, and queued there.

// aliasPrefix marks a link as ours; the owner's label follows.
const aliasPrefix = "trestle:"

func alias(o cni.Owner) string { return aliasPrefix + o.String() }

const (
	namePrefix = "bwp"
	nameDigits = 12 // to 15 bytes in all (IFNAMSIZ)
)

// names are those that the owner's device may have. The first is the reference
// plugin's, so that either finds what the other made; it tells no interfaces of
// a container apart, hence the second.
func names(o cni.Owner) []string {
	sum := sha512.Sum512([]byte(o.Network + o.ContainerID))
	return []string{namePrefix + hex.EncodeToString(sum[:])[:nameDigits], namePrefix + o.Hash(nameDigits)}
}

// mark is the MAC of a network's devices: "02", "bw", and a hash of the network.
// Unlike the alias it is set when the device is made, so that what a killed ADD leaves is
// recognized as ours.
func mark(network string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(network))
	return append(net.HardwareAddr{0x02, 'b', 'w'}, sum[:3]...)
}

// isUnnamed says whether the link is a device that an ADD of the network has not
// named yet.
func isUnnamed(link netlink.Link, network string) bool {
	a := link.Attrs()
	return link.Type() == "ifb" && a.Alias == "" && bytes.Equal(a.HardwareAddr, mark(network))
}

// createIFB makes the owner's device. One that a killed ADD left is deleted first.
func (h *Host) createIFB(o cni.Owner, mtu int) (device netlink.Link, err error) {
	lock, err := h.lock(flock.Shared)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := h.deleteIFB(o, &cni.Result{}); err != nil {
		return nil, err
	}
	var taken error
	for _, name := range names(o) {
		// Without a queue length the block has that of its own kind.
		device := &netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, HardwareAddr: mark(o.Network), TxQLen: 0}}
		taken = h.nl.LinkAdd(device)
		if errors.Is(taken, unix.EEXIST) {
			continue
		}
		if taken != nil {
			return nil, fmt.Errorf("add ifb %s: %w", name, explain(taken))
		}
		return h.nameIFB(o, name)
	}
	return nil, fmt.Errorf("add ifb for %s: %s are taken: %w", o, strings.Join(names(o), " and "), taken)
}

// nameIFB gives the device its owner, then raises it. It is deleted again where
// that fails.
func (h *Host) nameIFB(o cni.Owner, name string) (netlink.Link, error) {
	device, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkSetAlias(device, alias(o))
	}
	if err == nil {
		err = h.nl.LinkSetUp(device)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("name and raise ifb %s: %w", name, err), h.deleteLink(name))
	}
	return device, nil
}

// deleteIFB deletes the owner's device. One that has no owner, since the reference
// plugin made it, stays where prev is known not to list it.
func (h *Host) deleteIFB(o cni.Owner, prev *cni.Result) error {
	var errs []error
	for i, name := range names(o) {
		link, err := h.find(name)
		if link == nil {
			errs = append(errs, err)
			continue
		}
		own := link.Attrs().Alias == alias(o) || isUnnamed(link, o.Network)
		reference := i == 0 && link.Type() == "ifb" && link.Attrs().Alias == "" && (prev == nil || slices.Contains(cni.HostLinks(prev), name))
		if own || reference {
			errs = append(errs, h.deleteLink(name))
		}
	}
	return errors.Join(errs...)
}

// findIFB is the owner's device, or that of the reference plugin; nil where
// there is none.
func (h *Host) findIFB(o cni.Owner) (netlink.Link, error) {
	for _, name := range names(o) {
		link, err := h.find(name)
		if err != nil {
			return nil, err
		}
		if link != nil && (link.Attrs().Alias == alias(o) || link.Attrs().Alias == "") {
			return link, nil
		}
	}
	return nil, nil
}

// find is the link of that name, nil where there is none.
func (h *Host) find(name string) (netlink.Link, error) {
	link, err := h.nl.LinkByName(name)
	if netns.IsLinkGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	return link, nil
}

func (h *Host) deleteLink(name string) error {
	link, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkDel(link)
	}
	if err != nil && !netns.IsLinkGone(err) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// GC deletes the devices of the network's attachments that are not valid, and
// those that a killed ADD left without an owner. Without a list, only the latter
// are provably dead.
func (h *Host) GC(network string, valid cni.Valid) error {
	links, err := dump.Complete(h.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	unnamed := false
	for _, link := range links {
		label, ours := strings.CutPrefix(link.Attrs().Alias, aliasPrefix)
		of := ours && link.Type() == "ifb" && strings.HasPrefix(label, cni.NetworkLabel(network))
		if of && valid.Known && !valid.KeepsLabel(label) {
			errs = append(errs, h.deleteLink(link.Attrs().Name))
		}
		unnamed = unnamed || isUnnamed(link, network)
	}
	if unnamed {
		errs = append(errs, h.deleteUnnamed(network))
	}
	return errors.Join(errs...)
}

// deleteUnnamed deletes devices without an owner. Under the exclusive lock no ADD
// is between making one and naming it.
func (h *Host) deleteUnnamed(network string) (err error) {
	lock, err := h.lock(flock.Exclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	links, err := dump.Complete(h.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, link := range slices.DeleteFunc(links, func(l netlink.Link) bool { return !isUnnamed(l, network) }) {
		errs = append(errs, h.deleteLink(link.Attrs().Name))
	}
	return errors.Join(errs...)
}

func (h *Host) lock(mode flock.Mode) (*flock.Lock, error) {
	return flock.Create(filepath.Join(lockDir, "lock"), mode, flock.DefaultWait)
}
