package nat

import (
	"net/netip"
	"testing"
)

func mapping(protocol Protocol, host, container string) Mapping {
	return Mapping{protocol, netip.MustParseAddrPort(host), netip.MustParseAddrPort(container)}
}

func TestPortRules(t *testing.T) {
	plain := []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.5:80"), mapping(UDP, "0.0.0.0:5353", "10.1.0.5:53")}
	for name, p := range map[string]Ports{
		"any": {Mappings: plain, Subnets: prefixes("10.1.0.5/24"), Bridge: "lo", PortOptions: PortOptions{SNAT: true}},
		"exact": {Mappings: []Mapping{mapping(TCP, "127.0.0.1:8080", "10.1.0.5:80"), mapping(SCTP, "192.0.2.1:8080", "10.1.0.5:80"),
			mapping(TCP, "[2001:db8::1]:8080", "[fd00:1::5]:80")}, Subnets: prefixes("10.1.0.5/24", "fd00:1::5/64"), Bridge: "lo", PortOptions: PortOptions{SNAT: true}},
		"dual": {Mappings: []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.5:80"), mapping(TCP, "[::]:8080", "[fd00:1::5]:80")},
			Subnets: prefixes("10.1.0.5/24", "fd00:1::5/64"), Bridge: "lo", PortOptions: PortOptions{SNAT: true}},
		"no-snat":  {Mappings: plain, Subnets: prefixes("10.1.0.5/24")},
		"masq-all": {Mappings: plain, Subnets: prefixes("10.1.0.5/24"), Bridge: "lo", PortOptions: PortOptions{SNAT: true, MasqueradeAll: true}},
		"same-target": {Mappings: []Mapping{mapping(TCP, "0.0.0.0:8080", "10.1.0.5:80"), mapping(TCP, "0.0.0.0:8081", "10.1.0.5:80")},
			Subnets: prefixes("10.1.0.5/24"), Bridge: "lo", PortOptions: PortOptions{SNAT: true}},
	} {
		both(t, name, func(t *testing.T, backend Backend) {
			h := openHost(t, backend)
			c1 := owner("blue", "c1")
			must(t, h.AddPorts(c1, p))
			golden(t, "ports-"+name+"."+string(backend), state(t, backend))
			diffs, err := h.CheckPorts(c1, p)
			if err != nil || len(diffs) > 0 {
				t.Errorf("CheckPorts: got %q, %v, want no difference", diffs, err)
			}
			must(t, h.AddPorts(c1, p))
			golden(t, "ports-"+name+"."+string(backend), state(t, backend))
			must(t, h.Release(c1))
			nothingLeft(t, h)
		})
	}
}
