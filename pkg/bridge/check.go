package bridge

import (
	"net"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// PlanFromResult is what must be there after an ADD that ended in result: the
// configuration's plan, with what later plugins of the list have changed since
// (routes, MAC; the MTU they change without a word, and it is left out), and the
// host veth as the result names it, which another suite may have made.
func PlanFromResult(c Config, o cni.Owner, result *cni.Result, netns string) (State, error) {
	lease, err := ParseLease(result, o.IfName)
	if err != nil {
		return State{}, err
	}
	// the result has the default routes that are still wanted, and may have those
	// of interfaces that later plugins brought
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

// findInterfaces finds the container's end, and the host veth unless it is the
// planned one: the first link of the host that is not the bridge or its VLAN
// interface.
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

// reaches says whether the address is in one of the lease's subnets, or is named
// as a gateway by it.
func (l Lease) reaches(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addresses, func(own Address) bool { return own.Prefix.Contains(a) || own.Gateway == a })
}
