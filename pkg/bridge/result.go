package bridge

import (
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Result is the answer to an ADD: bridge, host veth and container interface (and the VLAN
// interface, if there is one), the addresses of the container interface, and IPAM's routes
// and DNS with what the configuration adds or replaces.
func (s *State) Result(c Config, leased *cni.Result, netns string) *cni.Result {
	result := &cni.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: s.Bridge.Name, Mac: s.Bridge.MAC.String()},
			{Name: s.Port.Name, Mac: s.Port.MAC.String(), Mtu: s.Port.MTU},
			{Name: s.Container.Name, Mac: s.Container.MAC.String(), Mtu: s.Container.MTU, Sandbox: netns},
		},
		Routes: leased.Routes,
		DNS:    leased.DNS,
	}
	if s.Bridge.VLANInterface != "" {
		// a VLAN interface has the MAC of the link below it
		result.Interfaces = append(result.Interfaces, &types100.Interface{Name: s.Bridge.VLANInterface, Mac: s.Bridge.MAC.String()})
	}
	for _, a := range s.Container.Addresses {
		ip := cni.IPConfig(a.Prefix, a.Gateway)
		ip.Interface = types100.Int(2)
		result.IPs = append(result.IPs, ip)
	}
	for _, gateway := range s.Container.AddedDefaults {
		result.Routes = append(result.Routes, &types.Route{Dst: *toIPNet(defaultRoute(gateway).Dst), GW: gateway.AsSlice()})
	}
	if !c.DNS.IsEmpty() {
		result.DNS = c.DNS
	}
	return result
}
