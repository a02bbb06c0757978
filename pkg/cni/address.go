package cni

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Addresses of configurations are read here, so that all plugins take the same spellings for
// the same address. An IPv4-mapped one (RFC 4291, 2.5.5.2) is that IPv4 address: leases, routes
// and rules have one name for it. The errors have no code, as those of link.go.

// ParseAddr reads an address. A zone is refused: it names a link of one host.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf(`%q is not an address; write it as in "10.1.0.5" or "fd00::5"`, s)
	}
	return a.Unmap(), nil
}

// ParsePrefix reads an address with the length of its prefix, and keeps the host bits.
func ParsePrefix(s string) (netip.Prefix, error) {
	const mapped = 128 - 32 // the bits of an IPv4-mapped address that come before the IPv4 address
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	if err != nil || !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf(`%q is not an address with the length of its prefix; write it as in "10.1.0.5/24" or "fd00::5/64"`, s)
	}
	return p, nil
}

// Entry is where one entry of a list stands: of "runtimeConfig.ips[]", the path as in Key, it is
// "runtimeConfig.ips[2]". A path without brackets, like "CNI_ARGS IP", stays as it is.
func Entry(path string, index int) string {
	return strings.Replace(path, "[]", "["+strconv.Itoa(index)+"]", 1)
}
