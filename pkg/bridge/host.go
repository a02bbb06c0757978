package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/flock"
	"github.com/trestle-cni/trestle/pkg/nft"
)

// Host is the network namespace that the bridges are in: the caller's.
type Host struct {
	nl  *netlink.Handle
	dir string
	nft *nft.Conn // of the MAC spoof check, once it is used
}

// DefaultDir holds a record for each port whose source MAC is checked.
const DefaultDir = "/run/trestle/macspoofchk"

// forwardingLimit bounds the wait for a new port, which takes no time at all.
const forwardingLimit = 10 * time.Second

// OpenHost opens a netlink socket in the caller's namespace. Records go to dir.
func OpenHost(dir string) (*Host, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Host{nl: h, dir: dir}, nil
}

// Close closes the socket.
func (h *Host) Close() { h.nl.Close() }

// lock keeps the bridges of the namespace from being deleted (flock.Shared) or
// used (flock.Exclusive) by others. An ADD holds it until its port is on the
// bridge; from then on the port keeps the bridge. What is locked is the namespace
// itself, which needs no file, and reaches as far as the names of bridges do.
func lock(mode flock.Mode) (*flock.Lock, error) {
	return flock.Open("/proc/thread-self/ns/net", mode, flock.DefaultWait)
}

// whileUnused calls fn, while no ADD is at work, if the bridge is there and has
// no container on it.
func (h *Host) whileUnused(bridge string, fn func(netlink.Link) error) error {
	return h.whileIdle(func() error {
		link, err := h.nl.LinkByName(bridge)
		if isLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s: %w", bridge, err)
		}
		ports, err := h.ports(bridge)
		if err != nil || slices.ContainsFunc(ports, isContainer) {
			return err
		}
		return fn(link)
	})
}

func isContainer(port netlink.Link) bool {
	_, ok := ownerLabel(port.Attrs().Alias)
	return ok
}

// whileIdle calls fn while no ADD is between its bridge and its port.
func (h *Host) whileIdle(fn func() error) error {
	lock, err := lock(flock.Exclusive)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }() // closed is free
	return fn()
}

// DefaultMTU is the MTU of the route that a packet to the world would take, IPv4
// before IPv6, or of the route's link; and 1500 on a host without a default route.
func (h *Host) DefaultMTU() int {
	for _, world := range []string{"1.1.1.1", "2606:4700::1111"} { // any global address: nothing is sent
		routes, err := h.nl.RouteGet(net.ParseIP(world))
		if err != nil || len(routes) == 0 {
			continue
		}
		if routes[0].MTU >= minMTU {
			return min(routes[0].MTU, maxMTU)
		}
		link, err := h.nl.LinkByIndex(routes[0].LinkIndex)
		if err == nil && link.Attrs().Flags&net.FlagLoopback == 0 && link.Attrs().MTU >= minMTU {
			return min(link.Attrs().MTU, maxMTU)
		}
	}
	return 1500
}

// Attach brings the host and the container to the plan, and fills in the MACs
// that the plan left open. Each step's inverse is on the undo stack at once.
func (h *Host) Attach(s *State, o cni.Owner, sandbox *Sandbox, undo *cni.Undo) error {
	steps := []func() error{
		func() error { return h.join(s, sandbox, undo) },
		func() error { return h.guard(s, o, undo) },
		func() error { return sandbox.configure(s.Container) },
		func() error { return h.awaitPort(s) },
		func() error { return h.forgetNeighbours(*s) },
		func() error { return sandbox.announce(s.Container) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// join makes the bridge what it must be and puts the new port on it. Until then
// nothing but the lock keeps the bridge from a DEL that finds it empty.
func (h *Host) join(s *State, sandbox *Sandbox, undo *cni.Undo) error {
	lock, err := lock(flock.Shared)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }() // closed is free
	bridge, err := h.ensureBridge(s.Bridge, undo)
	if err != nil {
		return explainFiltering(err, s.Port.VLAN)
	}
	s.Bridge.DefaultVLAN = defaultVLAN(bridge)
	if err := h.ensureGateways(s.Bridge, bridge, undo); err != nil {
		return err
	}
	if err := h.plug(s, bridge.Index, sandbox, undo); err != nil {
		return err
	}
	s.Bridge.MAC = bridge.HardwareAddr
	if isOurBridge(s.Bridge.MAC) {
		return nil
	}
	// pinned meanwhile, or that of its lowest port
	if bridge, err = h.findBridge(s.Bridge.Name); err == nil {
		s.Bridge.MAC = bridge.HardwareAddr
	}
	return err
}

// forgetNeighbours makes the host ask anew who has the container's addresses:
// their last user may have had another MAC.
func (h *Host) forgetNeighbours(s State) error {
	if len(s.Bridge.Gateways) == 0 {
		return nil
	}
	link, err := h.nl.LinkByName(s.Bridge.gatewayName())
	if err != nil {
		return fmt.Errorf("look up %s: %w", s.Bridge.gatewayName(), err)
	}
	for _, a := range s.Container.Addresses {
		err := h.nl.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: a.Prefix.Addr().AsSlice()})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget the last user of %s: %w", a.Prefix.Addr(), err)
		}
	}
	return nil
}

