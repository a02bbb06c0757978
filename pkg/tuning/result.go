package tuning

import (
	"strconv"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// Amend tells a result the MAC and the MTU that the container's interface has
// been given, and says whether that changed it.
func (s Settings) Amend(result *cni.Result, ifName string) bool {
	changed := false
	for _, i := range result.Interfaces {
		if i.Name != ifName || i.Sandbox == "" {
			continue
		}
		if mac, ok := s.value(macAddress); ok && i.Mac != mac {
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
