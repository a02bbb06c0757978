// Package bridge is the bridge plugin: it gives a container an interface on a
// bridge, an address by way of its IPAM plugin, masquerading and mapped ports.
package bridge

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// Plugin wires the verbs.
func Plugin() cni.Plugin {
	return cni.Plugin{Name: "bridge", Add: add, Del: del, Check: check, GC: gc, Status: status}
}

// call is what every verb begins with.
type call struct {
	*cni.Request
	config bridge.Config
	nat    translation
	host   *bridge.Host
	ipam   ipam
}

// newCall reads the configuration. DEL and GC bear a wrong one: the network may
// have been edited since the ADD, and they find what is theirs without.
func newCall(r *cni.Request) (*call, error) {
	config, err := bridge.ParseConfig(r)
	nat, natErr := parseNAT(r)
	err = errors.Join(err, natErr)
	cleansUp := r.Verb == cni.Del || r.Verb == cni.GC
	if err != nil && !cleansUp {
		return nil, err
	}
	host, err := bridge.OpenHost(bridge.DefaultDir)
	if err != nil {
		return nil, err
	}
	return &call{Request: r, config: config, nat: nat, host: host, ipam: findIPAM(r, config.IPAM)}, nil
}

// close lets go of the kernel; nftables last, since it waits for what was
// deleted there, a wait that has passed when the links are gone. That a socket
// does not close well changes nothing of what was done.
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
	sandbox, err := bridge.OpenSandbox(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sandbox.Close() }() // as above
	if err := sandbox.CheckFree(r.Owner.IfName); err != nil {
		return nil, err
	}
	return c.add(sandbox)
}

// add makes the lease first and the links after, so that a full pool leaves no
// interface.
func (c *call) add(sandbox *bridge.Sandbox) (result *cni.Result, err error) {
	var undo cni.Undo
	defer undo.OnError(&err)
	leased, giveBack, err := c.ipam.Add(c.Request)
	if err != nil {
		return nil, err
	}
	undo.Push("release the lease", giveBack)
	lease, err := bridge.ParseLease(leased, c.Owner.IfName)
	if err != nil {
		return nil, err
	}
	if c.config.IPAM != "" && len(lease.Addresses) == 0 {
		return nil, cni.DecodeErrorf("ipam.type: the plugin %q gave no address; ask it for one, or leave ipam out for a layer 2 network", c.config.IPAM)
	}
	plan, err := bridge.NewPlan(c.config, c.Owner, lease, c.mtu())
	if err != nil {
		return nil, err
	}
	if err := c.host.Attach(&plan, c.Owner, sandbox, &undo); err != nil {
		return nil, err
	}
	if err := c.nat.add(c.Owner, plan, &undo); err != nil {
		return nil, err
	}
	if err := c.host.EnableForwarding(plan); err != nil {
		return nil, err
	}
	return plan.Result(c.config, leased, c.NetNS), nil
}

func (c *call) mtu() int {
	if c.config.MTU != 0 {
		return c.config.MTU
	}
	return c.host.DefaultMTU()
}

// del frees everything of the owner, and goes on after a failure: rules, links,
// and the lease last, since its address must not be given away while they stand.
func del(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	return errors.Join(c.nat.del(r), c.unplug(), c.ipam.Del(r))
}

func (c *call) unplug() error {
	found, err := c.host.Detach(c.Owner)
	if found || err != nil {
		return err
	}
	return errors.Join(
		c.host.DetachForeign(c.config.Bridge, c.Owner.IfName, c.NetNS),
		c.host.ReapBridge(c.config.Bridge),
	)
}

func check(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	prev, err := r.PrevResult()
	if err != nil {
		return err
	}
	if prev == nil {
		return cni.ConfigErrorf("prevResult: missing; CHECK needs the result of the ADD")
	}
	sandbox, err := bridge.OpenSandbox(r.NetNS)
	if err != nil {
		return err
	}
	defer func() { _ = sandbox.Close() }() // only looked at
	return errors.Join(c.ipam.Check(r), c.compare(prev, sandbox))
}

// compare is an error that lists what is not as ADD left it.
func (c *call) compare(prev *cni.Result, sandbox *bridge.Sandbox) error {
	want, err := bridge.PlanFromResult(c.config, c.Owner, prev, c.NetNS)
	if err != nil {
		return err
	}
	have, err := c.host.Observe(want, sandbox)
	if err != nil {
		return err
	}
	failed := c.nat.check(c.Owner, want)
	for _, d := range bridge.Diff(want, have) {
		failed = errors.Join(failed, cni.MismatchErrorf("%s", d))
	}
	return failed
}

func gc(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	valid, err := r.Valid()
	if err != nil {
		return err
	}
	return errors.Join(
		c.nat.host.GC(r.Owner.Network, valid),
		c.host.GC(c.config, r.Owner.Network, valid),
		c.ipam.GC(r),
	)
}

func status(r *cni.Request) error {
	c, err := newCall(r)
	if err != nil {
		return err
	}
	defer c.close()
	return errors.Join(c.host.Status(c.config), c.nat.status(c.config.MACSpoofCheck), c.ipam.Status(r))
}
