package bridge

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func (h *Host) findBridge(name string) (link, error) {
	bridge, err := h.rt.link(lookUp(name))
	if err != nil {
		return link{}, err
	}
	return bridge, bridge.mustBeBridge()
}

func (l link) mustBeBridge() error {
	if l.kind == "bridge" {
		return nil
	}
	kind := l.kind
	if kind == "" {
		kind = "device"
	}
	return cni.ConflictErrorf("bridge: %s exists already and is a %s, not a bridge; choose another name", l.name, kind)
}

// refuse is an error if the existing bridge cannot be brought to the plan. It is called
// before anything is changed.
func (h *Host) refuse(s *State, at site) error {
	b := s.Bridge
	if why := at.cannotFilter(s.Port.VLAN); why != "" {
		return cni.UnsupportedErrorf("%s", why)
	}
	if at.bridge.index != 0 {
		if err := s.checkMTU("mtu of the bridge "+b.Name, at.bridge.mtu); err != nil {
			return err
		}
	}
	missing := at.missing(b)
	if len(missing) == 0 {
		return nil
	}
	if err := at.needsIPv6(b, missing); err != nil {
		return err
	}
	if err := h.checkOverlap(b, at, missing); err != nil {
		return err
	}
	return h.checkRoutes(b, at, missing)
}

// cannotFilter says why the bridge cannot filter the port's VLANs, and the way out; "" if it
// can.
func (at site) cannotFilter(v VLAN) string {
	if !v.filters() || at.bridge.index == 0 || at.bridge.filtersVLANs || IsOurs(at.bridge.mac) {
		return ""
	}
	return fmt.Sprintf("vlan, vlanTrunk: %s: bridge %s does not filter VLANs, and is not Trestle's to change, since its ports would lose their tagged traffic; switch it on (ip link set %s type bridge vlan_filtering 1) and give its ports their VLANs, or choose another bridge",
		v, at.bridge.name, at.bridge.name)
}

// createBridge creates the bridge, down, with a fixed MAC that marks it as ours. The caller
// holds the exclusive lock, so that a hundred ADDs at once create one bridge. The inverse
// deletes it, if it is idle by then.
func (h *Host) createBridge(s *State, undo *cni.Undo) (site, error) {
	b := s.Bridge
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = b.Name, newBridgeMAC()
	device := &netlink.Bridge{LinkAttrs: attrs}
	if b.VLANFiltering {
		device.VlanFiltering = &b.VLANFiltering
	}
	// pushed first, in case the kernel's answer is lost; ReapBridge does not delete a bridge
	// that is in use or not ours
	undo.Push("delete bridge "+b.Name, func() error { return h.ReapBridge(b.Name) })
	if err := h.nl.LinkAdd(device); err != nil && !errors.Is(err, unix.EEXIST) {
		return site{}, fmt.Errorf("create bridge %s: %w", b.Name, err)
	}
	// records of a bridge that somebody has deleted
	if err := h.forgetGone(); err != nil {
		return site{}, err
	}
	at, err := h.look(b)
	if err == nil && at.bridge.index == 0 {
		err = fmt.Errorf("bridge %s: deleted by somebody as soon as it was created", b.Name)
	}
	return at, err
}

// matchMTU plans the bridge's MTU for the veth pair, since all ports of a bridge must have
// the same. Before that it gives the configured MTU to the bridge, if that is ours and has
// no ports. It is set after the bridge was created, which pins it; else the kernel would
// set it to 1500 again after the last port (br_mtu_auto_adjust, net/bridge/br_if.c).
func (h *Host) matchMTU(s *State, at *site, undo *cni.Undo) error {
	bridge, before := &at.bridge, at.bridge.mtu
	if at.lacksMTU(s.Bridge) {
		asked := s.Bridge.MTU
		if asked == 0 {
			asked = s.defaultMTU(h.defaultMTU())
		}
		ports, err := h.rt.list(bridge.index)
		if err != nil {
			return err
		}
		if len(ports) == 0 {
			undo.Push("set MTU of bridge "+bridge.name, func() error {
				return h.whileUnused(bridge.name, func(l netlink.Link) error { return h.nl.LinkSetMTU(l, before) })
			})
			if err := h.nl.LinkSetMTU(bridge.device(), asked); err != nil {
				return fmt.Errorf("set MTU %d of bridge %s: %w", asked, bridge.name, err)
			}
			bridge.mtu = asked
		}
	}
	return s.setMTU(bridge.mtu)
}

