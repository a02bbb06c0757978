package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"
)

// Result is the answer to ADD in the newest version of the spec.
type Result = types100.Result

// PrevResult is the result of the plugins before us in the chain (ADD), or of the whole ADD
// (DEL, CHECK); nil if there is none. The error has code 6.
func (r *Request) PrevResult() (*Result, error) {
	raw, err := r.rawPrevResult()
	if err != nil || raw == nil {
		return nil, err
	}
	return ParseResult("prevResult", raw, r.Version)
}

// RequirePrevResult is PrevResult, but a missing one is an error of code 7.
func (r *Request) RequirePrevResult() (*Result, error) {
	prev, err := r.PrevResult()
	if err == nil && prev == nil {
		err = r.missingPrevResult()
	}
	return prev, err
}

func (r *Request) missingPrevResult() error {
	if r.Command == Check {
		return ConfigErrorf("prevResult: missing; CHECK needs the result of the ADD")
	}
	return ConfigErrorf("prevResult: missing; this plugin comes after another one in the list of plugins")
}

// ParseResult reads a result in the version that it names, or else in the given one. Errors,
// of code 6, call it name. No interface, address or route of the result is nil.
func ParseResult(name string, raw []byte, version string) (*Result, error) {
	raw, version, err := withVersion(raw, version)
	if err != nil {
		return nil, DecodeErrorf("%s: %w", name, err)
	}
	if err := refuseNulls(name, raw); err != nil {
		return nil, err
	}
	if result, ok := parseNewest(raw, version); ok {
		return result, nil
	}
	result, err := create.Create(version, raw)
	if err != nil {
		return nil, DecodeErrorf("%w", wrongIn(name, raw, err))
	}
	newest, err := types100.GetResult(result)
	if err != nil {
		return nil, DecodeErrorf("%s: %w", name, err)
	}
	return newest, nil
}

// wrongIn says where the result, which the library does not take with err, is wrong.
func wrongIn(name string, raw []byte, err error) error {
	type family struct { // in results before 0.3.0
		IP      types.IPNet
		Gateway net.IP
		Routes  Routes
	}
	var parts struct {
		Interfaces []types100.Interface
		IPs        []struct {
			Interface *int
			Address   types.IPNet
			Gateway   net.IP
		}
		IP4, IP6 *family
		Routes   Routes
		DNS      types.DNS
	}
	if located := Unmarshal(raw, &parts); located != nil {
		return below(name, located)
	}
	return fmt.Errorf("%s: %w", name, Plain(err))
}

// withVersion returns the result and its version; if it has none, the given one is added to
// it. Other keys stay as they are.
func withVersion(raw []byte, otherwise string) (result []byte, its string, err error) {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := Unmarshal(raw, &head); err != nil {
		return nil, "", err
	}
	if head.CNIVersion != "" {
		if !slices.Contains(version.All.SupportedVersions(), head.CNIVersion) {
			return nil, "", fmt.Errorf("cniVersion: %q is not supported; use one of %s", head.CNIVersion, supportedVersions())
		}
		return raw, head.CNIVersion, nil
	}
	var keys map[string]json.RawMessage
	if err := Unmarshal(raw, &keys); err != nil {
		return nil, "", err
	}
	if keys == nil {
		return nil, "", fmt.Errorf("it is %s, not an object", raw)
	}
	if keys["cniVersion"], err = json.Marshal(otherwise); err == nil {
		raw, err = json.Marshal(keys)
	}
	return raw, otherwise, err
}

// refuseNulls is an error if a list of the result has a null: it would become a nil pointer,
// which the library's conversions dereference.
func refuseNulls(name string, raw []byte) error {
	if !bytes.Contains(raw, []byte("null")) {
		return nil
	}
	var lists struct {
		Interfaces []json.RawMessage `json:"interfaces"`
		IPs        []json.RawMessage `json:"ips"`
		Routes     []json.RawMessage `json:"routes"`
	}
	if err := Unmarshal(raw, &lists); err != nil {
		return DecodeErrorf("%s: %w", name, err)
	}
	for key, list := range map[string][]json.RawMessage{"interfaces": lists.Interfaces, "ips": lists.IPs, "routes": lists.Routes} {
		for i, entry := range list {
			if string(entry) == "null" {
				return DecodeErrorf("%s.%s[%d]: null; leave the entry out", name, key, i)
			}
		}
	}
	return nil
}

