package bridge

import (
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// An IPAM plugin of another suite may need the link to find an address (dhcp does). Then
// ADD has two halves: Attach with a plan of the links alone, as on a layer 2 network, and
// Configure with the complete plan that WithLease makes.

// NewLinkPlan is the plan of an ADD whose addresses are not known yet. Unless a MAC is asked
// for, it is derived from the owner, since it cannot be derived from an address: a DHCP
// server then gives a restarted container the address that it had.
func NewLinkPlan(c Config, o cni.Owner) (State, error) {
	if c.MAC == nil {
		c.MAC = macFromOwner(o)
	}
	return NewPlan(c, o, Lease{})
}

// WithLease is the complete plan: that of the links, as Attach has filled it in, with the
// lease.
func (s State) WithLease(c Config, o cni.Owner, l Lease) (State, error) {
	c.MAC = s.Container.MAC
	plan, err := NewPlan(c, o, l)
	if err != nil {
		return State{}, err
	}
	plan.Container.WasUp = s.Container.Up
	plan.Bridge.MAC, plan.Bridge.DefaultVLAN, plan.Port.MAC = s.Bridge.MAC, s.Bridge.DefaultVLAN, s.Port.MAC
	err = plan.setMTU(s.Bridge.MTU)
	return plan, err
}

// Configure gives bridge and container the addresses and routes of a plan whose links Attach
// has made. The caller runs undo after it has deleted the container's link: the inverses
// keep a gateway while a container may use it.
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

// giveGateways does what join does for the gateway addresses.
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

// forgetAdvertised deletes the addresses and routes that router advertisements have added
// since the link came up, on a network whose IPAM plugin gives IPv6 addresses. It does so by
// switching IPv6 off; setSysctls switches it on again. If /proc/sys is read-only, they stay.
func forgetAdvertised(container *netns.Handle, ifName string) error {
	return container.Enter(func() error {
		for _, setting := range [][2]string{{"accept_ra", "0"}, {"autoconf", "0"}, {"disable_ipv6", "1"}} {
			if writeSysctl("ipv6/conf/"+ifName+"/"+setting[0], setting[1]) != nil {
				return nil // /proc/sys is read-only
			}
		}
		return nil
	})
}
