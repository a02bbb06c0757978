package bandwidth

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// lockDir has the lock file.
const lockDir = "/run/trestle/bandwidth"

// Host is the network namespace of the host veths: the caller's.
type Host struct{ nl *netlink.Handle }

// Open opens a netlink socket in the caller's namespace.
func Open() (*Host, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Host{h}, nil
}

// Close closes the socket.
func (h *Host) Close() { h.nl.Close() }

// FindHostVeth is the interface of prev that is the peer of the container's interface ifName
// in the namespace at path. The error has code 4 for the namespace, 7 if there is no peer.
func (h *Host) FindHostVeth(prev *cni.Result, ifName, path string) (netlink.Link, error) {
	inside, err := findInside(ifName, path)
	if err != nil {
		return nil, err
	}
	for _, name := range cni.HostLinks(prev) {
		link, err := h.find(name)
		if err != nil {
			return nil, err
		}
		if link != nil && link.Type() == "veth" && link.Attrs().Index == inside.ParentIndex && link.Attrs().ParentIndex == inside.Index {
			return link, nil
		}
	}
	return nil, cni.ConfigErrorf("prevResult.interfaces: no link of the host is paired with %s in %s; this plugin comes after one that makes veth pairs, like bridge or ptp", ifName, path)
}

func findInside(ifName, path string) (attrs netlink.LinkAttrs, err error) {
	err = netns.Do(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(ifName)
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", ifName, path, err)
		}
		attrs = *link.Attrs()
		return nil
	})
	return attrs, err
}

// Add makes the limits. It returns the ifb for the owner's egress, nil if that has no limit.
// Each step pushes its inverse to undo, which the caller runs if the ADD fails.
func (h *Host) Add(o cni.Owner, limits Limits, hostVeth netlink.Link, undo *cni.Undo) (netlink.Link, error) {
	mtu := hostVeth.Attrs().MTU
	if !limits.Ingress.isNone() {
		undo.Push("lift the limit of "+hostVeth.Attrs().Name, func() error { return h.removeQueue(hostVeth, netlink.HANDLE_ROOT) })
		if err := newBucket(limits.Ingress, mtu, netlink.TickInUsec()).put(h.nl, hostVeth); err != nil {
			return nil, err
		}
	}
	if limits.Egress.isNone() {
		return nil, nil
	}
	device, err := h.createIFB(o, mtu)
	if err != nil {
		return nil, err
	}
	undo.Push("delete "+device.Attrs().Name, func() error { return h.deleteIFB(o, &cni.Result{}) })
	if err := newBucket(limits.Egress, mtu, netlink.TickInUsec()).put(h.nl, device); err != nil {
		return nil, err
	}
	undo.Push("lift the redirection of "+hostVeth.Attrs().Name, func() error { return h.removeQueue(hostVeth, netlink.HANDLE_INGRESS) })
	return device, h.redirect(hostVeth, device)
}

// redirect redirects all frames that arrive at the host veth to the device.
func (h *Host) redirect(hostVeth, device netlink.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: hostVeth.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	err := h.nl.QdiscAdd(ingress)
	if errors.Is(err, unix.EEXIST) { // that of an earlier ADD that no DEL has followed
		if err = h.removeQueue(hostVeth, netlink.HANDLE_INGRESS); err == nil {
			err = h.nl.QdiscAdd(ingress)
		}
	}
	if err == nil {
		err = h.nl.FilterAdd(&netlink.U32{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: hostVeth.Attrs().Index,
				Parent:    ingress.Handle,
				Priority:  1,
				Protocol:  unix.ETH_P_ALL,
			},
			ClassId: netlink.MakeHandle(1, 1),
			Actions: []netlink.Action{netlink.NewMirredAction(device.Attrs().Index)},
		})
	}
	if err != nil {
		return fmt.Errorf("redirect %s to %s: %w", hostVeth.Attrs().Name, device.Attrs().Name, explain(err))
	}
	return nil
}

// removeQueue deletes the link's qdisc at parent. The kernel then uses its default root qdisc.
func (h *Host) removeQueue(link netlink.Link, parent uint32) error {
	attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: parent}
	err := h.nl.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !netns.IsLinkGone(err) {
		return fmt.Errorf("remove the queue of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// Release deletes the owner's ifb; everything else is deleted with the host veth. prev, which
// may be nil, tells whether the reference plugin made an ifb.
func (h *Host) Release(o cni.Owner, prev *cni.Result) error { return h.deleteIFB(o, prev) }

// Diff lists, for people, what is not as Add leaves it.
func (h *Host) Diff(o cni.Owner, limits Limits, hostVeth netlink.Link) ([]string, error) {
	mtu := hostVeth.Attrs().MTU
	var diffs []string
	if !limits.Ingress.isNone() {
		differs, err := diffBucket(limits.Ingress, mtu, hostVeth)
		if err != nil {
			return nil, err
		}
		diffs = append(diffs, differs...)
	}
	if limits.Egress.isNone() {
		return diffs, nil
	}
	device, err := h.findIFB(o)
	if err != nil {
		return nil, err
	}
	if device == nil {
		return append(diffs, fmt.Sprintf("ifb of %s: want %s, have none", o, names(o)[0])), nil
	}
	differs, err := diffBucket(limits.Egress, mtu, device)
	if err != nil {
		return nil, err
	}
	redirected, err := h.redirects(hostVeth, device)
	if err != nil {
		return nil, err
	}
	if !redirected {
		differs = append(differs, fmt.Sprintf("ingress of %s: want it redirected to %s, have no such filter", hostVeth.Attrs().Name, device.Attrs().Name))
	}
	return append(diffs, differs...), nil
}

func diffBucket(limit limit, mtu int, link netlink.Link) ([]string, error) {
	want := newBucket(limit, mtu, netlink.TickInUsec())
	have, err := findBucket(link)
	if err != nil || have == want {
		return nil, err
	}
	text := have.String()
	if have == (bucket{}) {
		text = "no token bucket"
	}
	return []string{fmt.Sprintf("queue of %s: want %s, have %s", link.Attrs().Name, want, text)}, nil
}

func (h *Host) redirects(hostVeth, device netlink.Link) (bool, error) {
	filters, err := dump.Complete(func() ([]netlink.Filter, error) {
		return h.nl.FilterList(hostVeth, netlink.MakeHandle(0xffff, 0))
	})
	if err != nil {
		return false, fmt.Errorf("list the filters of %s: %w", hostVeth.Attrs().Name, err)
	}
	for _, f := range filters {
		if u32, ok := f.(*netlink.U32); ok && u32.RedirIndex == device.Attrs().Index {
			return true, nil
		}
	}
	return false, nil
}
