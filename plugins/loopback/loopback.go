// Package loopback is the loopback plugin: it sets lo up in the container.
package loopback

import (
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// Plugin is the loopback plugin. It has no State, since lo is deleted with its namespace.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "loopback", EntersNetNS: true,
		Keys:     func() []cni.Key { return nil },
		Validate: func(*cni.Request) error { return nil },
		Add:      add, Del: del, Check: check,
	}
}

// add sets lo up. The answer is prevResult or, if there is none, lo and its addresses.
func add(r *cni.Request) (types.Result, error) {
	prev, err := r.PrevResult()
	if err != nil {
		return nil, err
	}
	addresses, err := setUp(r.NetNS)
	if err != nil {
		return nil, err
	}
	if prev != nil {
		return r.PassThrough()
	}
	result := &cni.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: "lo", Mac: "00:00:00:00:00:00", Sandbox: r.NetNS}},
	}
	for _, address := range addresses {
		result.IPs = append(result.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: address})
	}
	return result, nil
}

// setUp sets lo up and returns its addresses.
func setUp(path string) (addresses []net.IPNet, err error) {
	err = inNetNS(path, func(h *netlink.Handle, lo netlink.Link) error {
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		list, err := dump.Complete(func() ([]netlink.Addr, error) { return h.AddrList(lo, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list addresses of lo: %w", err)
		}
		for _, a := range list {
			addresses = append(addresses, *a.IPNet)
		}
		return nil
	})
	return addresses, err
}

// del sets lo down, as the reference plugin does, unless the namespace is gone.
func del(r *cni.Request) error {
	err := inNetNS(r.NetNS, func(h *netlink.Handle, lo netlink.Link) error {
		if err := h.LinkSetDown(lo); err != nil {
			return fmt.Errorf("set lo down: %w", err)
		}
		return nil
	})
	if netns.IsGone(err) {
		return nil
	}
	return err
}

func check(r *cni.Request) error {
	return inNetNS(r.NetNS, func(_ *netlink.Handle, lo netlink.Link) error {
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return cni.MismatchErrorf("lo in %s: have down, want up", r.NetNS)
		}
		return nil
	})
}

func inNetNS(path string, do func(h *netlink.Handle, lo netlink.Link) error) error {
	return netns.Do(path, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("look up lo in %s: %w", path, err)
		}
		return do(h, lo)
	})
}
