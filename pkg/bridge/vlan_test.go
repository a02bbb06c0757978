package bridge

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
)

func TestPlanVLAN(t *testing.T) {
	tests := []struct {
		name   string
		config Config
		want   VLAN
	}{
		{"none", Config{}, VLAN{}},
		{"default kept, with nothing to keep it from", Config{KeepDefaultVLAN: true}, VLAN{KeepDefault: true}},
		{"access", Config{VLAN: 100}, VLAN{Access: 100}},
		{"trunk alone is native in VLAN 1", Config{Trunk: []int{1, 2, 3}}, VLAN{Access: 1, Trunk: []int{2, 3}}},
		{"access VLAN in the trunk", Config{VLAN: 2, Trunk: []int{1, 2, 3}}, VLAN{Access: 2, Trunk: []int{1, 3}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, planVLAN(tt.config)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestReadVLAN(t *testing.T) {
	const untagged = nl.BRIDGE_VLAN_INFO_UNTAGGED
	access100 := vlanRange{100, 100, accessFlags}
	plan := VLAN{Access: 100, Trunk: []int{200, 201}}
	tests := []struct {
		name      string
		list      []vlanRange
		byDefault int
		plan      VLAN
		want      string
		included  bool
	}{
		{"as planned", []vlanRange{access100, {200, 201, 0}}, 1, plan, "untagged 100, tagged 200-201, default VLAN gone", true},
		{"more than planned", []vlanRange{access100, {199, 205, 0}}, 1, plan, "untagged 100, tagged 199-205, default VLAN gone", true},
		{"default left", []vlanRange{{1, 1, untagged}, access100, {200, 201, 0}}, 1, plan, "untagged 100, tagged 200-201, default VLAN kept", false},
		{"default of another number left", []vlanRange{{7, 7, untagged}, access100}, 7, VLAN{Access: 100, KeepDefault: true}, "untagged 100, tagged none, default VLAN kept", true},
		{"default is the access VLAN", []vlanRange{access100, {200, 201, 0}}, 100, plan, "untagged 100, tagged 200-201, default VLAN gone", true},
		{"untagged in the trunk", []vlanRange{access100, {200, 200, 0}, {201, 201, untagged}}, 1, plan, "untagged 100, tagged 200, default VLAN gone", false},
		{"tagged access", []vlanRange{{100, 100, 0}, {200, 201, 0}}, 1, plan, "untagged 0, tagged 100 200-201, default VLAN gone", false},
		{"nothing", nil, 1, plan, "untagged 0, tagged none, default VLAN gone", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := readVLAN(tt.list, tt.byDefault, tt.plan)
			if got.String() != tt.want || got.includes(tt.plan) != tt.included {
				t.Errorf("got %q, includes the plan: %t, want %q, %t", got, got.includes(tt.plan), tt.want, tt.included)
			}
		})
	}
}