// adaptBridge changes of an existing bridge, whoever created it, what this network needs.
// The inverses restore what was there before, unless a container uses the bridge by then.
func (h *Host) adaptBridge(b Bridge, bridge link, undo *cni.Undo) error {
	h.quietBridge(bridge, undo)
	if !bridge.isUp() {
		undo.Push("set bridge "+b.Name+" down", func() error { return h.whileUnused(b.Name, h.nl.LinkSetDown) })
		if err := h.nl.LinkSetUp(bridge.device()); err != nil {
			return fmt.Errorf("set bridge %s up: %w", b.Name, err)
		}
	}
	if b.Promisc && bridge.promiscuity == 0 {
		undo.Push("set bridge "+b.Name+" not promiscuous", func() error { return h.whileUnused(b.Name, h.nl.SetPromiscOff) })
		if err := h.nl.SetPromiscOn(bridge.device()); err != nil {
			return fmt.Errorf("set bridge %s promiscuous: %w", b.Name, err)
		}
	}
	if b.VLANFiltering && !bridge.filtersVLANs {
		return h.startFiltering(b.Name, undo)
	}
	return nil
}

// quietBridge makes the host ignore router advertisements of containers on the bridge.
func (h *Host) quietBridge(bridge link, undo *cni.Undo) {
	for _, s := range quietIPv6(bridge, IsOurs(bridge.mac)) {
		undo.Push("set net."+dotted(s.name)+" back", func() error {
			return h.whileUnused(bridge.name, func(netlink.Link) error { return writeSysctl(s.name, s.value) })
		})
	}
}

// quietIPv6 makes the host ignore router advertisements on a link that leads to containers,
// or one of these could become the host's default route (CVE-2020-10749). If the link is
// ours, it also switches duplicate address detection off, so that the link-local address is
// usable as soon as the link is up: without one the host could not ask for its containers'
// MACs for up to two seconds (ndisc_solicit, net/ipv6/ndisc.c). Failures are ignored: the
// network works without either if /proc/sys is read-only. before has the changed settings
// with their former values.
func quietIPv6(l link, ours bool) (before []setting) {
	if !l.hasIPv6() {
		return nil
	}
	quiet := func(conf int, name string) {
		s := setting{"ipv6/conf/" + l.name + "/" + name, fmt.Sprint(l.inet6At(conf))}
		if s.value != "0" && writeSysctl(s.name, "0") == nil {
			before = append(before, s)
		}
	}
	quiet(confAcceptRA, "accept_ra")
	if ours {
		quiet(confAcceptDAD, "accept_dad")
	}
	return before
}

// pinMAC fixes the MAC of a bridge that is not ours before it becomes a gateway: by default
// a bridge takes the MAC of its lowest port, so that it would change under the containers.
// A bridge without ports may have no MAC to be fixed, and gets a random one.
//
// A bridge that never had a port has the MAC that it was born with, without having taken it in: its id lacks it, and on
// kernels such as 5.10 so does its forwarding database, so that frames for the host would be flooded, and lost. The
// kernel takes a MAC in when it changes (br_set_mac_address, net/bridge/br_device.c): it is changed, and back.
func (h *Host) pinMAC(bridge link) error {
	mac := bridge.mac
	if IsOurs(mac) {
		return nil // fixed since it was created
	}
	if len(mac) != 6 || slices.Max(mac) == 0 {
		mac = randomMAC()
	}
	steps := []net.HardwareAddr{mac}
	if !slices.Equal(bridge.idMAC, bridge.mac) {
		steps = []net.HardwareAddr{randomMAC(), mac}
	}
	for _, step := range steps {
		if err := h.nl.LinkSetHardwareAddr(bridge.device(), step); err != nil {
			return fmt.Errorf("pin MAC %s of bridge %s: %w", mac, bridge.name, err)
		}
	}
	return nil
}

// ports lists the ports of a bridge; none if the bridge does not exist.
func (h *Host) ports(bridge string) ([]link, error) {
	found, there, err := h.rt.find(lookUp(bridge))
	if err != nil || !there {
		return nil, err
	}
	return h.rt.list(found.index)
}

func isContainer(port link) bool {
	_, ok := Label(port.alias)
	return ok
}

// whileUnused calls fn under the exclusive lock, if the bridge exists and has no container
// of ours on it.
func (h *Host) whileUnused(bridge string, fn func(netlink.Link) error) error {
	return whileIdle(func() error {
		found, there, err := h.rt.find(lookUp(bridge))
		if err != nil || !there {
			return err
		}
		ports, err := h.rt.list(found.index)
		if err != nil || slices.ContainsFunc(ports, isContainer) {
			return err
		}
		return fn(found.device())
	})
}