// IPConfig is an address in the form of a result; the gateway may be zero.
func IPConfig(address netip.Prefix, gateway netip.Addr) *types100.IPConfig {
	mask := net.CIDRMask(address.Bits(), address.Addr().BitLen())
	return &types100.IPConfig{Address: net.IPNet{IP: address.Addr().AsSlice(), Mask: mask}, Gateway: gateway.AsSlice()}
}

// AddressesOf are the addresses that a result gives to the container's interface ifName, or
// to no interface. If ifName is empty, they are those of all interfaces; if result is nil,
// there are none.
func AddressesOf(result *Result, ifName string) []netip.Prefix {
	if result == nil {
		return nil
	}
	var addresses []netip.Prefix
	for _, ip := range result.IPs {
		if i := ip.Interface; ifName != "" && i != nil && *i >= 0 && *i < len(result.Interfaces) {
			if of := result.Interfaces[*i]; of.Name != ifName || of.Sandbox == "" {
				continue
			}
		}
		bits, size := ip.Address.Mask.Size()
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addr = addr.Unmap()
			addresses = append(addresses, netip.PrefixFrom(addr, bits-size+addr.BitLen()))
		}
	}
	return addresses
}

// HostLinks are the names of those interfaces of a result that are on the host, in its
// order; none if result is nil.
func HostLinks(result *Result) []string {
	if result == nil {
		return nil
	}
	var names []string
	for _, i := range result.Interfaces {
		if i.Sandbox == "" {
			names = append(names, i.Name)
		}
	}
	return names
}

func (r *Request) rawPrevResult() (json.RawMessage, error) {
	var config struct {
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := r.Decode(&config); err != nil {
		return nil, err
	}
	if string(config.PrevResult) == "null" {
		return nil, nil
	}
	return config.PrevResult, nil
}

// PassThrough is the answer of a chained plugin that changes nothing: prevResult verbatim,
// with fields that we do not know, if it is in the version of the configuration. Without a
// prevResult, the error has code 7.
func (r *Request) PassThrough() (types.Result, error) {
	raw, err := r.rawPrevResult()
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, r.missingPrevResult()
	}
	versioned, version, err := withVersion(raw, r.Version)
	if err != nil {
		return nil, DecodeErrorf("prevResult: %w", err)
	}
	if version != r.Version {
		return r.PrevResult() // writeResult converts it
	}
	return rawResult(versioned), nil
}

// rawResult is a result that is already in the caller's version.
type rawResult json.RawMessage

func (raw rawResult) Version() string { return "" }

func (raw rawResult) GetAsVersion(version string) (types.Result, error) {
	return create.Create(version, raw)
}

func (raw rawResult) Print() error { return fmt.Errorf("print: use PrintTo") }

func (raw rawResult) PrintTo(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s\n", raw)
	return err
}

// writeResult writes the result in the caller's version.
func writeResult(w io.Writer, version string, result types.Result) error {
	if raw, ok := result.(rawResult); ok {
		return raw.PrintTo(w)
	}
	newest, err := types100.GetResult(result)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	switch version {
	case "1.1.0":
		return writeNewest(w, version, newest)
	case "1.0.0":
		return writeNewest(w, version, without110(newest))
	}
	converted, err := newest.GetAsVersion(version)
	if err != nil {
		return fmt.Errorf("result as version %s: %w", version, err)
	}
	return converted.PrintTo(w)
}

// wireResult is the JSON of a Result. The library's types encode themselves part by part; see
// UnmarshalOnce for what that costs.
type wireResult struct {
	CNIVersion string                `json:"cniVersion"`
	Interfaces []*types100.Interface `json:"interfaces,omitempty"`
	IPs        []wireIP              `json:"ips,omitempty"`
	Routes     []wireRoute           `json:"routes,omitempty"`
	DNS        *types.DNS            `json:"dns,omitempty"`
}

type wireIP struct {
	Interface *int   `json:"interface,omitempty"`
	Address   string `json:"address"`
	Gateway   net.IP `json:"gateway,omitempty"`
}

// wireRoute is the JSON of a types.Route.
type wireRoute struct {
	Dst      string `json:"dst"`
	GW       net.IP `json:"gw,omitempty"`
	MTU      int    `json:"mtu,omitempty"`
	AdvMSS   int    `json:"advmss,omitempty"`
	Priority int    `json:"priority,omitempty"`
	Table    *int   `json:"table,omitempty"`
	Scope    *int   `json:"scope,omitempty"`
}

