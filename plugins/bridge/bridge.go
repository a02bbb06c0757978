// Package bridge is the bridge plugin: it gives a container an interface on a
// bridge, an address from the IPAM plugin, masquerade and port mappings.
//
// It only wires: pkg/bridge knows links, addresses and routes, pkg/nat masquerade and
// ports, pkg/ipam leases. Start at call.add, which is an ADD in its order, and at del.
package bridge

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/netns"
	hostlocal "github.com/trestle-cni/trestle/plugins/host-local"
	"github.com/trestle-cni/trestle/plugins/translator"
)

// Plugin wires the commands.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "bridge", EntersNetNS: true, ReadsArgs: true, Keys: keys, Validate: validate,
		Add: add, Del: del, Check: check,
		States: []cni.State{
			translator.NAT(natStatus),
			{Package: "pkg/bridge", What: "links and bridges, and what the IPAM plugin leased for them", GC: gc, Status: status},
			spoofChecks(), // whose links are gone by now
		},
	}
}

// call is what every command begins with.
type call struct {
	*cni.Request
	config bridge.Config
	nat    translation
	host   *bridge.Host
	ipam   ipam
}

// newCall reads the configuration. DEL and GC go on with a wrong one: the network may
// have been edited since the ADD, and they find what is theirs without it.
func newCall(r *cni.Request) (*call, error) {
	config, err := bridge.ParseConfig(r)
	translation, natErr := parseNAT(r)
	err = errors.Join(err, natErr)
	cleansUp := r.Command == cni.Del || r.Command == cni.GC
	if err != nil && !cleansUp {
		return nil, err
	}
	host, err := bridge.OpenHost()
	if err != nil {
		return nil, err
	}
	return &call{Request: r, config: config, nat: translation, host: host, ipam: findIPAM(r, config.IPAM)}, nil
}

// close closes the sockets, that of nftables last: closing it waits for the grace
// period of a deletion, which has passed by the time that the links are gone. Errors
// are ignored, since they change nothing of what was done.
func (c *call) close() {
	c.host.Close()
	c.nat.close()
}

func add(r *cni.Request) (types.Result, error) {
	c, err := newCall(r)
	if err != nil {
		return nil, err
	}
	defer c.close()
	container, err := netns.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer func() { _ = container.Close() }() // opened for reading only
	return c.add(container)
}

// add is ADD. What fails is undone: first all that needs the link, then the lease.
func (c *call) add(container *netns.Handle) (result *cni.Result, err error) {
	var undo, last cni.Undo // last runs when the container's link is gone
	defer last.OnError(&err)
	defer undo.OnError(&err)
	order := c.linkThenLease
	if c.ipam.NeedsNoLink() {
		order = c.leaseThenLink
	}
	plan, leased, err := order(container, &undo, &last)
	if err != nil {
		return nil, err
	}
	if err := c.host.EnableForwarding(plan); err != nil {
		return nil, err
	}
	return plan.Result(c.config, leased, c.NetNS), nil
}

// leaseThenLink is the order where host-local or static runs in this process: a full
// pool leaves no interface, the MAC can be derived from the address, and one transaction
// of nftables has all that the attachment needs.
func (c *call) leaseThenLink(container *netns.Handle, undo, last *cni.Undo) (plan bridge.State, leased *cni.Result, err error) {
	leased, lease, err := c.lease(last)
	if err != nil {
		return plan, nil, err
	}
	if plan, err = bridge.NewPlan(c.config, c.Owner, lease); err != nil {
		return plan, nil, err
	}
	plan.Port.Hairpin = plan.Port.Hairpin || c.nat.ports.NeedHairpin()
	err = c.host.Attach(&plan, container, func() error {
		return c.nat.add(c.Request, plan, c.nat.spoofCheck(c.Request, &plan, undo), undo)
	}, undo)
	return plan, leased, err
}

