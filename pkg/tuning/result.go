package tuning

import (
	"net"
	"strconv"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// MAC is the Ethernet MAC that the settings give to the interface; nil if there is none.
func (s Settings) MAC() net.HardwareAddr {
	text, _ := s.value(macAddress)
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return nil // none is asked for, or it is that of another kind of link
	}
	return mac
}

// Amend puts into a result the MAC and MTU of the container's interface, and the MTU of its
// host veth, as the settings have changed them. It returns whether that changed the result.
func (s Settings) Amend(result *cni.Result, ifName, hostVeth string) bool {
	changed := false
	for _, i := range result.Interfaces {
		inside := i.Name == ifName && i.Sandbox != ""
		if outside := i.Name == hostVeth && i.Sandbox == ""; !inside && !outside {
			continue
		}
		if mac, ok := s.value(macAddress); ok && inside && i.Mac != mac {
			i.Mac, changed = mac, true
		}
		value, ok := s.value(mtu)
		// an interface without an MTU is of a plugin or a version of the spec that has none
		if number, err := strconv.Atoi(value); ok && err == nil && i.Mtu != 0 && i.Mtu != number {
			i.Mtu, changed = number, true
		}
	}
	return changed
}
