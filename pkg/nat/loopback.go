package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// loopbackBridge is the interface by which 127.0.0.1 gets to the container, or
// "" where nothing is to: a packet with a loopback source may leave, and its
// answer come back, only by an interface that has route_localnet (kernel,
// Documentation/networking/ip-sysctl.rst). IPv6 has no such setting, so that
// nothing can be mapped on ::1.
func loopbackBridge(p Ports) (string, error) {
	if !p.SNAT {
		return "", nil // the container could not answer 127.0.0.1
	}
	for _, m := range p.Mappings {
		if m.answersLoopback() {
			return bridgeTo(p, m)
		}
	}
	return "", nil
}

func bridgeTo(p Ports, m Mapping) (string, error) {
	if p.Bridge != "" {
		return p.Bridge, nil
	}
	routes, err := netlink.RouteGet(net.IP(m.Container.Addr().AsSlice()))
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		return "", nil // a network that the host is not part of
	}
	if err != nil {
		return "", fmt.Errorf("ask for the route to the container's address %s: %w", m.Container.Addr(), err)
	}
	if len(routes) == 0 || routes[0].Gw != nil {
		return "", nil // likewise: a default route would lead to somebody else
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("look up the interface that leads to %s: %w", m.Container.Addr(), err)
	}
	return link.Attrs().Name, nil
}

func routeLocalnet(bridge string) string {
	return filepath.Join("/proc/sys/net/ipv4/conf", bridge, "route_localnet")
}

// opened is the record that it was us who let the bridge route loopback addresses.
func (h *Host) opened(bridge string) string { return filepath.Join(h.dir, "route_localnet", bridge) }

// openLoopback lets the bridge route loopback addresses. The guard is there
// before: see Rules.Bridges.
func (h *Host) openLoopback(bridge string) error {
	if bridge == "" {
		return nil
	}
	if open, err := loopbackOpen(bridge); err != nil || open {
		return err
	}
	if err := write(h.opened(bridge), bridge); err != nil {
		return err
	}
	if err := os.WriteFile(routeLocalnet(bridge), []byte("1"), 0o644); err != nil {
		return cni.IOErrorf("let %s route loopback addresses: %w", bridge, err)
	}
	return nil
}

func loopbackOpen(bridge string) (bool, error) {
	is, err := os.ReadFile(routeLocalnet(bridge))
	if err != nil {
		return false, cni.IOErrorf("read whether %s routes loopback addresses: %w", bridge, err)
	}
	return strings.TrimSpace(string(is)) != "0", nil
}

// loopbackDifference is what CHECK has to say of the setting.
func loopbackDifference(bridge string) ([]string, error) {
	if bridge == "" {
		return nil, nil
	}
	open, err := loopbackOpen(bridge)
	if err != nil || open {
		return nil, err
	}
	return []string{fmt.Sprintf("%s: want 1, have 0", routeLocalnet(bridge))}, nil
}

// closeLoopback takes openLoopback back, before the guard goes. Bridges that are
// gone need nothing; those that need it for the other backend keep it.
func (h *Host) closeLoopback(r records, bridges []string) error {
	for _, bridge := range bridges {
		ours, err := exists(h.opened(bridge))
		if err != nil {
			return err
		}
		elsewhere, err := h.bridgeElsewhere(r, bridge)
		if err != nil {
			return err
		}
		if !ours || elsewhere {
			continue
		}
		err = os.WriteFile(routeLocalnet(bridge), []byte("0"), 0o644)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cni.IOErrorf("keep %s from routing loopback addresses: %w", bridge, err)
		}
		if err := drop(h.opened(bridge), filepath.Dir(h.opened(bridge))); err != nil {
			return err
		}
	}
	return nil
}

// bridgeElsewhere says whether the other backend guards the bridge too.
func (h *Host) bridgeElsewhere(r records, bridge string) (bool, error) {
	for _, backend := range []Backend{NFTables, IPTables} {
		if other := h.records(backend); other != r {
			return exists(other.bridge(bridge))
		}
	}
	return false, nil
}

// letHairpin lets the bridge send a frame back by the port that it came from.
// With br_netfilter a container's connection to its own mapped port is turned
// round within the bridge (br_nf_pre_routing_finish, net/bridge/br_netfilter_hooks.c),
// which drops it otherwise (should_deliver, net/bridge/br_forward.c).
func letHairpin(f Forward) error {
	if filtered, err := exists("/proc/sys/net/bridge"); err != nil || !filtered || !f.SNAT {
		return err
	}
	for _, name := range f.HostLinks {
		link, err := netlink.LinkByName(name)
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) {
			continue // another plugin of the chain may have renamed it
		}
		if err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
		if link.Attrs().MasterIndex == 0 {
			continue
		}
		if err := netlink.LinkSetHairpin(link, true); err != nil {
			return fmt.Errorf("let the bridge send back to port %s: %w", name, err)
		}
	}
	return nil
}
