package cni

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"unicode"
)

// What a configuration says of a link is checked here, when it is read; all other code
// relies on that. The errors have no code and name the value and the way out: ConfigError
// adds the field and code 7.

// CheckIfName is an error unless the kernel accepts the name for an interface
// (dev_valid_name, net/core/dev.c). It replaces a '%d' by a number, so '%' is refused, too; and
// "all" and "default" are directories of settings beside those of interfaces
// (sysctl_dev_name_is_allowed, net/ipv4/devinet.c).
func CheckIfName(s string) error {
	if s == "all" || s == "default" {
		return fmt.Errorf("%q is not the name of one interface for the kernel (net.ipv4.conf.%s); choose another", s, s)
	}
	return checkIfNameText(s)
}

// checkIfNameText is CheckIfName but for the names that the kernel keeps to itself.
func checkIfNameText(s string) error {
	forbidden := func(c rune) bool { return strings.ContainsRune("/:%", c) || unicode.IsSpace(c) || unicode.IsControl(c) }
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsFunc(s, forbidden) {
		return fmt.Errorf("%q is not an interface name; use 1 to 15 bytes without '/', ':', '%%' or white space, and not '.' or '..'", s)
	}
	return nil
}

// ParseMAC reads the MAC address of an Ethernet interface: six octets, not all of them
// zero, and not a multicast address.
func ParseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 == 1 || slices.Max(mac) == 0 {
		return nil, fmt.Errorf("%q is not the MAC address of an interface; use six octets, the first of them even, as in 0a:58:0a:16:00:02", s)
	}
	return mac, nil
}

// The smallest MTU for IPv4 (RFC 791) and for IPv6 (RFC 8200 section 5), and the largest
// of a link (ETH_MAX_MTU).
const (
	MinMTU     = 68
	MinMTUIPv6 = 1280
	MaxMTU     = 65535
)

// CheckMTU is an error unless a link may have the MTU; 0 leaves the choice to the plugin.
func CheckMTU(mtu int) error {
	if mtu != 0 && (mtu < MinMTU || mtu > MaxMTU) {
		return fmt.Errorf("%d is out of bounds; use %d to %d, or 0 for that of the default route's link", mtu, MinMTU, MaxMTU)
	}
	return nil
}
