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
	"github.com/trestle-cni/trestle/pkg/netns"
)

// Host is the network namespace that the bridges are in: the caller's.
type Host struct {
	rt *rtnl
	nl *netlink.Handle // opens a socket for each request: for what an ADD or DEL seldom needs
	// forwards4 and forwards6 are what the last look found.
	forwards4, forwards6 bool
}

// forwardingLimit bounds the wait for a new port, which takes no time at all.
const forwardingLimit = 10 * time.Second

// OpenHost opens a netlink socket in the caller's namespace.
func OpenHost() (*Host, error) {
	rt, err := openRTNL(0)
	if err != nil {
		return nil, err
	}
	return &Host{rt: rt, nl: &netlink.Handle{}}, nil
}

// Close closes the socket.
func (h *Host) Close() { h.rt.close() }

// Attach brings the host and the container to the plan, and fills in what the plan
// left open: MACs and MTU. When it returns the container's link is up, and its port
// forwards; protect is called before. Each step pushes its inverse to undo, which the
// caller runs if the ADD fails.
func (h *Host) Attach(s *State, container *netns.Handle, protect func() error, undo *cni.Undo) error {
	at, err := h.join(s, container, undo)
	if former := (formerLinkError{}); errors.As(err, &former) { // without the lock of bridges
		if where := former.livesAt(); where != "" {
			return cni.ConflictErrorf("%w (%s, which is alive)", err, where)
		}
		if waitErr := h.awaitFormer(s.Port); waitErr != nil {
			return errors.Join(err, waitErr)
		}
		at, err = h.join(s, container, undo)
	}
	if err != nil {
		return err
	}
	if err := protect(); err != nil {
		return err
	}
	return h.configure(s, at, container)
}

// configure brings the container's end to the plan, and returns when it can be
// reached.
func (h *Host) configure(s *State, at site, container *netns.Handle) error {
	tell, err := s.Container.configureIn(container)
	if err != nil {
		return err
	}
	defer tell.close()
	if err := h.awaitPort(s, at); err != nil {
		return err
	}
	return tell.send()
}

// site is what was found of a plan's bridge; a zero link means that there is none.
type site struct {
	bridge  link
	gateway link // has the gateway addresses: the bridge, or a VLAN interface over it
	has     []netip.Prefix
	// added are the gateways that this ADD gave to the link.
	added []netip.Addr
}

// join makes the bridge what it must be and puts the new port on it. Until then
// nothing but the lock keeps the bridge from being deleted. What cannot be is
// refused before anything is changed.
func (h *Host) join(s *State, container *netns.Handle, undo *cni.Undo) (site, error) {
	at, unlock, err := h.lookLocked(s.Bridge)
	if err != nil {
		return site{}, err
	}
	defer unlock()
	if err := h.refuse(s, at); err != nil {
		return site{}, err
	}
	if at.bridge.index == 0 {
		if at, err = h.createBridge(s, undo); err != nil {
			return site{}, explainFiltering(err, s.Port.VLAN)
		}
	}
	if err := h.matchMTU(s, &at, undo); err != nil {
		return site{}, err
	}
	if err := h.adaptBridge(s.Bridge, at.bridge, undo); err != nil {
		return site{}, explainFiltering(err, s.Port.VLAN)
	}
	s.Bridge.DefaultVLAN = at.bridge.defaultVLAN
	if err := h.ensureGateways(s.Bridge, &at, undo); err != nil {
		return site{}, err
	}
	if err := h.plug(s, at.bridge.index, container, undo); err != nil {
		return site{}, err
	}
	return at, h.readBridgeMAC(s, at.bridge)
}

