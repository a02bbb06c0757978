package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Sandbox is a container's network namespace, open.
type Sandbox struct {
	ns   ns.NetNS
	path string
}

// OpenSandbox opens the namespace at path (CNI_NETNS). The error has code 4.
func OpenSandbox(path string) (*Sandbox, error) {
	n, err := ns.GetNS(path)
	if err != nil {
		return nil, cni.EnvironmentErrorf("CNI_NETNS: open %s: %w", path, err)
	}
	return &Sandbox{n, path}, nil
}

// Close closes the namespace.
func (s *Sandbox) Close() error { return s.ns.Close() }

func (s *Sandbox) fd() int { return int(s.ns.Fd()) }

// do runs a function on a thread in the namespace, with a netlink socket there.
func (s *Sandbox) do(inside func(*netlink.Handle) error) error {
	return s.ns.Do(func(ns.NetNS) error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket in %s: %w", s.path, err)
		}
		defer h.Close()
		return cni.Catch(func() error { return inside(h) }) // in a goroutine of its own
	})
}

// CheckFree is an error of code 102 if the container has a link of that name.
func (s *Sandbox) CheckFree(ifName string) error {
	return s.do(func(h *netlink.Handle) error {
		_, err := h.LinkByName(ifName)
		if isLinkGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", ifName, s.path, err)
		}
		return cni.ConflictErrorf("CNI_IFNAME: %s exists already in %s; choose another name, or DEL the attachment that has it first", ifName, s.path)
	})
}

func isLinkGone(err error) bool {
	var gone netlink.LinkNotFoundError
	return errors.As(err, &gone) || errors.Is(err, unix.ENODEV)
}

// configure brings the container's end, born down, to what is planned.
func (s *Sandbox) configure(c Interface) error {
	return s.do(func(h *netlink.Handle) error {
		link, err := h.LinkByName(c.Name)
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", c.Name, s.path, err)
		}
		steps := []func(*netlink.Handle, netlink.Link) error{
			raiseLoopback, c.setSysctls, c.suppressLinkLocal, c.addAddresses, c.raise, c.addRoutes, c.awaitDAD,
		}
		for _, step := range steps {
			if err := step(h, link); err != nil {
				return fmt.Errorf("in %s: %w", s.path, err)
			}
		}
		return nil
	})
}

// raiseLoopback brings lo up: a container whose runtime did not would not reach
// its own address.
func raiseLoopback(h *netlink.Handle, _ netlink.Link) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up lo: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// setSysctls keeps addresses and routes that nobody leased out of the container,
// and the planned ones in.
func (c Interface) setSysctls(*netlink.Handle, netlink.Link) error {
	dad := "0"
	if c.DAD {
		dad = "1"
	}
	settings := [][2]string{
		{"ipv6/conf/" + c.Name + "/accept_ra", "0"},
		{"ipv6/conf/" + c.Name + "/autoconf", "0"},
		{"ipv6/conf/" + c.Name + "/accept_dad", dad},
	}
	if c.hasIPv6() {
		settings = append(settings, [][2]string{
			{"ipv6/conf/lo/disable_ipv6", "0"},
			{"ipv6/conf/" + c.Name + "/disable_ipv6", "0"},
			{"ipv6/conf/" + c.Name + "/keep_addr_on_down", "1"},
		}...)
	}
	for _, s := range settings {
		if err := setSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

func (c Interface) hasIPv6() bool {
	for _, a := range c.Addresses {
		if a.Prefix.Addr().Is6() {
			return true
		}
	}
	return false
}

func (c Interface) suppressLinkLocal(h *netlink.Handle, link netlink.Link) error {
	if c.LinkLocal {
		return nil
	}
	if err := h.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("switch link-local addresses of %s off: %w", c.Name, err)
	}
	return nil
}

func (c Interface) addAddresses(h *netlink.Handle, link netlink.Link) error {
	for _, a := range c.Addresses {
		if err := h.AddrAdd(link, newAddr(a.Prefix, c.DAD)); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a.Prefix, c.Name, err)
		}
	}
	return nil
}

// newAddr is an address that is usable at once, unless detection of duplicates
// is wanted (RFC 4862 section 5.4).
func newAddr(p netip.Prefix, dad bool) *netlink.Addr {
	a := &netlink.Addr{IPNet: toIPNet(p)}
	if p.Addr().Is6() && !dad {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func (c Interface) raise(h *netlink.Handle, link netlink.Link) error {
	if !c.Up {
		return nil
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", c.Name, err)
	}
	return nil
}

func (c Interface) addRoutes(h *netlink.Handle, link netlink.Link) error {
	for _, r := range c.Routes {
		// several routes to one destination are one with several next hops
		if err := h.RouteAddEcmp(r.netlink(link.Attrs().Index)); err != nil {
			return fmt.Errorf("add %s to %s: %w", r, c.Name, err)
		}
	}
	return nil
}

const dadLimit = 10 * time.Second

// awaitDAD waits until no address is tentative any more, where that is wanted.
func (c Interface) awaitDAD(h *netlink.Handle, link netlink.Link) error {
	if !c.DAD || !c.hasIPv6() || !c.Up {
		return nil
	}
	return await("the IPv6 addresses of "+c.Name+" are found unique", unix.RTNLGRP_IPV6_IFADDR, dadLimit, func() (bool, error) {
		addresses, err := h.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return false, fmt.Errorf("list addresses of %s: %w", c.Name, err)
		}
		settled := true
		for _, a := range addresses {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return false, cni.ConflictErrorf("address %s: a neighbour has it already (duplicate address detection)", a.IPNet)
			}
			settled = settled && a.Flags&unix.IFA_F_TENTATIVE == 0
		}
		return settled, nil
	})
}
