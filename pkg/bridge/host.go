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

// Host is the network namespace of the bridges: the caller's.
type Host struct {
	rt *rtnl
	nl *netlink.Handle // opens a socket for each request, so it is for what an ADD or DEL seldom needs
	// forwards4 and forwards6 say whether the host forwards, as look has found it.
	forwards4, forwards6 bool
}

// forwardingLimit bounds the wait until a new port forwards, which normally it does at once.
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

// Attach brings the host and the container to the plan, and fills in what the plan leaves
// open: MACs and MTU. When it returns, the container's link is up and its port forwards. It
// calls protect after the veth pair was created, and before the container's link is up. Each
// step pushes its inverse to undo, which the caller runs if the ADD fails.
func (h *Host) Attach(s *State, container *netns.Handle, protect func() error, undo *cni.Undo) error {
	at, err := h.join(s, container, undo)
	if former := (formerLinkError{}); errors.As(err, &former) { // join has released the lock
		if where := former.livesAt(); where != "" {
			return leadsTo(former.hostVeth, "another network namespace, which is alive ("+where+")")
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

// configure brings the container's interface to the plan, and returns when the container can
// be reached.
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

// site is what look found of the planned bridge; a link that does not exist is zero.
type site struct {
	bridge  link
	gateway link           // the link of the gateway addresses: the bridge, or a VLAN interface over it
	has     []netip.Prefix // the addresses of gateway
	// added are the IPv6 gateway addresses that this ADD gave to gateway.
	added []netip.Addr
}

// join brings the bridge to the plan and puts the new port on it, under the lock, since until
// then an idle bridge may be deleted. It refuses what cannot be done before it changes
// anything.
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

// lookLocked takes the lock and calls look. It takes the exclusive lock if the bridge must be
// created, or its MTU be set, so that no other ADD does the same meanwhile.
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

// lacksMTU says whether the bridge is missing, or is ours and its MTU must be set: the plan
// has another one, or the bridge is down, because an ADD was killed before it set the MTU.
func (at site) lacksMTU(b Bridge) bool {
	if at.bridge.index == 0 {
		return true
	}
	another := b.MTU != 0 && b.MTU != at.bridge.mtu
	return IsOurs(at.bridge.mac) && (another || !at.bridge.isUp())
}

// readBridgeMAC fills in the bridge's MAC for the result. It looks again at a bridge that is
// not ours, whose MAC pinMAC or the new port may have changed.
func (h *Host) readBridgeMAC(s *State, bridge link) (err error) {
	if !IsOurs(bridge.mac) {
		bridge, err = h.findBridge(s.Bridge.Name)
	}
	s.Bridge.MAC = bridge.mac
	return err
}

// look finds the bridge, the link of its gateways and the addresses of that, and whether the
// host forwards: in one batch and a list of addresses.
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

// gatewayFamily is the address family of the gateways; AF_UNSPEC if they have both.
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

// plug creates the veth pair, and sets alias, flags and VLANs of the host veth and sets it up.
// The host veth gets no link-local address: nobody would use it, and it would cost the DEL a
// second grace period (ipv6_dev_ac_dec on a forwarding host).
func (h *Host) plug(s *State, bridgeIndex int, container *netns.Handle, undo *cni.Undo) error {
	s.Port.MAC = randomMAC()
	if s.Container.MAC == nil {
		s.Container.MAC = randomMAC()
	}
	// pushed first, in case the kernel's answer is lost; it compares the random MAC, so that
	// it does not delete another ADD's pair of the same name
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

// deleteMade deletes the port, unless that name is by now another ADD's, with another MAC.
func (h *Host) deleteMade(p Port) error {
	found, there, err := h.rt.find(lookUp(p.Name))
	if err != nil || !there || !slices.Equal(found.mac, p.MAC) {
		return err
	}
	_, err = h.rt.do(deleteIndex(found.index, p.Name))
	return err
}

// awaitPort waits until the port forwards, and until the bridge's new IPv6 addresses can be
// used. It also deletes the host's neighbour entries of the container's addresses, whose last
// user may have had another MAC.
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
	// only now that the bridge has a carrier does the kernel add the local routes of its
	// IPv6 addresses
	what := fmt.Sprintf("%v of %s can be reached", at.added, at.gateway.name)
	return await(what, unix.RTNLGRP_IPV6_ROUTE, routeLimit, func() (bool, error) { return hasLocalRoutes(at.gateway.index, at.added) })
}

// defaultMTU is the MTU of the route to a public address, IPv4 before IPv6, or else of that
// route's link; 1500 on a host without a default route.
func (h *Host) defaultMTU() int {
	for _, world := range []string{"1.1.1.1", "2606:4700::1111"} { // any public address; nothing is sent
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

// Detach deletes the owner's host veth, whose name follows from the owner, and with it the
// container's interface. found is false if there was none; if it is true beside an error, the
// link may still be there.
func (h *Host) Detach(c Config, o cni.Owner) (found bool, err error) {
	port, there, err := h.rt.find(lookUp(HostName(o)))
	if err != nil || !there {
		return false, err
	}
	// the name, a hash of the owner, is enough if the alias names nobody: a person or a
	// monitoring agent may have changed it
	if namesAttachment(port.alias) && port.alias != aliasOf(o) {
		return true, cni.ConflictErrorf("%s: its alias %q is not that of %s; it was not deleted", HostName(o), port.alias, o)
	}
	if _, err := h.rt.do(deleteIndex(port.index, port.name)); err != nil {
		return true, err
	}
	if !c.Transient || port.master == 0 {
		return true, nil
	}
	return true, h.reapIndex(port.master)
}