// lookLocked looks at what there is under the lock; under the exclusive one where the
// bridge is still to be made, or its MTU to be set: nobody else finds it meanwhile.
func (h *Host) lookLocked(b Bridge) (at site, unlock func(), err error) {
	for _, mode := range []flock.Mode{flock.Shared, flock.Exclusive} {
		if unlock, err = lock(mode); err != nil {
			return site{}, nil, err
		}
		if at, err = h.look(b); err != nil {
			unlock()
			return site{}, nil, err
		}
		if mode == flock.Exclusive || !at.lacksMTU(b) {
			break
		}
		unlock()
	}
	return at, unlock, nil
}

// lacksMTU says whether the bridge's MTU differs and may still be set: a bridge that
// is down was made by an ADD that was killed right then.
func (at site) lacksMTU(b Bridge) bool {
	if at.bridge.index == 0 {
		return true
	}
	another := b.MTU != 0 && b.MTU != at.bridge.mtu
	return IsOurs(at.bridge.mac) && (another || !at.bridge.isUp())
}

// readBridgeMAC looks again at a bridge that is not ours: its MAC was pinned
// meanwhile, or is that of its lowest port.
func (h *Host) readBridgeMAC(s *State, bridge link) (err error) {
	if !IsOurs(bridge.mac) {
		bridge, err = h.findBridge(s.Bridge.Name)
	}
	s.Bridge.MAC = bridge.mac
	return err
}

// look finds out what there is, and whether the host forwards, in one batch and a
// list of addresses.
func (h *Host) look(b Bridge) (site, error) {
	steps := []step{lookUp(b.Name).orNone(), forwarding(unix.AF_INET), forwarding(unix.AF_INET6), lookUp(b.GatewayName()).orNone()}
	if b.VLANInterface == "" {
		steps = steps[:3]
	}
	replies, err := h.rt.do(steps...)
	if err != nil {
		return site{}, err
	}
	if h.forwards4, err = isForwarding(replies[1], forward4); err != nil {
		return site{}, err
	}
	if h.forwards6, err = isForwarding(replies[2], forward6); err != nil {
		return site{}, err
	}
	var at site
	if replies[0] == nil {
		return at, nil
	}
	if at.bridge, err = readLink(replies[0]); err != nil {
		return site{}, err
	}
	if err := at.bridge.mustBeBridge(); err != nil {
		return site{}, err
	}
	at.gateway = at.bridge
	if b.VLANInterface != "" {
		at.gateway = link{}
		if replies[3] != nil {
			at.gateway, err = readLink(replies[3])
		}
	}
	if err != nil || at.gateway.index == 0 || len(b.Gateways) == 0 {
		return at, err
	}
	at.has, err = h.rt.addresses(at.gateway.index, b.gatewayFamily())
	return at, err
}

// gatewayFamily is that of all gateways, or AF_UNSPEC.
func (b Bridge) gatewayFamily() int {
	family := unix.AF_UNSPEC
	for i, g := range b.Gateways {
		if of := familyOf(g.Addr()); i == 0 {
			family = of
		} else if of != family {
			return unix.AF_UNSPEC
		}
	}
	return family
}

// plug makes the veth pair and gives the host veth its name and flags. The host veth
// never has a link-local address, which would cost the DEL a second grace period
// (ipv6_dev_ac_dec on a forwarding host), and nobody uses it.
func (h *Host) plug(s *State, bridgeIndex int, container *netns.Handle, undo *cni.Undo) error {
	s.Port.MAC = randomMAC()
	if s.Container.MAC == nil {
		s.Container.MAC = randomMAC()
	}
	// pushed before the pair is made, in case the kernel's answer is lost; the MAC is
	// this ADD's alone, so that another ADD's pair of the same name stays
	made := s.Port
	undo.Push("delete "+made.Name, func() error { return h.deleteMade(made) })
	if _, err := h.rt.do(createVeth(s.Port, s.Container, bridgeIndex, container.FD())); err != nil {
		return h.explainVeth(err, s, container)
	}
	if !s.Port.VLAN.filters() {
		_, err := h.rt.do(portFlags(s.Port), noLinkLocal(0, s.Port.Name), linkUp(0, s.Port.Name))
		return err
	}
	if _, err := h.rt.do(portFlags(s.Port), noLinkLocal(0, s.Port.Name)); err != nil {
		return err
	}
	if err := h.setVLAN(s.Port, s.Bridge.DefaultVLAN); err != nil {
		return err
	}
	_, err := h.rt.do(linkUp(0, s.Port.Name))
	return err
}

