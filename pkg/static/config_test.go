package static_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/static"
)

func request(config string, args map[string]string) *cni.Request {
	r := &cni.Request{Command: cni.Add, Version: "1.0.0", Args: args, Stdin: []byte(config)}
	if strings.Contains(config, "0.2.0") {
		r.Version = "0.2.0"
	}
	return r
}

func TestResult(t *testing.T) {
	const two = `"ipam": {"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}]}`
	for _, test := range []struct {
		name, config string
		args         map[string]string
		want         string
	}{
		{"configured", two, nil, "10.1.0.5/24 via 10.1.0.1, fd00::5/64"},
		{"none", `"ipam": {}`, nil, ""},
		{
			"CNI_ARGS add", two,
			map[string]string{"IP": "10.2.0.7/16, fd01::7/48", "GATEWAY": "10.2.0.1,fd01::1 ,192.0.2.1"},
			"10.1.0.5/24 via 10.1.0.1, fd00::5/64, 10.2.0.7/16 via 10.2.0.1, fd01::7/48 via fd01::1",
		},
		{"GATEWAY for a configured address", two, map[string]string{"GATEWAY": "10.1.0.254"}, "10.1.0.5/24 via 10.1.0.254, fd00::5/64"},
		{"args.cni.ips replace", two + `, "args": {"cni": {"ips": ["10.3.0.1/8"]}}`, map[string]string{"IP": "10.2.0.7/16"}, "10.3.0.1/8"},
		{
			"runtimeConfig.ips replace all", two + `, "args": {"cni": {"ips": ["10.3.0.1/8"]}}, "runtimeConfig": {"ips": ["10.4.0.1/32", "fd04::1/128"]}`, nil,
			"10.4.0.1/32, fd04::1/128",
		},
		{"host bits stay", `"ipam": {"addresses": [{"address": "10.1.2.3/8"}]}`, nil, "10.1.2.3/8"},
		{"IPv4-mapped", `"ipam": {"addresses": [{"address": "::ffff:10.1.0.5/120", "gateway": "::ffff:10.1.0.1"}]}`, nil, "10.1.0.5/24 via 10.1.0.1"},
		{
			"marshalled from the reference's types", `"ipam": {"addresses": [{"address": "10.1.0.5/24", "Address": {"IP": "10.1.0.5", "Mask": "////AA=="}, "Version": "4"},
			{"address": "fd00::5/64", "Address": {"IP": "", "Mask": null}, "Version": ""}, {"address": "", "Address": {"IP": "10.3.0.5", "Mask": "//8AAA=="}, "gateway": "10.3.0.1"}]}`, nil,
			"10.1.0.5/24, fd00::5/64, 10.3.0.5/16 via 10.3.0.1",
		},
		{"key in another case", `"ipam": {"addresses": [{"Address": "10.1.0.5/24"}]}`, nil, "10.1.0.5/24"},
		{
			"unspecified gateway is none", `"ipam": {"addresses": [{"address": "10.1.0.5/24", "gateway": "0.0.0.0"}, {"address": "fd00::5/64", "gateway": "::"}]}`,
			map[string]string{"IP": "10.2.0.5/0", "GATEWAY": "0.0.0.0"},
			"10.1.0.5/24, fd00::5/64, 10.2.0.5/0",
		},
		{"gateway elsewhere", `"ipam": {"addresses": [{"address": "10.1.0.5/32", "gateway": "169.254.1.1"}]}`, nil, "10.1.0.5/32 via 169.254.1.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, err := static.ParseConfig(request("{"+test.config+"}", test.args))
			if err != nil {
				t.Fatal(err)
			}
			if got := show(config.Result()); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func show(result *cni.Result) string {
	var all []string
	for _, ip := range result.IPs {
		text := ip.Address.String()
		if ip.Gateway != nil {
			text += " via " + ip.Gateway.String()
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func TestRoutesAndDNS(t *testing.T) {
	const config = `{"ipam": {"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "priority": 7}], "dns": {"nameservers": ["10.1.0.53"], "search": ["a.example"]}}}`
	c, err := static.ParseConfig(request(config, nil))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(c.Result())
	const want = `{"cniVersion":"1.1.0","dns":{"nameservers":["10.1.0.53"],"search":["a.example"]},"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1","mtu":1400,"priority":7}]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		name, config string
		args         map[string]string
		code         cni.Code
		want         string // what the message must hold
	}{
		{"no ipam", `{}`, nil, cni.CodeConfig, "ipam: missing"},
		{"no length", `{"ipam": {"addresses": [{"address": "10.1.0.5"}]}}`, nil, cni.CodeConfig, `ipam.addresses[0].address: "10.1.0.5" is not`},
		{"empty address", `{"ipam": {"addresses": [{}]}}`, nil, cni.CodeConfig, `ipam.addresses[0].address: ""`},
		{"two addresses in one entry", `{"ipam": {"addresses": [{"address": "10.1.0.5/24", "Address": {"IP": "10.1.0.6", "Mask": "////AA=="}}]}}`, nil, cni.CodeConfig, "address 10.1.0.5/24 and Address 10.1.0.6/24"},
		{"null among the routes", `{"ipam": {"routes": [{"dst": "0.0.0.0/0"}, null]}}`, nil, cni.CodeDecode, `ipam.routes[1].dst: ""`},
		{"null among the addresses", `{"ipam": {"addresses": [null]}}`, nil, cni.CodeConfig, `ipam.addresses[0].address: ""`},
		{"gateway", `{"ipam": {"addresses": [{"address": "10.1.0.5/24", "gateway": "x"}]}}`, nil, cni.CodeConfig, `ipam.addresses[0].gateway: "x"`},
		{"runtime's without length", `{"ipam": {}, "runtimeConfig": {"ips": ["10.1.0.5"]}}`, nil, cni.CodeConfig, `runtimeConfig.ips[0]: "10.1.0.5"`},
		{"args' without length", `{"ipam": {}, "args": {"cni": {"ips": ["fd00::1"]}}}`, nil, cni.CodeConfig, `args.cni.ips[0]: "fd00::1"`},
		{"IP without length", `{"ipam": {}}`, map[string]string{"IP": "10.1.0.5"}, cni.CodeConfig, `CNI_ARGS IP: "10.1.0.5"`},
		{"GATEWAY", `{"ipam": {}}`, map[string]string{"GATEWAY": "10.1.0.0/24"}, cni.CodeConfig, `CNI_ARGS GATEWAY`},
		{"two of one family in 0.2.0", `{"cniVersion": "0.2.0", "ipam": {"addresses": [{"address": "10.1.0.5/24"}, {"address": "10.1.0.6/24"}]}}`, nil, cni.CodeConfig, "10.1.0.6/24 is a second one"},
		{"wrong type", `{"ipam": {"addresses": "10.1.0.5/24"}}`, nil, cni.CodeDecode, "ipam.addresses: a string stands where a list belongs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := static.ParseConfig(request(test.config, test.args))
			if err == nil || cni.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want code %d and %q", err, test.code, test.want)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	const have = `{"ipam": {"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}]}}`
	for _, test := range []struct{ name, config, want string }{
		{"as given", have, ""},
		{"no gateway asked for", `{"ipam": {"addresses": [{"address": "10.1.0.5/24"}]}}`, ""},
		{"another gateway", `{"ipam": {"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.2"}]}}`, "want 10.1.0.2, have 10.1.0.1"},
		{"an address that is not there", `{"ipam": {"addresses": [{"address": "10.1.0.6/24"}]}}`, "address 10.1.0.6/24"},
	} {
		t.Run(test.name, func(t *testing.T) {
			given, err := static.ParseConfig(request(have, nil))
			if err != nil {
				t.Fatal(err)
			}
			config, err := static.ParseConfig(request(test.config, nil))
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(config.Diff(given.Result()), "\n"); (text == "") != (test.want == "") || !strings.Contains(text, test.want) {
				t.Errorf("got %q, want %q", text, test.want)
			}
		})
	}
}
