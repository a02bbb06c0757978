package bridge

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// unseen are the fields of a State that CHECK does not compare, and why.
var unseen = map[string]string{
	"Bridge.MAC":               "udev may change it, and a bridge of somebody else's has its own",
	"Bridge.MTU":               "is for a bridge that is made; the plan for CHECK has none (PlanFromResult)",
	"Bridge.Promisc":           "a packet capture switches it on and off",
	"Bridge.DefaultVLAN":       "found, not planned",
	"Bridge.ForceAddress":      "says how to get there",
	"Bridge.Network":           "is for messages and records",
	"Bridge.IPv6Field":         "is for messages",
	"Port.Alias":               "people and monitoring write there",
	"Port.MAC":                 "udev may change it",
	"Port.MTU":                 "as the bridge's",
	"Port.SpoofCheck":          "is a rule, which SpoofChecks.Diff compares",
	"Container.WasUp":          "says how to get there",
	"Container.DAD":            "says how to get there",
	"Container.LinkLocal":      "the kernel's addresses are nobody's",
	"Container.Announce":       "is done once",
	"Container.AddedDefaults":  "are among the routes",
	"Container.AnyRouteFields": "says how to compare",
}

// TestDiffSeesEveryField: a field that is planned and not found is a difference, so that CHECK
// cannot miss a key without a reason in unseen.
func TestDiffSeesEveryField(t *testing.T) {
	for _, path := range fieldsOf(reflect.TypeFor[State]()) {
		want, have := fullState(), fullState()
		field := reflect.ValueOf(&have).Elem()
		for name := range strings.SplitSeq(path, ".") {
			field = field.FieldByName(name)
		}
		if field.IsZero() {
			t.Errorf("State.%s: fullState does not set it", path)
		}
		field.SetZero()
		switch seen, reason := len(Diff(want, have)) > 0, unseen[path]; {
		case !seen && reason == "":
			t.Errorf("State.%s: Diff says nothing when it is not found; compare it in diff.go, or say above why not", path)
		case seen && reason != "":
			t.Errorf("State.%s: Diff compares it, and above stands that it does not", path)
		}
	}
	if diffs := Diff(fullState(), fullState()); len(diffs) > 0 {
		t.Errorf("got %v for what is as planned, want no difference", diffs)
	}
}

// fieldsOf are the paths of all fields of the package's own structs.
func fieldsOf(s reflect.Type) (paths []string) {
	for i := range s.NumField() {
		field := s.Field(i)
		if field.Type.Kind() != reflect.Struct || field.Type.PkgPath() != s.PkgPath() {
			paths = append(paths, field.Name)
			continue
		}
		for _, path := range fieldsOf(field.Type) {
			paths = append(paths, field.Name+"."+path)
		}
	}
	return paths
}

// fullState has every field set.
func fullState() State {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	address := netip.MustParsePrefix("10.1.0.2/24")
	return State{
		Bridge: Bridge{
			Name: "br0", Up: true, MAC: mac, MTU: 1400, Promisc: true, VLANFiltering: true,
			VLANInterface: "br0.5", VLAN: 5, DefaultVLAN: 1, Gateways: []netip.Prefix{address},
			ForceAddress: true, Network: "n", IPv6Field: "ipam",
		},
		Port: Port{
			Name: "veth1", Bridge: "br0", Up: true, Alias: "trestle:n/c1/eth0", MAC: mac, MTU: 1400, Hairpin: true, Isolated: true,
			VLAN: VLAN{Access: 5, Trunk: []int{6}, KeepDefault: true}, SpoofCheck: true,
		},
		Container: Interface{
			Name: "eth0", MAC: mac, MTU: 1400, Up: true, WasUp: true, DAD: true, LinkLocal: true,
			Announce: []netip.Addr{address.Addr()}, Addresses: []Address{{Prefix: address}}, Routes: []Route{{Dst: address}},
			AddedDefaults: []netip.Addr{address.Addr()}, AnyRouteFields: true,
		},
		Forward4: true, Forward6: true,
	}
}
