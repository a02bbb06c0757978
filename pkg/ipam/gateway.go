package ipam

import (
	"net/netip"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// parseGateway reads the gateway of a subnet. It must be in the subnet, or be IPv6 link-local,
// as the addresses of routers are (RFC 4861). The unspecified address, 0.0.0.0 or ::, stands
// for none.
func parseGateway(key, text string, subnet netip.Prefix) (netip.Addr, error) {
	if text == "" {
		return defaultGateway(subnet), nil
	}
	a, err := cni.ParseAddr(text)
	if err != nil {
		return a, cni.ConfigError(key, err)
	}
	if a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	linkLocal := a.Is6() && a.IsLinkLocalUnicast() && subnet.Addr().Is6()
	if !subnet.Contains(a) && !linkLocal {
		return a, cni.ConfigErrorf("%s: %s is outside %s; name an address of the subnet, or 0.0.0.0 or :: for none", key, a, subnet)
	}
	return a, nil
}

// defaultGateway is the first host of a subnet: its second address, or the first of a subnet
// with two addresses (RFC 3021, RFC 6164). A subnet with one address has none. If another
// IPAM plugin names no gateway, pkg/bridge chooses one (withGateways).
func defaultGateway(subnet netip.Prefix) netip.Addr {
	switch subnet.Addr().BitLen() - subnet.Bits() {
	case 0:
		return netip.Addr{}
	case 1:
		return subnet.Addr()
	}
	return subnet.Addr().Next()
}
