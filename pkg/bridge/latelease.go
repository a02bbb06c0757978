package bridge

import (
	"fmt"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
)

// An IPAM plugin of another program may need the link to find an address (dhcp
// does). Then the attachment is made in two halves: Attach with a plan of links
// alone, as on a layer 2 network, and Configure with the plan that WithLease
// makes of it.

// NewLinkPlan is the first half of an ADD whose addresses are not known yet. The
// MAC, which cannot be made of them, is made of the owner unless one is asked for:
// a DHCP server then gives a container that comes again the address that it had.
func NewLinkPlan(c Config, o cni.Owner, mtu int) (State, error) {
	if c.MAC == nil {
		c.MAC = macFromOwner(o)
	}
	return NewPlan(c, o, Lease{}, mtu)
}

// WithLease is the whole plan, of links as they are and what has been leased.
func (s State) WithLease(c Config, o cni.Owner, l Lease) (State, error) {
	c.MAC, c.MTU = s.Container.MAC, s.Container.MTU
	whole, err := NewPlan(c, o, l, s.Container.MTU)
	whole.Bridge.MAC, whole.Bridge.DefaultVLAN, whole.Port.MAC = s.Bridge.MAC, s.Bridge.DefaultVLAN, s.Port.MAC
	return whole, err
}

// Configure gives bridge and container the addresses and routes of a plan whose
// links Attach has made. What is undone of it is for the time when the container's
// link is gone again: a gateway stays while there is a container that may use it.
func (h *Host) Configure(s State, sandbox *Sandbox, undo *cni.Undo) error {
	steps := []func() error{
		func() error { return h.giveGateways(s.Bridge, undo) },
		func() error { return sandbox.configure(s.Container) },
		func() error { return h.forgetNeighbours(s) },
		func() error { return sandbox.Announce(s.Container) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) giveGateways(b Bridge, undo *cni.Undo) error {
	if len(b.Gateways) == 0 {
		return nil
	}
	lock, err := lock(flock.Shared)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }() // closed is free
	bridge, err := h.findBridge(b.Name)
	if err != nil {
		return fmt.Errorf("give gateways: %w", err)
	}
	return h.ensureGateways(b, bridge, undo)
}
