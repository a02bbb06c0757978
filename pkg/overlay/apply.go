package overlay

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/dump"
)

// Apply makes the changes. It goes on after an error, so that one peer's does not keep the
// others from being reached, and returns all errors joined. After a killed Apply the next
// Observe and Diff find the rest.
func (h *Host) Apply(c Changes) error {
	var failed error
	do := func(err error) { failed = errors.Join(failed, err) }
	do(h.forward(c.Forwarding))
	device, err := h.applyDevices(c)
	do(err)
	if device == 0 && c.Want.device() != "" {
		return failed // there is nothing that a route could lead to
	}
	if c.Want.Tunnel != nil {
		do(h.applyNeighbours(c, device))
	}
	// The peers' addresses are in the table before a route leads to them: the answer of a
	// peer that is not in it yet would be dropped.
	if c.Peers {
		do(h.applyPeers(c.Want))
	}
	do(h.applyRoutes(c, device))
	return failed
}

// forward switches forwarding on. Nothing switches it off again: other programs of the
// host may have come to rely on it.
func (h *Host) forward(f Families) error {
	var failed error
	if f.IPv4 {
		failed = writeSysctl(forward4, "1")
	}
	if f.IPv6 {
		failed = errors.Join(failed, h.keepRouterAdvertisements(), writeSysctl(forward6, "1"))
	}
	return failed
}

// keepRouterAdvertisements raises accept_ra from 1 to 2 on links with routes from router
// advertisements: a host that forwards would lose these (kernel, networking/ip-sysctl).
func (h *Host) keepRouterAdvertisements() error {
	routes, err := dump.Complete(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, unix.AF_INET6) })
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_RA || r.LinkIndex == 0 {
			continue
		}
		if err := h.acceptAdvertisements(r.LinkIndex); err != nil {
			return err
		}
	}
	return nil
}

// acceptAdvertisements raises accept_ra of one link; one that is gone by now has lost its
// routes.
func (h *Host) acceptAdvertisements(index int) error {
	link, err := h.linkAt(index)
	if err != nil || link == nil {
		return err
	}
	setting := "ipv6/conf/" + link.Attrs().Name + "/accept_ra"
	if readSysctl(setting) != "1" {
		return nil
	}
	return unlessGone(writeSysctl(setting, "2"))
}

// unlessGone is nil for the error of a link's sysctl where the link is gone.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (h *Host) applyNeighbours(c Changes, tunnel int) error {
	var all []message
	for _, f := range c.AddFDB {
		all = append(all, setNeigh(f, f.neigh(tunnel)))
	}
	for _, n := range c.AddNeighbours {
		all = append(all, setNeigh(n, n.neigh(tunnel)))
	}
	for _, f := range c.DelFDB {
		all = append(all, delNeigh(f, f.neigh(tunnel)))
	}
	for _, n := range c.DelNeighbours {
		all = append(all, delNeigh(n, n.neigh(tunnel)))
	}
	return errors.Join(h.send(all)...)
}

// applyRoutes adds and deletes routes. A route of ours that is in the place of one to be
// added is deleted first, and the new one sent again.
func (h *Host) applyRoutes(c Changes, device int) error {
	var all, again []message
	for _, r := range c.AddRoutes {
		all = append(all, r.add(device))
	}
	errs := h.send(all)
	for i, r := range c.AddRoutes {
		if errors.Is(errs[i], unix.EEXIST) {
			errs[i] = nil
			again = append(again, r.del(), r.add(device))
		}
	}
	for _, r := range c.DelRoutes {
		again = append(again, r.del())
	}
	return errors.Join(append(errs, h.send(again)...)...)
}

// Remove removes all that Trestle made here, and nothing else. mac is the tunnel's.
func (h *Host) Remove(mac string) error {
	have, err := h.observe(State{Tunnel: &Tunnel{MAC: mac}}, true)
	if err != nil {
		return err
	}
	failed := h.Apply(Diff(State{}, have))
	return errors.Join(failed, h.removePeers())
}
