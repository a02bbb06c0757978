// Package static gives a container the addresses, routes and DNS settings of its
// configuration. It stores nothing and changes nothing on the host.
//
// ADD is ParseConfig and Config.Result, CHECK is Config.Diff. Start at ParseConfig. To debug,
// look at the configuration and CNI_ARGS: the result depends on nothing else.
package static

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Config is the ipam object of a configuration, validated.
type Config struct {
	Addresses []Address
	Routes    []*types.Route
	DNS       types.DNS
}

// Address is an address of the container with the prefix length of its subnet.
type Address struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // zero if there is none
}

// wire is the configuration's JSON.
type wire struct {
	IPAM *struct {
		Addresses []wireAddress `json:"addresses"`
		Routes    cni.Routes    `json:"routes"`
		DNS       types.DNS     `json:"dns"`
	} `json:"ipam"`
	RuntimeConfig struct {
		IPs []string `json:"ips"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
}

// wireAddress is one entry of ipam.addresses. A configuration that was marshalled from the
// reference plugin's Go types has the address under both keys.
type wireAddress struct {
	Address string        `json:"address"`
	Marshal marshalledNet `json:"Address"`
	Gateway string        `json:"gateway"`
}

// marshalledNet is a prefix as text; empty for an empty net.IPNet.
type marshalledNet string

// UnmarshalJSON reads what Go makes of a net.IPNet, {"IP": "10.1.0.5", "Mask": "////AA=="}, or
// text, since "address" matches this key, too.
func (m *marshalledNet) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*m = marshalledNet(text)
		return nil
	}
	var n struct {
		IP   net.IP
		Mask net.IPMask
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return err
	}
	if n.IP != nil {
		*m = marshalledNet((&net.IPNet{IP: n.IP, Mask: n.Mask}).String())
	}
	return nil
}

// prefix is the entry's address; field is where the entry stands. If both keys have one, they
// must be the same.
func (a wireAddress) prefix(field string) (netip.Prefix, error) {
	if a.Marshal == "" {
		return parsePrefix(field+".address", a.Address)
	}
	twin, err := parsePrefix(field+".Address", string(a.Marshal))
	if err != nil || a.Address == "" {
		return twin, err
	}
	one, err := parsePrefix(field+".address", a.Address)
	if err == nil && one != twin {
		err = cni.ConfigErrorf("%s: address %s and Address %s differ; leave one of them out", field, a.Address, a.Marshal)
	}
	return one, err
}

// ParseConfig reads the keys of the static plugin. IP in CNI_ARGS adds addresses, and GATEWAY
// sets the gateways of the addresses in whose subnet they are. args.cni.ips replaces all of
// these, and runtimeConfig.ips replaces all others. Errors have code 6 or 7.
func ParseConfig(r *cni.Request) (Config, error) {
	var w wire
	if err := r.Decode(&w); err != nil {
		return Config{}, err
	}
	if w.IPAM == nil {
		return Config{}, cni.ConfigErrorf(`ipam: missing; give "ipam": {"type": "static", "addresses": […]}`)
	}
	addresses, err := w.addresses(r.Args)
	if err == nil {
		err = checkVersion(addresses, r.Version)
	}
	return Config{addresses, w.IPAM.Routes, w.IPAM.DNS}, err
}

func (w *wire) addresses(args map[string]string) ([]Address, error) {
	switch {
	case len(w.RuntimeConfig.IPs) > 0:
		return parseList("runtimeConfig.ips[]", w.RuntimeConfig.IPs)
	case len(w.Args.CNI.IPs) > 0:
		return parseList("args.cni.ips[]", w.Args.CNI.IPs)
	}
	var all []Address
	for i, a := range w.IPAM.Addresses {
		field := cni.Entry("ipam.addresses[]", i)
		prefix, err := a.prefix(field)
		if err != nil {
			return nil, err
		}
		address := Address{Prefix: prefix}
		if a.Gateway != "" {
			if address.Gateway, err = parseGateway(field+".gateway", a.Gateway); err != nil {
				return nil, err
			}
		}
		all = append(all, address)
	}
	asked, err := parseList("CNI_ARGS IP", split(args["IP"]))
	all = append(all, asked...)
	return all, errors.Join(err, setGateways(all, split(args["GATEWAY"])))
}

// split splits a list at its commas; an empty list has no entry.
func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func setGateways(addresses []Address, gateways []string) error {
	for _, text := range gateways {
		gateway, err := parseGateway("CNI_ARGS GATEWAY", text)
		if err != nil {
			return err
		}
		for i := range addresses {
			if gateway.IsValid() && addresses[i].Prefix.Contains(gateway) {
				addresses[i].Gateway = gateway
			}
		}
	}
	return nil
}

func parseList(field string, list []string) ([]Address, error) {
	var all []Address
	for i, text := range list {
		prefix, err := parsePrefix(cni.Entry(field, i), text)
		if err != nil {
			return nil, err
		}
		all = append(all, Address{Prefix: prefix})
	}
	return all, nil
}

// parsePrefix reads an address with its prefix length.
func parsePrefix(field, text string) (netip.Prefix, error) {
	p, err := cni.ParsePrefix(strings.TrimSpace(text))
	return p, cni.ConfigError(field, err)
}

// parseGateway reads the address of a gateway. The unspecified address (0.0.0.0, ::) stands
// for none, and gives the zero Addr.
func parseGateway(field, text string) (netip.Addr, error) {
	gateway, err := cni.ParseAddr(strings.TrimSpace(text))
	if gateway.IsUnspecified() {
		gateway = netip.Addr{}
	}
	return gateway, cni.ConfigError(field, err)
}

// checkVersion refuses two addresses of one family for results before spec 0.3.0, which have
// room for one.
func checkVersion(addresses []Address, version string) error {
	if version != "0.1.0" && version != "0.2.0" {
		return nil
	}
	seen := map[bool]bool{}
	for _, a := range addresses {
		is4 := a.Prefix.Addr().Is4()
		if seen[is4] {
			return cni.ConfigErrorf("cniVersion: %q has room for one address of each family, and %s is a second one; use 0.3.0 or later", version, a.Prefix)
		}
		seen[is4] = true
	}
	return nil
}

// Result is the answer to an ADD.
func (c Config) Result() *cni.Result {
	result := &cni.Result{CNIVersion: types100.ImplementedSpecVersion, Routes: c.Routes, DNS: c.DNS}
	for _, a := range c.Addresses {
		result.IPs = append(result.IPs, cni.IPConfig(a.Prefix, a.Gateway))
	}
	return result
}

// Diff lists, for people, what the configuration has and the result of an ADD lacks.
func (c Config) Diff(result *cni.Result) []string {
	var diffs []string
	for _, a := range c.Addresses {
		have := find(result, a.Prefix.Addr())
		switch {
		case have == nil:
			diffs = append(diffs, fmt.Sprintf("address %s: want it in prevResult, have none", a.Prefix))
		case a.Gateway.IsValid() && !have.Gateway.Equal(a.Gateway.AsSlice()):
			diffs = append(diffs, fmt.Sprintf("gateway of address %s: want %s, have %s in prevResult", a.Prefix, a.Gateway, have.Gateway))
		}
	}
	return diffs
}

func find(result *cni.Result, address netip.Addr) *types100.IPConfig {
	for _, ip := range result.IPs {
		if ip.Address.IP.Equal(address.AsSlice()) {
			return ip
		}
	}
	return nil
}
