package bridge

import (
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// An IPAM plugin of another program may need the link to find an address (dhcp
// does). Then the attachment is made in two halves: Attach with a plan of links
// alone, as on a layer 2 network, and Configure with the plan that WithLease
// makes of it.

// NewLinkPlan is the first half of an ADD whose addresses are not known yet. The
// MAC, which cannot be derived from them, is derived from the owner unless one is
// asked for: a DHCP server then gives a container that comes again the address
// that it had.
func NewLinkPlan(c Config, o cni.Owner) (State, error) {
	if c.MAC == nil {
		c.MAC = macFromOwner(o)
	}
	return NewPlan(c, o, Lease{})
}

// WithLease is the whole plan, of links as they are and what has been leased.
func (s State) WithLease(c Config, o cni.Owner, l Lease) (State, error) {
	c.MAC = s.Container.MAC
	whole, err := NewPlan(c, o, l)
	if err != nil {
		return State{}, err
	}
	whole.Container.WasUp = s.Container.Up
	whole.Bridge.MAC, whole.Bridge.DefaultVLAN, whole.Port.MAC = s.Bridge.MAC, s.Bridge.DefaultVLAN, s.Port.MAC
	err = whole.setMTU(s.Bridge.MTU)
	return whole, err
}

// Configure gives bridge and container the addresses and routes of a plan whose
// links Attach has made. What is undone of it is for the time when the container's
// link is gone again: a gateway stays while there is a container that may use it.
func (h *Host) Configure(s *State, container *netns.Handle, undo *cni.Undo) error {
	at, err := h.giveGateways(s, undo)
	if err != nil {
		return err
	}
	if s.Container.hasIPv6() {
		if err := forgetAdvertised(container, s.Container.Name); err != nil {
			return err
		}
	}
	return h.configure(s, at, container)
}

// giveGateways is the part of join that is about addresses.
func (h *Host) giveGateways(s *State, undo *cni.Undo) (site, error) {
	unlock, err := lock(flock.Shared)
	if err != nil {
		return site{}, err
	}
	defer unlock()
	at, err := h.look(s.Bridge)
	if err != nil {
		return site{}, err
	}
	if err := h.refuse(s, at); err != nil {
		return site{}, err
	}
	return at, h.ensureGateways(s.Bridge, &at, undo)
}

// forgetAdvertised drops the addresses and routes that routers have advertised since
// the link came up: on a network whose IPAM gives IPv6 addresses, nobody asked for
// them. IPv6 goes off, and comes on again with the container's own addresses. Where
// /proc/sys cannot be written they stay.
func forgetAdvertised(container *netns.Handle, ifName string) error {
	return container.Enter(func() error {
		for _, setting := range [][2]string{{"accept_ra", "0"}, {"autoconf", "0"}, {"disable_ipv6", "1"}} {
			if writeSysctl("ipv6/conf/"+ifName+"/"+setting[0], setting[1]) != nil {
				return nil // see above
			}
		}
		return nil
	})
}