// plug makes the veth pair and gives it its name and flags.
func (h *Host) plug(s *State, bridgeIndex int, sandbox *Sandbox, undo *cni.Undo) error {
	s.Port.MAC = randomMAC()
	if s.Container.MAC == nil {
		s.Container.MAC = randomMAC()
	}
	err := createVeth(s.Port, s.Container, bridgeIndex, sandbox.fd())
	if !errors.Is(err, unix.EEXIST) {
		undo.Push("delete "+s.Port.Name, func() error { return h.deleteLink(s.Port.Name) })
	}
	if err != nil {
		return h.explainVeth(err, s.Port, s.Container, s.Bridge.Name)
	}
	if err := dress(s.Port); err != nil {
		return err
	}
	if err := h.setVLAN(s.Port, s.Bridge.DefaultVLAN); err != nil {
		return err
	}
	return h.raiseQuietly(s.Port)
}

func (h *Host) awaitPort(s *State) error {
	if !s.Container.Up {
		return nil
	}
	return h.awaitForwarding(s.Port)
}

// Detach deletes the owner's links. It needs nothing but the owner: the host end
// has its name, and takes the container's end along. found is false if there was
// none. The bridge goes too if it is ours and this was its last port.
func (h *Host) Detach(o cni.Owner) (found bool, err error) {
	guardErr := h.unguard(HostName(o))
	found, err = h.unplug(o)
	return found, errors.Join(guardErr, err)
}

func (h *Host) unplug(o cni.Owner) (found bool, err error) {
	link, err := h.nl.LinkByName(HostName(o))
	if isLinkGone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up %s: %w", HostName(o), err)
	}
	if alias := link.Attrs().Alias; alias != "" && alias != Alias(o) {
		return false, cni.ConflictErrorf("%s: its alias %q is not that of %s; it is left alone", HostName(o), alias, o)
	}
	if err := h.nl.LinkDel(link); err != nil && !isLinkGone(err) {
		return true, fmt.Errorf("delete %s: %w", HostName(o), err)
	}
	return true, h.reapIndex(link.Attrs().MasterIndex)
}

func (h *Host) deleteLink(name string) error {
	link, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkDel(link)
	}
	if err != nil && !isLinkGone(err) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

func (h *Host) reapIndex(index int) error {
	if index == 0 {
		return nil
	}
	link, err := h.nl.LinkByIndex(index)
	return h.reapIfIdle(link, err)
}

// ReapBridge deletes the bridge if it is ours and has no ports: what an ADD
// leaves that was killed between the bridge and its port.
func (h *Host) ReapBridge(name string) error {
	link, err := h.nl.LinkByName(name)
	return h.reapIfIdle(link, err)
}

// reapIfIdle takes the answer to a look-up. While a port of the bridge is up the
// bridge has a carrier, and this one look is enough.
func (h *Host) reapIfIdle(link netlink.Link, err error) error {
	if isLinkGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up bridge: %w", err)
	}
	if !isOurBridge(link.Attrs().HardwareAddr) || link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
		return nil
	}
	return h.reap(link.Attrs().Name)
}

// reap deletes the bridge if it is ours and has no ports, and no ADD is about to
// give it one.
func (h *Host) reap(name string) error {
	return h.whileIdle(func() error {
		link, err := h.nl.LinkByName(name)
		if isLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
		ports, err := h.ports(name)
		if err != nil || len(ports) > 0 || !isOurBridge(link.Attrs().HardwareAddr) {
			return err
		}
		if err := h.nl.LinkDel(link); err != nil && !isLinkGone(err) {
			return fmt.Errorf("delete bridge %s: %w", name, err)
		}
		return nil
	})
}

// hasContainers says whether a container could use the gateways: one on the
// bridge, and in their VLAN where they have one.
func (h *Host) hasContainers(b Bridge) (bool, error) {
	ports, err := h.ports(b.Name)
	if err != nil {
		return false, err
	}
	for _, p := range ports {
		if !isContainer(p) {
			continue
		}
		if b.VLANInterface == "" {
			return true, nil
		}
		vlans, err := vlansOf(p.Attrs().Index)
		in := func(r vlanRange) bool { return r.first <= b.VLAN && b.VLAN <= r.last }
		if err != nil || slices.ContainsFunc(vlans, in) {
			return true, err
		}
	}
	return false, nil
}

// dropGateway takes an address back that an ADD gave to the bridge, and gives
// back those that had to make room, unless a container has come to use it: of
// whichever network, since several may share a gateway.
func (h *Host) dropGateway(b Bridge, gateway netip.Prefix, gone []netip.Prefix) error {
	return h.whileIdle(func() error {
		used, err := h.hasContainers(b)
		if err != nil || used {
			return err
		}
		link, err := h.nl.LinkByName(b.gatewayName())
		if isLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s: %w", b.gatewayName(), err)
		}
		err = h.nl.AddrDel(link, &netlink.Addr{IPNet: toIPNet(gateway)})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete address %s of %s: %w", gateway, b.gatewayName(), err)
		}
		for _, a := range gone {
			if err := h.nl.AddrAdd(link, newAddr(a, false)); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("give address %s back to %s: %w", a, b.gatewayName(), err)
			}
		}
		return nil
	})
}
