// Package loopback is the loopback plugin: it brings lo up in the container.
package loopback

import (
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/dump"
)

// Plugin wires the commands. lo goes with its namespace, so that nothing is left.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "loopback", EntersNetNS: true,
		Keys:     func() []cni.Key { return nil },
		Validate: func(*cni.Request) error { return nil },
		Add:      add, Del: del, Check: check,
	}
}

// add brings lo up. It answers with prevResult, if there is one, or else with
// lo and the addresses that it has.
func add(r *cni.Request) (types.Result, error) {
	prev, err := r.PrevResult()
	if err != nil {
		return nil, err
	}
	addresses, err := raise(r.NetNS)
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

func raise(netns string) (addresses []net.IPNet, err error) {
	err = inNetNS(netns, func(lo netlink.Link) error {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		list, err := dump.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(lo, netlink.FAMILY_ALL) })
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

// del takes lo down again, as the reference plugin does; a namespace that is
// gone has none.
func del(r *cni.Request) error {
	err := inNetNS(r.NetNS, func(lo netlink.Link) error {
		if err := netlink.LinkSetDown(lo); err != nil {
			return fmt.Errorf("set lo down: %w", err)
		}
		return nil
	})
	var gone ns.NSPathNotExistErr
	var plainFile ns.NSPathNotNSErr
	if r.NetNS == "" || errors.As(err, &gone) || errors.As(err, &plainFile) {
		return nil
	}
	return err
}

func check(r *cni.Request) error {
	return inNetNS(r.NetNS, func(lo netlink.Link) error {
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return cni.MismatchErrorf("lo in %s: have down, want up", r.NetNS)
		}
		return nil
	})
}

func inNetNS(path string, do func(lo netlink.Link) error) error {
	return ns.WithNetNSPath(path, func(ns.NetNS) error {
		return cni.Catch(func() error { // in a goroutine of its own
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return fmt.Errorf("look up lo in %s: %w", path, err)
			}
			return do(lo)
		})
	})
}