// route is the route; the error names the key.
func (w wireRoute) route() (*types.Route, error) {
	dst, err := types.ParseCIDR(w.Dst)
	if err != nil {
		return nil, &valueError{"dst", fmt.Errorf("%q is not a prefix like 10.0.0.0/8; for a default route write 0.0.0.0/0 or ::/0", w.Dst)}
	}
	route := &types.Route{
		Dst: *dst, GW: w.GW, MTU: w.MTU, AdvMSS: w.AdvMSS, Priority: w.Priority, Table: w.Table, Scope: w.Scope,
	}
	return route, CheckRoute(route)
}

// CheckRoute is an error if a number of the route does not fit into the kernel's, which would
// take its lowest bits and make another route. It names the key, and has no code.
func CheckRoute(r *types.Route) error {
	for _, n := range []struct {
		key   string
		value int
		bits  int // of the kernel's number (struct rtmsg, and attributes; rtnetlink(7))
	}{
		{"mtu", r.MTU, 32}, {"advmss", r.AdvMSS, 32}, {"priority", r.Priority, 32}, {"table", valueOf(r.Table), 32}, {"scope", valueOf(r.Scope), 8},
	} {
		if n.value < 0 || uint64(n.value)>>n.bits != 0 {
			return &valueError{n.key, fmt.Errorf("%d is out of bounds; use 0 to %d", n.value, uint64(1)<<n.bits-1)}
		}
	}
	return nil
}

func valueOf(p *int) int {
	if p == nil {
		return 0
	}
	return *p
}

// Routes are the routes of a configuration. The errors name the index and the key.
type Routes []*types.Route

// UnmarshalJSON reads a list of routes.
func (r *Routes) UnmarshalJSON(data []byte) error {
	var list []wireRoute
	if err := Unmarshal(data, &list); err != nil {
		return err
	}
	*r = nil
	for i, wire := range list {
		route, err := wire.route()
		if err != nil {
			return below(fmt.Sprintf("[%d]", i), err)
		}
		*r = append(*r, route)
	}
	return nil
}

// writeNewest writes the same as the library's type does, which encodes the result, decodes
// it and encodes it again to leave out an empty dns.
func writeNewest(w io.Writer, version string, r *Result) error {
	answer := wireResult{CNIVersion: version, Interfaces: r.Interfaces}
	for _, ip := range r.IPs {
		answer.IPs = append(answer.IPs, wireIP{ip.Interface, ip.Address.String(), ip.Gateway})
	}
	for _, route := range r.Routes {
		answer.Routes = append(answer.Routes, wireRoute{
			route.Dst.String(), route.GW, route.MTU, route.AdvMSS, route.Priority, route.Table, route.Scope,
		})
	}
	if !r.DNS.IsEmpty() {
		answer.DNS = &r.DNS
	}
	return writeIndented(w, answer)
}

// parseNewest reads a result in one of the versions that have today's keys; ok is false for
// another version, and for whatever is not plain, like a key that is there twice or a mistake,
// which the library has a message for.
func parseNewest(raw []byte, version string) (_ *Result, ok bool) {
	var read wireResult
	if version != "1.0.0" && version != "1.1.0" || !unmarshalPlain(raw, &read) {
		return nil, false
	}
	result := &Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: read.Interfaces}
	for _, ip := range read.IPs {
		address, err := types.ParseCIDR(ip.Address)
		if err != nil {
			return nil, false
		}
		result.IPs = append(result.IPs, &types100.IPConfig{Interface: ip.Interface, Address: *address, Gateway: ip.Gateway})
	}
	for _, route := range read.Routes {
		r, err := route.route()
		if err != nil {
			return nil, false
		}
		result.Routes = append(result.Routes, r)
	}
	if read.DNS != nil {
		result.DNS = *read.DNS
	}
	return result, true
}

// without110 leaves out the fields of interfaces that are new in 1.1.0. It keeps those of
// routes, although 1.1.0 has introduced them, too: IPAM plugins have used them for metrics,
// tables and MTUs in every version, the reference plugins pass them on, and without them
// it would be a different route.
func without110(result *Result) *Result {
	older := *result
	older.Interfaces = nil
	for _, i := range result.Interfaces {
		older.Interfaces = append(older.Interfaces, &types100.Interface{Name: i.Name, Mac: i.Mac, Sandbox: i.Sandbox})
	}
	return &older
}
