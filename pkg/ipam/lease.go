package ipam

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Lease is one address and who has it.
type Lease struct {
	Address netip.Addr
	// Owner is zero, but for its network, where the address's file names none:
	// somebody reserved the address by hand. IfName is empty in leases of
	// host-local before 0.8.
	Owner cni.Owner
	// NetNS and Time are those of the ADD. They are zero where host-local wrote
	// the lease.
	NetNS string
	Time  time.Time
	// Life is what is proved of the namespace; Dead says that it is gone, or an earlier
	// boot's.
	Life record.Life
	Dead bool
}

// A lease's file is named by the address and holds
// "<containerID>\r\n<ifname>" (host-local's backend/disk). White space around
// that does not count, and before 0.8 there was no interface name.
const (
	leaseBreak = "\r\n"
	leaseMax   = 1024 // more than any name that a runtime may send
)

func leaseContent(o cni.Owner) []byte { return []byte(o.ContainerID + leaseBreak + o.IfName) }

// leaseKind is what a file named by an address turns out to be.
type leaseKind int

const (
	leaseHeld    leaseKind = iota // somebody's lease
	leaseGarbage                  // empty or truncated: nobody's (every writer holds the lock until it has written)
	leaseOdd                      // something else; the address is not free, and not ours to free
)

// parseLease reads a lease's file.
func parseLease(network string, data []byte) (cni.Owner, leaseKind) {
	nobody := cni.Owner{Network: network}
	text := bytes.TrimSpace(data)
	if len(text) == 0 || bytes.IndexByte(text, 0) >= 0 {
		return nobody, leaseGarbage
	}
	id, ifname, _ := strings.Cut(string(text), leaseBreak)
	unprintable := func(c rune) bool { return c <= ' ' || c == 0x7f || c == '/' || c == '\uFFFD' }
	if len(data) >= leaseMax || id == "" || strings.ContainsFunc(id+ifname, unprintable) {
		return nobody, leaseOdd
	}
	return cni.Owner{Network: network, ContainerID: id, IfName: ifname}, leaseHeld
}

// parseLeaseName reads the name of a lease's file: an address as netip and net
// print it, and nothing else.
func parseLeaseName(name string) (netip.Addr, bool) {
	if name == "" || !strings.ContainsRune("0123456789abcdef:", rune(name[0])) {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(name)
	return a, err == nil && a.Zone() == "" && !a.Is4In6() && a.String() == name
}
