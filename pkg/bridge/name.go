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

// HostName is the name of the owner's host veth: "veth" and 11 hex digits (44 bits) of the
// owner's hash, 15 bytes in all, the most that IFNAMSIZ allows.
func HostName(o cni.Owner) string { return hostNamePrefix + o.Hash(hostNameDigits) }

const (
	hostNamePrefix = "veth"
	hostNameDigits = 11
)

// aliasPrefix begins the ifalias of our host veths; the owner's label follows.
const aliasPrefix = "trestle:"

// aliasOf is the ifalias of the owner's host veth.
func aliasOf(o cni.Owner) string { return aliasPrefix + o.String() }

// Label is the owner's label in the ifalias of a link; ok is false if the link is no host
// veth of ours.
func Label(alias string) (label string, ok bool) { return strings.CutPrefix(alias, aliasPrefix) }

// namesAttachment says whether an ifalias has the form of aliasOf.
func namesAttachment(alias string) bool {
	label, ok := Label(alias)
	if ok {
		_, ok = cni.ParseOwner(label)
	}
	return ok
}

// vlanInterface is the name of the VLAN interface over a bridge.
func vlanInterface(bridge string, vlan int) string { return fmt.Sprintf("%s.%d", bridge, vlan) }

// macFromAddress derives a locally administered MAC from an IP address, so that the next
// container with the address has the same MAC, and neighbour entries stay right. IPv4: 0a:58
// and the four octets (as kubenet did); IPv6: 0e and 40 bits of the address's hash.
func macFromAddress(a netip.Addr) net.HardwareAddr {
	if a.Is4() {
		b := a.As4()
		return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
	}
	b := a.As16()
	sum := sha256.Sum256(b[:])
	return append(net.HardwareAddr{0x0e}, sum[:5]...)
}

// macFromOwner derives a locally administered MAC from the owner, so that it is the same
// whenever that is attached again: 06 and 40 bits of the owner's hash.
func macFromOwner(o cni.Owner) net.HardwareAddr {
	mac, err := hex.DecodeString("06" + o.Hash(10))
	if err != nil {
		panic(err) // impossible: Hash is hex digits
	}
	return mac
}

// randomMAC is a random locally administered unicast MAC, for links without an address to
// derive it from. The kernel would choose one, too, but udev changes those
// (systemd.link, MACAddressPolicy=persistent), and a bridge whose MAC was not set takes that
// of its lowest port.
func randomMAC() net.HardwareAddr {
	r := rand.Uint64()
	return net.HardwareAddr{byte(r)&^0x01 | 0x02, byte(r >> 8), byte(r >> 16), byte(r >> 24), byte(r >> 32), byte(r >> 40)}
}

// bridgeMark is what the MACs of our bridges begin with: 02, "tr". An alias could only be
// set after the bridge was created, and a kill could come between. Whoever gives the bridge
// another MAC takes it over.
var bridgeMark = [3]byte{0x02, 't', 'r'}

func newBridgeMAC() net.HardwareAddr { return append(bridgeMark[:], randomMAC()[3:]...) }

// IsOurs says whether a bridge with that MAC was created by us.
func IsOurs(mac net.HardwareAddr) bool {
	return len(mac) == 6 && [3]byte(mac[:3]) == bridgeMark
}

// isHostName says whether the name has the form of HostName. Those of the reference plugins
// have 8 digits.
func isHostName(name string) bool {
	digits, ok := strings.CutPrefix(name, hostNamePrefix)
	return ok && len(digits) == hostNameDigits && strings.Trim(digits, "0123456789abcdef") == ""
}
