// Package hostlocal is the host-local plugin: it leases addresses to containers. Runtimes
// execute it; the bridge plugin calls Lease in its own process. What it knows is in
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

// Plugin wires the commands. Its functions may also be called by a main plugin in its
// own process, with the request that it got.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "host-local", ReadsArgs: true, Keys: ipam.Keys, Validate: cni.Validates(ipam.ParseConfig),
		Add: add, Del: del, Check: check,
		States: []cni.State{{Package: "pkg/ipam", What: "leases", GC: gc, Status: status}},
	}
}

// add is ADD for whoever executes the plugin. ptp, for one, asks for addresses first, sees
// then that the container has its interface already, or that another ADD was faster, and
// gives them back by DEL, from under the attachment that stands. So what that has is
// refused, as the reference refuses it (duplicate allocation).
func add(r *cni.Request) (result types.Result, err error) {
	var undo cni.Undo
	defer undo.OnError(&err)
	executed := &ipam.Executed{By: ipam.Parent(), IsAttached: func() bool { return isAttached(r) }}
	leased, err := lease(r, executed, func() error { return nil }, &undo) // GC is for what the dead have besides
	if err != nil {
		return nil, err
	}
	return leased, nil
}

// isAttached says whether the container has the interface; false where that cannot be
// seen.
func isAttached(r *cni.Request) bool {
	err := netns.Enter(r.NetNS, func() error {
		_, err := net.InterfaceByName(r.Owner.IfName)
		return err
	})
	return err == nil
}

// Lease is ADD for a main plugin in this process, whose undo then releases what this call
// took, but no address that the attachment had before, or that another ADD got for it
// meanwhile. fromDead is called where leases of the dead were taken away: nothing else of
// theirs may lead to their addresses any more.
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

// ipConfig is the leased address as a result shows it.
func ipConfig(set ipam.Set, a netip.Addr) *types100.IPConfig {
	i := slices.IndexFunc(set, func(r ipam.Range) bool { return r.Contains(a) })
	r := set[i] // the lease is of this set
	return cni.IPConfig(netip.PrefixFrom(a, r.Subnet.Bits()), r.Gateway)
}

// del releases the attachment's leases in every data directory that we have used, so that
// it needs no sound configuration.
func del(r *cni.Request) error {
	store, err := ipam.StoreOf(r)
	if err != nil {
		return ReleaseFormer(r)
	}
	return errors.Join(store.Release(r.Owner), store.ReleaseElsewhere(r.Owner))
}

// ReleaseFormer is DEL for a main plugin whose network had host-local as its IPAM plugin
// before it was edited.
func ReleaseFormer(r *cni.Request) error {
	return ipam.Former(r.Owner.Network).ReleaseElsewhere(r.Owner)
}

// ReclaimFormer is GC, likewise.
func ReclaimFormer(r *cni.Request) error {
	return ipam.Former(r.Owner.Network).ReclaimElsewhere()
}

// check compares the lease with prevResult, where there is one: each leased
// address must be the container's, and each of the container's that our ranges
// hold must be leased to it. prevResult may have others, from other plugins.
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

// checkLeased is an error of code 103 if the container has an address of our ranges that
// is not leased to it. A configuration that was edited into nonsense has no ranges.
func checkLeased(r *cni.Request, have, held []netip.Addr) error {
	config, err := ipam.ParseConfig(r)
	if err != nil {
		return nil // see above
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

// Gateways are those that an ADD would tell, with their subnets' lengths; none for a
// configuration that cannot be read.
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
