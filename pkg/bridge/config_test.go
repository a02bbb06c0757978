package bridge

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func request(config string) *cni.Request {
	return &cni.Request{Command: cni.Add, Owner: cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}, Stdin: []byte(config)}
}

func TestConfigRefusals(t *testing.T) {
	tests := []struct {
		name, config string
		want         []string // field, value, way out
	}{
		{"bridge name too long", `{"bridge":"abcdefghijklmnop"}`, []string{"bridge", "abcdefghijklmnop", "15"}},
		{"bridge name is a path", `{"bridge":"../x"}`, []string{"bridge", "../x"}},
		{"mtu too small", `{"mtu":67}`, []string{"mtu", "67", "68"}},
		{"mtu too large", `{"mtu":65536}`, []string{"mtu", "65536", "65535"}},
		{"mtu negative", `{"mtu":-1}`, []string{"mtu", "-1"}},
		{"hairpin with promisc", `{"hairpinMode":true,"promiscMode":true}`, []string{"hairpinMode", "promiscMode", "choose one"}},
		{"vlan out of bounds", `{"vlan":4095}`, []string{"vlan", "4095", "4094"}},
		{"vlan negative", `{"vlan":-1}`, []string{"vlan", "-1"}},
		{"no room for the VLAN interface", `{"bridge":"abcdefghijkl","vlan":1000,"isGateway":true}`, []string{"bridge", "abcdefghijkl.1000", "15"}},
		{"trunk without maxID", `{"vlanTrunk":[{"minID":5}]}`, []string{"vlanTrunk[0]", "maxID"}},
		{"trunk backwards", `{"vlanTrunk":[{"id":3},{"minID":5,"maxID":4}]}`, []string{"vlanTrunk[1].maxID: 4 is less than minID, 5"}},
		{"id beside a trunk", `{"vlanTrunk":[{"minID":5,"maxID":6,"id":4095}]}`, []string{"vlanTrunk[0].id: 4095"}},
		{"trunk of VLAN 0", `{"vlanTrunk":[{"id":0}]}`, []string{"vlanTrunk[0]", "0"}},
		{"trunk entry empty", `{"vlanTrunk":[{}]}`, []string{"vlanTrunk[0]", "id"}},
		{"link down with ipam", `{"disableContainerInterface":true,"ipam":{"type":"host-local"}}`, []string{"disableContainerInterface", "host-local"}},
		{"ipam type is a path", `{"ipam":{"type":"../../bin/sh"}}`, []string{"ipam.type", "../../bin/sh"}},
		{"unknown lifetime", `{"bridgeLifetime":"forever"}`, []string{"bridgeLifetime", "forever", "auto", "leave the key out"}},
		{"mac no address", `{"runtimeConfig":{"mac":"xx"}}`, []string{"runtimeConfig.mac", "xx"}},
		{"mac multicast", `{"args":{"cni":{"mac":"01:00:5e:00:00:01"}}}`, []string{"args.cni.mac", "01:00:5e:00:00:01", "even"}},
		{"mac zero", `{"runtimeConfig":{"mac":"00:00:00:00:00:00"}}`, []string{"runtimeConfig.mac"}},
		{"mac of eight octets", `{"runtimeConfig":{"mac":"02:00:00:00:00:00:00:01"}}`, []string{"runtimeConfig.mac"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig(request(tt.config))
			if cni.CodeOf(err) != cni.CodeConfig {
				t.Fatalf("got %v, want an error of code %d", err, cni.CodeConfig)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}

// TestConfigOfOldVersions: results before 0.3.0 need an address.
func TestConfigOfOldVersions(t *testing.T) {
	for _, tt := range []struct {
		version, config string
		want            bool
	}{
		{"0.2.0", `{}`, false}, {"0.1.0", `{"ipam": {}}`, false}, {"0.1.0", `{"ipam": {"type": "host-local"}}`, true}, {"0.3.0", `{}`, true}, {"1.1.0", `{}`, true},
	} {
		r := request(tt.config)
		r.Version = tt.version
		_, err := ParseConfig(r)
		if (err == nil) != tt.want || err != nil && (cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), tt.version)) {
			t.Errorf("%s in %s: got %v, want it taken: %t", tt.config, tt.version, err, tt.want)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	c, err := ParseConfig(request(`{"isDefaultGateway":true,"unknownKey":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Bridge != "cni0" || !c.Gateway || !c.DefaultGateway || !c.IPv6LinkLocal || c.KeepDefaultVLAN || c.MAC != nil {
		t.Errorf("got %+v", c)
	}
}

// TestConfigIPv6Field: the message of a host without IPv6 names the field that asks for it.
func TestConfigIPv6Field(t *testing.T) {
	for config, want := range map[string]string{
		`{"ranges":[[{"subnet":"10.1.0.0/16"}],[{"subnet":"fd00::/64"}]]}`: "ipam.ranges[1]",
		`{"subnet":"fd00::/64"}`:                   "ipam.subnet",
		`{"addresses":[{"address":"fd00::2/64"}]}`: "ipam.addresses[0]",
		`{"ranges":[[{"subnet":"10.1.0.0/16"}]]}`:  "",
		`{"ranges":"10.1.0.0/16"}`:                 "", // is for the IPAM plugin to refuse
	} {
		c, err := ParseConfig(request(`{"ipam":` + config + `}`))
		if err != nil || c.IPv6Field != want {
			t.Errorf("%s: got %q, %v, want %q", config, c.IPv6Field, err, want)
		}
	}
}

func TestConfigMACOrder(t *testing.T) {
	const a, b, c = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
	tests := []struct{ runtime, args, cniArgs, want string }{
		{a, b, c, a}, {"", b, c, b}, {"", "", c, c}, {"", "", "", ""},
	}
	for _, tt := range tests {
		r := request(fmt.Sprintf(`{"RuntimeConfig":{"Mac":%q},"args":{"cni":{"mac":%q}}}`, tt.runtime, tt.args))
		r.Args = map[string]string{"MAC": tt.cniArgs}
		config, err := ParseConfig(r)
		if err != nil || config.MAC.String() != tt.want {
			t.Errorf("%+v: got %s, %v", tt, config.MAC, err)
		}
	}
}

func TestConfigTrunk(t *testing.T) {
	c, err := ParseConfig(request(`{"vlanTrunk":[{"minID":10,"maxID":12},{"id":5},{"id":11},{"minID":1,"maxID":2,"id":9}]}`))
	if want := []int{1, 2, 5, 9, 10, 11, 12}; err != nil || !slices.Equal(c.Trunk, want) {
		t.Errorf("got %v, %v, want %v", c.Trunk, err, want)
	}
	if got, want := ranges(c.Trunk), []vlanRange{{1, 2, 0}, {5, 5, 0}, {9, 12, 0}}; !slices.Equal(got, want) {
		t.Errorf("got ranges %v, want %v", got, want)
	}
}

// A configuration that has become invalid must not keep a DEL from finding its bridge.
func TestConfigIsReadAsFarAsItGoes(t *testing.T) {
	c, err := ParseConfig(request(`{"bridge":"br7","mtu":-5,"ipam":{"type":"host-local"}}`))
	if err == nil || c.Bridge != "br7" || c.IPAM != "host-local" {
		t.Errorf("got %+v, %v, want bridge, ipam type and an error", c, err)
	}
}
