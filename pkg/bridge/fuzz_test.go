package bridge

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// FuzzParseConfig: a configuration is refused with one of the spec's codes for that, or gives
// a plan for a lease, or the lease is refused.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"bridge":"br0","isDefaultGateway":true,"mtu":1400,"vlan":5,"vlanTrunk":[{"minID":7,"maxID":9}],"ipam":{"type":"static"},"args":{"cni":{"mac":"02:00:00:00:00:01"}}}`), "MAC")
	f.Add([]byte(`{"bridge":"br0","isGateway":true,"macspoofchk":true,"disableContainerInterface":false,"ipam":{},"runtimeConfig":{"mac":"02:00:00:00:00:01"}}`), "")
	f.Fuzz(func(t *testing.T, config []byte, mac string) {
		r := request(string(config))
		r.Args = map[string]string{"MAC": mac}
		c, err := ParseConfig(r)
		if err != nil {
			mustBeRefusal(t, err)
			return
		}
		lease := Lease{Addresses: []Address{{Prefix: netip.MustParsePrefix("10.1.0.2/24")}, {Prefix: netip.MustParsePrefix("fd00::2/64")}}}
		if _, err := NewPlan(c, r.Owner, lease); err != nil {
			mustBeRefusal(t, err)
		}
	})
}

func mustBeRefusal(t *testing.T, err error) {
	t.Helper()
	switch cni.CodeOf(err) {
	case cni.CodeUnsupported, cni.CodeConfig, cni.CodeDecode, cni.CodeEnvironment:
	default:
		t.Errorf("code %d: %v", cni.CodeOf(err), err)
	}
}

// FuzzLease: the result of another suite's IPAM plugin is refused, or gives a plan that equals
// the one that CHECK makes of the ADD's result.
func FuzzLease(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/c1"}],"ips":[{"address":"10.1.0.5/24","gateway":"10.1.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1","table":100,"scope":0}],"dns":{}}`), true)
	f.Add([]byte(`{"cniVersion":"0.2.0","ip4":{"ip":"169.254.7.7/32","gateway":"169.254.1.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::2/128"}}`), true)
	f.Add([]byte(`{"ips":[{"address":"10.1.0.5/31"},{"address":"fd00::/127","gateway":"::"}]}`), false)
	f.Fuzz(func(t *testing.T, answer []byte, gateway bool) {
		result, err := cni.ParseResult("answer", answer, "1.1.0")
		if err != nil || result == nil {
			return
		}
		owner := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
		lease, err := ParseLease(result, owner.IfName)
		if err != nil {
			return
		}
		const sandbox = "/run/netns/c1"
		config := Config{Bridge: "br0", Gateway: gateway, DefaultGateway: gateway, RouteFields: true}
		plan, err := NewPlan(config, owner, lease)
		if err != nil {
			mustBeRefusal(t, err)
			return
		}
		again, err := PlanFromResult(config, owner, plan.Result(config, result, sandbox), sandbox)
		if err != nil {
			t.Errorf("CHECK refuses ADD's own result of %s: %v", answer, err)
			return
		}
		if got, want := again.Container.Addresses, plan.Container.Addresses; !slices.Equal(got, want) {
			t.Errorf("%s: CHECK expects the addresses %v, ADD made %v", answer, got, want)
		}
		for _, r := range again.Container.Routes {
			if !slices.Contains(plan.Container.Routes, r) {
				t.Errorf("%s: CHECK expects the route %+v, ADD made %+v", answer, r, plan.Container.Routes)
			}
		}
	})
}
