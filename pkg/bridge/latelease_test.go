package bridge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// TestPlanWithLease: links are planned without addresses, and the plan with the addresses
// changes nothing of the links.
func TestPlanWithLease(t *testing.T) {
	owner := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
	lease := Lease{Addresses: []Address{
		{Prefix: netip.MustParsePrefix("10.1.0.5/24")}, {Prefix: netip.MustParsePrefix("fd00::5/64")},
	}}
	tests := []struct {
		name, config string
		mtu          int
		mac, err     string
	}{
		{"MAC of the owner", `{"isGateway": true, "ipam": {"type": "dhcp"}}`, 1500, "06:" + pairs(owner.Hash(10)), ""},
		{"MAC asked for", `{"isGateway": true, "ipam": {"type": "dhcp"}, "runtimeConfig": {"mac": "02:00:00:00:00:01"}}`, 1500, "02:00:00:00:00:01", ""},
		{"MTU too small for what was leased", `{"isGateway": true, "ipam": {"type": "dhcp"}}`, 1200, "", "bridge cni0 has mtu: 1200 is too small for the IPv6 address fd00::5/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config, err := ParseConfig(request(tt.config))
			if err != nil {
				t.Fatal(err)
			}
			links, err := NewLinkPlan(config, owner)
			if err != nil || len(links.Container.Addresses)+len(links.Bridge.Gateways)+len(links.Container.Announce) > 0 || !links.Container.Up {
				t.Fatalf("got %+v, %v, want links alone, up", links, err)
			}
			if err := links.setMTU(tt.mtu); err != nil { // as Attach does
				t.Fatal(err)
			}
			whole, err := links.WithLease(config, owner, lease)
			if tt.err != "" {
				if err == nil || cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want code 7 and %q", err, tt.err)
				}
				return
			}
			got := fmt.Sprintln(whole.Container.MAC, whole.Container.MTU, whole.Container.Announce, whole.Bridge.Gateways)
			want := fmt.Sprintln(tt.mac, 1500, "[10.1.0.5 fd00::5]", "[10.1.0.1/24 fd00::1/64]")
			if err != nil || got != want {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		})
	}
}

// pairs puts colons between pairs of digits.
func pairs(digits string) string {
	var all []string
	for i := 0; i < len(digits); i += 2 {
		all = append(all, digits[i:i+2])
	}
	return strings.Join(all, ":")
}
