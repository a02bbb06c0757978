// Package bridge is the bridge plugin: it gives a container an interface on a bridge, an
// address from the IPAM plugin, masquerade and port mappings.
//
// It only wires pkg/bridge (links, addresses, routes), pkg/nat (masquerade, port mappings) and
// pkg/ipam (leases). Start at call.add, which has the steps of an ADD in order, and at del.
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

// Plugin is the bridge plugin.
func Plugin() cni.Plugin {
	return cni.Plugin{
		Name: "bridge", EntersNetNS: true, ReadsArgs: true, Keys: keys, Validate: validate,
		Add: add, Del: del, Check: check,
		States: []cni.State{
			translator.NAT(natStatus),
			{Package: "pkg/bridge", What: "links and bridges, and what the IPAM plugin leased for them", GC: gc, Status: status},
			spoofChecks(), // after the links are deleted, by which it goes
		},
	}
}

// call is one call of the plugin: its configuration, and the packages that serve it.
type call struct {
	*cni.Request
	config bridge.Config
	nat    translation
	host   *bridge.Host
	ipam   ipam
}

// newCall parses the configuration. DEL and GC go on with an invalid one: it may have been
// edited since the ADD, and they find what they delete without it.
func newCall(r *cni.Request) (*call, error) {
	config, err := bridge.ParseConfig(r)
	translation, natErr := parseNAT(r)
	if err == nil || natErr != nil && natErr.Error() != err.Error() { // of a key that both read, one error is enough
		err = errors.Join(err, natErr)
	}
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

// close closes the sockets. That of nftables waits for the grace period of a deletion, which
// is over by the time that the links are deleted.
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

// add is ADD. After an error it undoes all steps: first those that need the link, then the
// lease.
func (c *call) add(container *netns.Handle) (result *cni.Result, err error) {
	var undo, last cni.Undo // last runs after undo has deleted the container's link
	defer last.OnError(&err)
	defer undo.OnError(&err)
	order := c.linkThenLease
	if c.ipam.needsNoLink() {
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

// leaseThenLink is the order if host-local or static runs in this process: if the pool is
// full, no link was made; the MAC can be derived from the address; and all rules are made in
// one transaction of nftables.
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

// linkThenLease is the order for an IPAM plugin that is executed: it finds the link CNI_IFNAME
// in CNI_NETNS up and on the bridge, which dhcp needs to ask a server.
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
	if c.ipam.releasesByLink() {
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

// lease asks the IPAM plugin for addresses. If it returns none, the error has code 6.
func (c *call) lease(undo *cni.Undo) (*cni.Result, bridge.Lease, error) {
	leased, err := c.ipam.Add(c.Request, undo)
	if err != nil {
		return nil, bridge.Lease{}, err
	}
	lease, err := bridge.ParseLease(leased, c.Owner.IfName)
	if err != nil {
		err = fmt.Errorf("result of the IPAM plugin %s: %w", c.config.IPAM, err)
	}
	if err == nil && c.config.IPAM != "" && len(lease.Addresses) == 0 {
		err = cni.DecodeErrorf("ipam.type: the plugin %q returned no address; configure it to return one, or leave ipam out for a layer 2 network", c.config.IPAM)
	}
	return leased, lease, err
}

// del deletes the owner's rules, its link and its lease, in this order, and goes on after a
// failure. But if the link could not be deleted, it keeps the lease, since the container may
// still use the address. It finds all three by the owner; CNI_NETNS is only for what the
// reference plugin has made.
func del(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	release := func() error { return c.ipam.Del(r) }
	if c.ipam.releasesByLink() {
		return cni.EachCaught(func() error { return c.nat.del(r, c.config) }, release, c.unplug)
	}
	return cni.EachCaught(func() error { return c.nat.del(r, c.config) }, func() error { return releaseAfter(c.unplug, release) })
}

// releaseAfter deletes links and then releases their leases, which it keeps if links could not
// be deleted.
func releaseAfter(unplug, release func() error) error {
	if err := cni.Catch(unplug); err != nil {
		return fmt.Errorf("leases are kept while their links may be there: %w", err)
	}
	return release()
}

// unplug deletes the attachment's link, whichever suite has made it.
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
	defer func() { _ = container.Close() }() // opened for reading only
	return errors.Join(c.ipam.Check(r), c.compare(prev, container))
}

// compare is an error of code 103 for each detail that is not as ADD left it.
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

// gc deletes links, and then releases their leases. If the records of the bridge's gateways
// were lost, it first writes them again, since without them an idle bridge would stay.
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