// linkThenLease is the order for an IPAM plugin that is executed: it finds the link
// CNI_IFNAME in CNI_NETNS up and on the bridge, as dhcp needs it to ask a server.
func (c *call) linkThenLease(container *netns.Handle, undo, last *cni.Undo) (plan bridge.State, leased *cni.Result, err error) {
	if plan, err = bridge.NewLinkPlan(c.config, c.Owner); err != nil {
		return plan, nil, err
	}
	plan.Port.Hairpin = plan.Port.Hairpin || c.nat.ports.NeedHairpin()
	protect := func() error {
		return c.nat.apply(c.Request, nat.Attachment{Owner: c.Owner, Also: c.nat.spoofCheck(c.Request, &plan, undo)}, undo)
	}
	if err := c.host.Attach(&plan, container, protect, undo); err != nil {
		return plan, nil, err
	}
	release := last
	if c.ipam.ReleasesByLink() {
		release = undo
	}
	leased, lease, err := c.lease(release)
	if err != nil {
		return plan, nil, err
	}
	if plan, err = plan.WithLease(c.config, c.Owner, lease); err != nil {
		return plan, nil, err
	}
	err = c.host.Configure(&plan, container, last)
	if err == nil {
		err = c.nat.add(c.Request, plan, nat.Also{}, undo)
	}
	return plan, leased, err
}

// lease asks the IPAM plugin for addresses. That one gives none is an error, of code 6.
func (c *call) lease(undo *cni.Undo) (*cni.Result, bridge.Lease, error) {
	leased, err := c.ipam.Add(c.Request, undo)
	if err != nil {
		return nil, bridge.Lease{}, err
	}
	lease, err := bridge.ParseLease(leased, c.Owner.IfName)
	if err == nil && c.config.IPAM != "" && len(lease.Addresses) == 0 {
		err = cni.DecodeErrorf("ipam.type: the plugin %q gave no address; ask it for one, or leave ipam out for a layer 2 network", c.config.IPAM)
	}
	return leased, lease, err
}

// del deletes the owner's rules, its link and its lease, in this order, and goes on after
// a failure. Only the lease is kept where the link could not be deleted, which may still
// use the address. All three are found by the owner: CNI_NETNS leads to nothing but what
// the reference plugin made.
func del(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	release := func() error { return c.ipam.Del(r) }
	if c.ipam.ReleasesByLink() {
		return cni.EachCaught(func() error { return c.nat.del(r, c.config) }, release, c.unplug)
	}
	return cni.EachCaught(func() error { return c.nat.del(r, c.config) }, func() error { return releaseAfter(c.unplug, release) })
}

// releaseAfter releases leases once their links are deleted.
func releaseAfter(unplug, release func() error) error {
	if err := cni.Catch(unplug); err != nil {
		return fmt.Errorf("leases are kept while their links may be there: %w", err)
	}
	return release()
}

func (c *call) unplug() error {
	found, err := c.host.Detach(c.config, c.Owner)
	if found || err != nil {
		return err
	}
	err = c.host.DetachReference(c.config.Bridge, c.Owner.IfName, c.NetNS)
	if c.config.Transient {
		err = errors.Join(err, c.host.ReapBridge(c.config.Bridge))
	}
	return err
}

func check(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	prev, err := r.RequirePrevResult()
	if err != nil {
		return err
	}
	container, err := netns.Open(r.NetNS)
	if err != nil {
		return err
	}
	defer func() { _ = container.Close() }() // only looked at
	return errors.Join(c.ipam.Check(r), c.compare(prev, container))
}

// compare lists what is not as ADD left it, as an error of code 103.
func (c *call) compare(prev *cni.Result, container *netns.Handle) error {
	want, err := bridge.PlanFromResult(c.config, c.Owner, prev, c.NetNS)
	if err != nil {
		return err
	}
	have, err := c.host.Observe(want, container)
	if err != nil {
		return err
	}
	return errors.Join(c.nat.check(c.Request, want), cni.Mismatches(bridge.Diff(want, have)))
}

// validate refuses what newCall refuses.
func validate(r *cni.Request) error {
	c, err := newCall(r)
	if err == nil {
		c.close()
	}
	return err
}

// gc deletes links before it releases their leases. Where the record of the bridge's
// gateways was lost it is made again first: without it, an idle bridge would stay.
func gc(r *cni.Request, valid cni.Valid) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	var adopted error
	if _, local := c.ipam.(inProcess); local && (c.config.Transient || valid.IsEmpty()) {
		adopted = c.host.AdoptGateways(c.config, r.Owner.Network, hostlocal.Gateways(r))
	}
	failed := releaseAfter(func() error { return c.host.GC(c.config, r.Owner.Network, valid) }, func() error { return c.ipam.GC(r) })
	return errors.Join(adopted, failed)
}

func status(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	return errors.Join(c.host.Status(c.config), c.ipam.Status(r))
}
