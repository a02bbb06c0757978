// Package hostlocal is the host-local plugin: it leases addresses to containers. Other main
// plugins execute it; the bridge plugin calls Lease in its own process. It only wires
// pkg/ipam.
package hostlocal

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/ipam"
	"github.com/trestle-cni/trestle/pkg/netns"
)

// Plugin is the host-local plugin. A main plugin may also call its functions in its own
// process, with the request that it has got.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "host-local", ReadsArgs: true, Keys: ipam.Keys, Validate: cni.Validates(ipam.ParseConfig),
		Add: add, Del: del, Check: check,
		States: []cni.State{{Package: "pkg/ipam", What: "leases", GC: gc, Status: status}},
	}
}

// add is ADD for another plugin that executes this one. Such a plugin (ptp) may ask for
// addresses, then find that the container has its interface already, and release them by DEL,
// which takes them from the existing attachment. So addresses that the attachment already has
// are refused, as the reference refuses them (duplicate allocation); see ipam.Executed.
func add(r *cni.Request) (result types.Result, err error) {
	var undo cni.Undo
	defer undo.OnError(&err)
	executed := &ipam.Executed{By: ipam.Parent(), IsAttached: func() bool { return isAttached(r) }}
	leased, err := lease(r, executed, func() error { return nil }, &undo) // GC removes what else the dead have
	if err != nil {
		return nil, err
	}
	return leased, nil
}

// isAttached says whether the container has the interface; false if that cannot be found out.
func isAttached(r *cni.Request) bool {
	err := netns.Enter(r.NetNS, func() error {
		_, err := net.InterfaceByName(r.Owner.IfName)
		return err
	})
	return err == nil
}

// Lease is ADD for a main plugin in this process. It pushes to undo a function that releases
// what this call has leased, but no address that the attachment had before, or that another
// ADD has got for it since. It calls fromDead if it has released leases of the dead, whose
// port mappings must not lead to these addresses any more.
func Lease(r *cni.Request, fromDead func() error, undo *cni.Undo) (*cni.Result, error) {
	return lease(r, nil, fromDead, undo)
}

func lease(r *cni.Request, by *ipam.Executed, fromDead func() error, undo *cni.Undo) (*cni.Result, error) {
	config, err := ipam.ParseConfig(r)
	if err != nil {
		return nil, err
	}
	result := &cni.Result{CNIVersion: types100.ImplementedSpecVersion, Routes: config.Routes}
	if config.ResolvConf != "" {
		if result.DNS, err = ipam.ReadResolvConf(config.ResolvConf); err != nil {
			return nil, err
		}
	}
	store, err := ipam.StoreOf(r)
	if err != nil {
		return nil, err
	}
	want := ipam.Want{Owner: r.Owner, NetNS: r.NetNS, Sets: config.Sets, Requested: config.Requested, Executed: by}
	grant, err := store.Lease(want, undo)
	if err != nil {
		return nil, err
	}
	if grant.FromDead {
		if err := fromDead(); err != nil {
			return nil, err
		}
	}
	for i, a := range grant.Addresses {
		result.IPs = append(result.IPs, ipConfig(config.Sets[i], a))
	}
	return result, nil
}

// ipConfig is the leased address, which is in the set, in the form of a result.
func ipConfig(set ipam.Set, a netip.Addr) *types100.IPConfig {
	i := slices.IndexFunc(set, func(r ipam.Range) bool { return r.Contains(a) })
	r := set[i]
	return cni.IPConfig(netip.PrefixFrom(a, r.Subnet.Bits()), r.Gateway)
}

// del releases the attachment's leases in every data directory that we have used, even if the
// configuration is invalid.
func del(r *cni.Request) error {
	store, err := ipam.StoreOf(r)
	if err != nil {
		return ReleaseFormer(r)
	}
	return errors.Join(store.Release(r.Owner), store.ReleaseElsewhere(r.Owner))
}

// ReleaseFormer is DEL for a main plugin whose network may have had host-local as its IPAM
// plugin before its configuration was edited.
func ReleaseFormer(r *cni.Request) error {
	return ipam.Former(r.Owner.Network).ReleaseElsewhere(r.Owner)
}

// ReclaimFormer is GC for the same case.
func ReclaimFormer(r *cni.Request) error {
	return ipam.Former(r.Owner.Network).ReclaimElsewhere()
}

// check compares the lease with prevResult, if there is one: prevResult must have each leased
// address, and each address of prevResult that is in our ranges must be leased to the
// container. It may have others, from other plugins.
func check(r *cni.Request) error {
	store, err := ipam.StoreOf(r)
	if err != nil {
		return err
	}
	held, err := store.Held(r.Owner)
	if err != nil {
		return err
	}
	if len(held) == 0 {
		return cni.MismatchErrorf("%s has no lease", r.Owner)
	}
	prev, err := r.PrevResult()
	if err != nil || prev == nil {
		return err
	}
	var have []netip.Addr
	for _, a := range cni.AddressesOf(prev, "") {
		have = append(have, a.Addr())
	}
	for _, a := range held {
		if !slices.Contains(have, a) {
			return cni.MismatchErrorf("addresses of %s: have %s in prevResult, want %s as leased", r.Owner, have, held)
		}
	}
	return checkLeased(r, have, held)
}

// checkLeased is an error of code 103 if the container has an address of our ranges that is
// not leased to it.
func checkLeased(r *cni.Request, have, held []netip.Addr) error {
	config, err := ipam.ParseConfig(r)
	if err != nil {
		return nil // an invalid configuration has no ranges
	}
	for _, a := range have {
		ours := slices.ContainsFunc(config.Sets, func(set ipam.Set) bool {
			return slices.ContainsFunc(set, func(in ipam.Range) bool { return in.Contains(a) })
		})
		if ours && !slices.Contains(held, a) {
			return cni.MismatchErrorf("address %s: want it leased to %s, have no such lease", a, r.Owner)
		}
	}
	return nil
}

// Gateways are the gateways of the configuration's ranges, with the prefix lengths of their
// subnets; none if the configuration is invalid.
func Gateways(r *cni.Request) (gateways []netip.Prefix) {
	config, err := ipam.ParseConfig(r)
	if err != nil {
		return nil
	}
	for _, set := range config.Sets {
		for _, each := range set {
			if each.Gateway.IsValid() {
				gateways = append(gateways, netip.PrefixFrom(each.Gateway, each.Subnet.Bits()))
			}
		}
	}
	return gateways
}

func gc(r *cni.Request, valid cni.Valid) error {
	store, err := ipam.StoreOf(r)
	if err != nil {
		return err
	}
	return errors.Join(store.GC(valid), store.ReclaimElsewhere())
}

func status(r *cni.Request) error {
	config, err := ipam.ParseConfig(r)
	if err != nil {
		return err
	}
	store, err := ipam.StoreOf(r)
	if err != nil {
		return err
	}
	if err := store.Writable(); err != nil || !config.UnavailableWhenFull {
		return err
	}
	return store.Available(config.Sets)
}
