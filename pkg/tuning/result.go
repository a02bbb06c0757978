package tuning

import (
	"net"
	"strconv"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// MAC is the Ethernet one that the interface is given, nil where it keeps its own.
func (s Settings) MAC() net.HardwareAddr {
	text, _ := s.value(macAddress)
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return nil // none is asked for, or one of another kind of link
	}
	return mac
}

// Amend tells a result the MAC and the MTU that the container's interface has
// been given, and the MTU of its host veth where there is one, and says whether
// that changed it.
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
		// an interface without an MTU is one of a plugin or a version that tells none
		if number, err := strconv.Atoi(value); ok && err == nil && i.Mtu != 0 && i.Mtu != number {
			i.Mtu, changed = number, true
		}
	}
	return changed
}