func (h *Host) deleteMade(p Port) error {
	found, there, err := h.rt.find(lookUp(p.Name))
	if err != nil || !there || !slices.Equal(found.mac, p.MAC) {
		return err
	}
	_, err = h.rt.do(deleteIndex(found.index, p.Name))
	return err
}

// awaitPort waits until the port forwards, and makes the host ask again who has the
// container's addresses: their last user may have had another MAC.
func (h *Host) awaitPort(s *State, at site) error {
	var steps []step
	if len(s.Bridge.Gateways) > 0 {
		for _, a := range s.Container.Addresses {
			steps = append(steps, forgetNeighbour(at.gateway.index, a.Prefix.Addr()))
		}
	}
	if !s.Container.Up {
		_, err := h.rt.do(steps...)
		return err
	}
	links, err := h.rt.links(append(steps, lookUp(s.Port.Name))...)
	if err != nil {
		return err
	}
	if !links[len(steps)].operational {
		if err := h.awaitForwarding(s.Port); err != nil {
			return err
		}
	}
	if len(at.added) == 0 {
		return nil
	}
	// the bridge has a carrier now, and takes its IPv6 addresses for its own
	what := fmt.Sprintf("%v of %s can be reached", at.added, at.gateway.name)
	return await(what, unix.RTNLGRP_IPV6_ROUTE, routeLimit, func() (bool, error) { return hasLocalRoutes(at.gateway.index, at.added) })
}

// defaultMTU is the MTU of the route that a packet to the world would take, IPv4
// before IPv6, or of the route's link; and 1500 on a host without a default route.
func (h *Host) defaultMTU() int {
	for _, world := range []string{"1.1.1.1", "2606:4700::1111"} { // any global address: nothing is sent
		routes, err := h.nl.RouteGet(net.ParseIP(world))
		if err != nil || len(routes) == 0 {
			continue
		}
		if routes[0].MTU >= cni.MinMTU {
			return min(routes[0].MTU, cni.MaxMTU)
		}
		link, err := h.nl.LinkByIndex(routes[0].LinkIndex)
		if err == nil && link.Attrs().Flags&net.FlagLoopback == 0 && link.Attrs().MTU >= cni.MinMTU {
			return min(link.Attrs().MTU, cni.MaxMTU)
		}
	}
	return 1500
}

// Detach deletes the owner's links. It needs nothing but the owner: the host veth
// has its name, and takes the container's end along. found is false if there was
// none; where it is true with an error, the link may still be there.
func (h *Host) Detach(c Config, o cni.Owner) (found bool, err error) {
	port, there, err := h.rt.find(lookUp(HostName(o)))
	if err != nil || !there {
		return false, err
	}
	// the name, a hash of the owner, is enough: a person or a monitoring agent may have
	// changed the alias
	if namesAttachment(port.alias) && port.alias != aliasOf(o) {
		return true, cni.ConflictErrorf("%s: its alias %q is not that of %s; it is left alone", HostName(o), port.alias, o)
	}
	if _, err := h.rt.do(deleteIndex(port.index, port.name)); err != nil {
		return true, err
	}
	if !c.Transient || port.master == 0 {
		return true, nil
	}
	return true, h.reapIndex(port.master)
}

func (h *Host) deleteLink(name string) error {
	found, there, err := h.rt.find(lookUp(name))
	if err != nil || !there {
		return err
	}
	_, err = h.rt.do(deleteIndex(found.index, name))
	return err
}
