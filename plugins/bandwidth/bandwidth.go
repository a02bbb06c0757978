// Package bandwidth is the bandwidth plugin: it limits the rate of an interface that an
// earlier plugin of the list has made. It only wires pkg/bandwidth.
package bandwidth

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/trestle-cni/trestle/pkg/bandwidth"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// Plugin is the bandwidth plugin. STATUS does not check whether the kernel has token buckets,
// since most containers have no limit.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "bandwidth", EntersNetNS: true, Keys: bandwidth.Keys, Validate: cni.Validates(bandwidth.ParseLimits),
		Add: add, Del: del, Check: check,
		States: []cni.State{{Package: "pkg/bandwidth", What: "limits, and the ifb of each", GC: gc}},
	}
}

// parse reads limits and prevResult. The error has code 6 or 7.
func parse(r *cni.Request) (limits bandwidth.Limits, prev *cni.Result, err error) {
	if limits, err = bandwidth.ParseLimits(r); err != nil {
		return limits, nil, err
	}
	prev, err = r.RequirePrevResult()
	return limits, prev, err
}

func add(r *cni.Request) (result types.Result, err error) {
	limits, prev, err := parse(r)
	if err != nil {
		return nil, err
	}
	if limits.IsNone() {
		return r.PassThrough()
	}
	host, err := bandwidth.Open()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	hostVeth, err := host.FindHostVeth(prev, r.Owner.IfName, r.NetNS)
	if err != nil {
		return nil, err
	}
	var undo cni.Undo
	defer undo.OnError(&err)
	device, err := host.Add(r.Owner, limits, hostVeth, &undo)
	if err != nil {
		return nil, err
	}
	if device == nil {
		return r.PassThrough()
	}
	name(prev, device)
	return prev, nil
}

// name adds the device to the result. If the list has this plugin twice, the second call has
// replaced the device of the first in the kernel, and name replaces it in the result.
func name(result *cni.Result, device netlink.Link) {
	mac := device.Attrs().HardwareAddr.String()
	for _, i := range result.Interfaces {
		if i.Name == device.Attrs().Name && i.Sandbox == "" {
			i.Mac = mac
			return
		}
	}
	result.Interfaces = append(result.Interfaces, &types100.Interface{Name: device.Attrs().Name, Mac: mac})
}

// del needs neither a valid configuration nor the host veth.
func del(r *cni.Request) error {
	prev, _ := r.PrevResult() // nil if it cannot be read
	host, err := bandwidth.Open()
	if err != nil {
		return err
	}
	defer host.Close()
	return host.Release(r.Owner, prev)
}

func check(r *cni.Request) error {
	limits, prev, err := parse(r)
	if err != nil || limits.IsNone() {
		return err
	}
	host, err := bandwidth.Open()
	if err != nil {
		return err
	}
	defer host.Close()
	hostVeth, err := host.FindHostVeth(prev, r.Owner.IfName, r.NetNS)
	if err != nil {
		return err
	}
	diffs, err := host.Diff(r.Owner, limits, hostVeth)
	return errors.Join(err, cni.Mismatches(diffs))
}

func gc(r *cni.Request, valid cni.Valid) error {
	host, err := bandwidth.Open()
	if err != nil {
		return err
	}
	defer host.Close()
	return host.GC(r.Owner.Network, valid)
}
