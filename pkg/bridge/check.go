package bridge

import (
	"net"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// PlanFromResult is the plan of an ADD, for CHECK. It is made of the configuration and of
// the result, in which later plugins of the list may have changed routes and the MAC (they
// change the MTU without telling, so it is left out), and which names the host veth, since
// the reference plugins give it another name.
func PlanFromResult(c Config, o cni.Owner, result *cni.Result, netns string) (State, error) {
	lease, err := ParseLease(result, o.IfName)
	if err != nil {
		return State{}, err
	}
	// the result has the default routes, so none is added. It may also have routes of
	// interfaces that later plugins added
	c.DefaultGateway = false
	lease.Routes = slices.DeleteFunc(lease.Routes, func(r LeasedRoute) bool { return r.Gateway.IsValid() && !lease.reaches(r.Gateway) })
	c.MTU = 0
	plan, err := NewPlan(c, o, lease)
	if err != nil {
		return State{}, err
	}
	inside, host := findInterfaces(result, plan, netns)
	if inside == nil {
		return State{}, cni.MismatchErrorf("prevResult.interfaces: no %s in %s; it is not the result of this attachment", o.IfName, netns)
	}
	plan.Container.MAC, plan.Container.AnyRouteFields = nil, !c.RouteFields
	if inside.Mac != "" {
		if plan.Container.MAC, err = net.ParseMAC(inside.Mac); err != nil {
			return State{}, cni.DecodeErrorf("prevResult.interfaces: mac of %s: %w", inside.Name, err)
		}
	}
	if host != nil {
		plan.Port.Name = host.Name
	}
	return plan, nil
}

// findInterfaces finds the container's interface, and the host veth: the first interface on
// the host that is neither the bridge nor its VLAN interface. Each is nil if there is none.
func findInterfaces(result *cni.Result, plan State, netns string) (inside, host *types100.Interface) {
	for _, i := range result.Interfaces {
		switch {
		case i.Sandbox == netns && i.Name == plan.Container.Name:
			inside = i
		case i.Sandbox == "" && i.Name != plan.Bridge.Name && i.Name != plan.Bridge.VLANInterface && host == nil:
			host = i
		}
	}
	return inside, host
}

// reaches says whether the address is in a subnet of the lease, or is one of its gateways.
func (l Lease) reaches(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addresses, func(own Address) bool { return own.Prefix.Contains(a) || own.Gateway == a })
}
