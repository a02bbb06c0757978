package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// HostName is the name of the owner's host veth: "veth" and 11 hex digits (44
// bits) of the owner's hash, 15 bytes in all (IFNAMSIZ).
func HostName(o cni.Owner) string { return hostNamePrefix + o.Hash(hostNameDigits) }

const (
	hostNamePrefix = "veth"
	hostNameDigits = 11
)

// aliasPrefix marks a host veth as ours; the owner's label follows.
const aliasPrefix = "trestle:"

// aliasOf is the ifalias of the owner's host veth.
func aliasOf(o cni.Owner) string { return aliasPrefix + o.String() }

// Label is the owner's label in the alias of one of our host veths.
func Label(alias string) (string, bool) { return strings.CutPrefix(alias, aliasPrefix) }

// namesAttachment says whether an alias is one that we write.
func namesAttachment(alias string) bool {
	label, ok := Label(alias)
	if ok {
		_, ok = cni.ParseOwner(label)
	}
	return ok
}

// vlanInterface is the name of a VLAN's interface over a bridge.
func vlanInterface(bridge string, vlan int) string { return fmt.Sprintf("%s.%d", bridge, vlan) }

// macFromAddress is a locally administered address that is a function of the
// container's first one, so that whoever reuses the address has the same MAC and
// the neighbours' entries stay right. IPv4: 0a:58 and the four octets (as
// kubenet did); IPv6: 0e and 40 bits of its hash.
func macFromAddress(a netip.Addr) net.HardwareAddr {
	if a.Is4() {
		b := a.As4()
		return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
	}
	b := a.As16()
	sum := sha256.Sum256(b[:])
	return append(net.HardwareAddr{0x0e}, sum[:5]...)
}

// macFromOwner is one that differs from container to container, and is the same
// whenever the container comes again: 06 and 40 bits of the owner's hash.
func macFromOwner(o cni.Owner) net.HardwareAddr {
	mac, err := hex.DecodeString("06" + o.Hash(10))
	if err != nil {
		panic(err) // Hash is hex digits
	}
	return mac
}

// randomMAC is a locally administered unicast address for a link that no
// address belongs to. It is set, not left to the kernel, since udev changes
// those that the kernel chose (systemd.link, MACAddressPolicy=persistent), and a
// bridge without one takes over that of its lowest port.
func randomMAC() net.HardwareAddr {
	r := rand.Uint64()
	return net.HardwareAddr{byte(r)&^0x01 | 0x02, byte(r >> 8), byte(r >> 16), byte(r >> 24), byte(r >> 32), byte(r >> 40)}
}

// bridgeMark begins the MAC of every bridge that we made: "02", "tr". Unlike an
// alias it is there from the bridge's birth, so that no kill can come between.
// Whoever gives the bridge another MAC takes it over.
var bridgeMark = [3]byte{0x02, 't', 'r'}

func newBridgeMAC() net.HardwareAddr { return append(bridgeMark[:], randomMAC()[3:]...) }

// IsOurs says whether a bridge has a MAC as only those have that we made.
func IsOurs(mac net.HardwareAddr) bool {
	return len(mac) == 6 && [3]byte(mac[:3]) == bridgeMark
}

// isHostName says whether a link has a name as HostName makes them. Those of
// the reference plugins have 8 digits.
func isHostName(name string) bool {
	digits, ok := strings.CutPrefix(name, hostNamePrefix)
	return ok && len(digits) == hostNameDigits && strings.Trim(digits, "0123456789abcdef") == ""
}
