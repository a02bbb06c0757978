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

// What a container sends arrives at its host veth, where the kernel can drop it but not queue
// it. So it is redirected to an ifb, an intermediate functional block, and queued there.

// aliasPrefix begins the ifalias of our links; the owner's label follows.
const aliasPrefix = "trestle:"

func alias(o cni.Owner) string { return aliasPrefix + o.String() }

const (
	namePrefix = "bwp"
	nameDigits = 12 // 15 bytes in all, the most that IFNAMSIZ allows
)

// names are the names that the owner's ifb may have. The first is the reference plugin's, so
// that either plugin finds what the other made. That one is the same for all interfaces of a
// container on a network, hence the second.
func names(o cni.Owner) []string {
	sum := sha512.Sum512([]byte(o.Network + o.ContainerID))
	return []string{namePrefix + hex.EncodeToString(sum[:])[:nameDigits], namePrefix + o.Hash(nameDigits)}
}

// mark is the MAC of a network's ifbs: 02, "bw", and a hash of the network. The alias can only
// be set after the ifb was created, so an ifb that a killed ADD left is recognized by its MAC.
func mark(network string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(network))
	return append(net.HardwareAddr{0x02, 'b', 'w'}, sum[:3]...)
}

// isUnnamed says whether the link is an ifb of the network without an alias.
func isUnnamed(link netlink.Link, network string) bool {
	a := link.Attrs()
	return link.Type() == "ifb" && a.Alias == "" && bytes.Equal(a.HardwareAddr, mark(network))
}

// createIFB creates the owner's ifb, after deleting that of an earlier ADD.
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
		// TxQLen 0 leaves the queue length to the kernel's default for an ifb
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

// nameIFB sets the alias of the ifb and sets it up. If that fails, it deletes the ifb.
func (h *Host) nameIFB(o cni.Owner, name string) (netlink.Link, error) {
	device, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkSetAlias(device, alias(o))
	}
	if err == nil {
		err = h.nl.LinkSetUp(device)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set alias of ifb %s and set it up: %w", name, err), h.deleteLink(name))
	}
	return device, nil
}

// deleteIFB deletes the owner's ifb. It deletes one without an owner, which the reference
// plugin made, only if prev lists it, or if prev is nil.
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

// findIFB is the owner's ifb, or that of the reference plugin; nil if there is none.
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

// find is the link of that name, nil if there is none.
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

// GC deletes the ifbs of the network's attachments that are not valid, and those that a killed
// ADD left without an alias. Without a list it deletes only the latter, since the others are
// not provably dead.
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

// deleteUnnamed deletes ifbs without an alias, under the exclusive lock, so that no ADD is
// between creating an ifb and setting its alias.
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
