package nat

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trestle-cni/trestle/pkg/cni"
)

func readPorts(t *testing.T, config string) PortSettings {
	t.Helper()
	s, err := ReadPorts(&cni.Request{Stdin: []byte(config)})
	must(t, err)
	return s
}

func TestReadPortsDefaults(t *testing.T) {
	got := readPorts(t, `{}`)
	want := PortSettings{PortOptions: PortOptions{SNAT: true, MarkBit: 13}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(PortSettings{})); diff != "" || got.Any() {
		t.Errorf("-want +got\n%s", diff)
	}
}

// Keys that only iptables supports choose that backend, as the reference plugin does.
func TestReadPortsBackend(t *testing.T) {
	for config, want := range map[string]Backend{
		`{}`:                            Auto,
		`{"backend": "nftables"}`:       NFTables,
		`{"conditionsV4": []}`:          Auto,
		`{"markMasqBit": 0}`:            Auto,
		`{"conditionsV4": ["-i", "x"]}`: IPTables,
		`{"conditionsV6": ["!", "-i"]}`: IPTables,
		`{"externalSetMarkChain": "X"}`: IPTables,
	} {
		if got := readPorts(t, config).Backend; got != want {
			t.Errorf("%s: got %q, want %q", config, got, want)
		}
	}
}

// nerdctl reads chains of iptables to choose host ports, so its mappings are made there.
func TestReadPortsOfNerdctl(t *testing.T) {
	for _, test := range []struct {
		name, config string
		args         map[string]string
		want         Backend
	}{
		{"its arguments", `{}`, map[string]string{"IgnoreUnknown": "1", "NERDCTL_CNI_DHCP_HOSTNAME": "x"}, IPTables},
		{"its key", `{"nerdctlID": "17f29b073143d8cd97b5bbe492bdeffec1c5fee55cc1fe2112c8b9335f8b6121"}`, nil, IPTables},
		{"another runtime", `{}`, map[string]string{"IgnoreUnknown": "1"}, Auto},
		{"a backend that was asked for", `{"backend": "nftables"}`, map[string]string{"NERDCTL_CNI_DHCP_HOSTNAME": "x"}, NFTables},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := ReadPorts(&cni.Request{Stdin: []byte(test.config), Args: test.args})
			if err != nil || s.Backend != test.want {
				t.Errorf("got %q, %v, want %q", s.Backend, err, test.want)
			}
		})
	}
	t.Setenv("PATH", "/nonexistent")
	s, err := ReadPorts(&cni.Request{Stdin: []byte(`{"nerdctlID": "17f2"}`)})
	if err != nil || s.Backend != Auto {
		t.Errorf("a host without iptables: got %q, %v, want any", s.Backend, err)
	}
}

// A host port without hostIP and with 0.0.0.0 or :: is the same: one mapping, or a conflict.
func TestPortsSpeltTwice(t *testing.T) {
	for _, hostIP := range []string{"0.0.0.0", "::"} {
		for second, ok := range map[int]bool{80: true, 81: false} {
			s := readPorts(t, fmt.Sprintf(`{"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}, {"hostPort": 8080, "containerPort": %d, "hostIP": %q}]}}`, second, hostIP))
			ports, err := s.For(prefixes("10.1.0.5/24", "fd00:1::5/64"), nil)
			if ok && (err != nil || len(ports.Mappings) != 2) {
				t.Errorf("%s, the same container port: got %v, %v, want one mapping of each family", hostIP, ports.Mappings, err)
			}
			if !ok && (cni.CodeOf(err) != 7 || !strings.Contains(err.Error(), "runtimeConfig.portMappings[1].hostPort")) {
				t.Errorf("%s, another container port: got %v, want code 7 that names the field", hostIP, err)
			}
		}
	}
}

func TestPortsForAddresses(t *testing.T) {
	const dual, only4 = "10.1.0.5/24 fd00:1::5/64 10.9.0.5/24", "10.1.0.5/24"
	for _, tt := range []struct{ name, hostIP, addresses, want string }{
		{"any address of both families", "", dual, "tcp 0.0.0.0:8080 to 10.1.0.5:80; tcp [::]:8080 to [fd00:1::5]:80"},
		{"any address of one family", "", only4, "tcp 0.0.0.0:8080 to 10.1.0.5:80"},
		{"any IPv4 address", "0.0.0.0", dual, "tcp 0.0.0.0:8080 to 10.1.0.5:80"},
		{"any IPv6 address", "::", dual, "tcp [::]:8080 to [fd00:1::5]:80"},
		{"one address", "192.0.2.1", dual, "tcp 192.0.2.1:8080 to 10.1.0.5:80"},
		{"IPv4 written as IPv6", "::ffff:192.0.2.1", dual, "tcp 192.0.2.1:8080 to 10.1.0.5:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := readPorts(t, `{"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "hostIP": "`+tt.hostIP+`"}]}}`)
			ports, err := s.For(prefixes(strings.Fields(tt.addresses)...), nil)
			must(t, err)
			var got []string
			for _, m := range ports.Mappings {
				got = append(got, m.String())
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

func TestMasqueradeConfig(t *testing.T) {
	subnets := prefixes("10.1.0.0/24")
	everything := MasqueradeConfig{Exclude: []string{"10.1.2.3/8"}, SNATIP4: "192.0.2.1", SNATIP6: "2001:db8::1", RandomFully: true}
	for _, tt := range []struct {
		name   string
		config MasqueradeConfig
		want   Masquerade
		says   string // of an error with code 7
	}{
		{name: "nothing", want: Masquerade{Prefixes: subnets}},
		{name: "everything", config: everything, want: Masquerade{
			Prefixes: subnets, Exclude: prefixes("10.0.0.0/8"), RandomFully: true,
			SNAT4: netip.MustParseAddr("192.0.2.1"), SNAT6: netip.MustParseAddr("2001:db8::1"),
		}},
		{
			name: "IPv4 written as IPv6", config: MasqueradeConfig{Exclude: []string{"::ffff:10.0.0.0/104"}},
			want: Masquerade{Prefixes: subnets, Exclude: prefixes("10.0.0.0/8")},
		},
		{name: "no prefix", config: MasqueradeConfig{Exclude: []string{"10.0.0.0/8", "10.0.0.1"}}, says: `masquerade.exclude[1]: "10.0.0.1"`},
		{name: "other family", config: MasqueradeConfig{SNATIP4: "2001:db8::1"}, says: "masquerade.snatIP4: 2001:db8::1"},
		{name: "no address", config: MasqueradeConfig{SNATIP6: "x"}, says: `masquerade.snatIP6: "x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.config.Of(subnets)
			if tt.says != "" {
				if cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("got %v, want code %d and %q", err, cni.CodeConfig, tt.says)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
