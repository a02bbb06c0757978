package ipam

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Lease is a leased address and its owner.
type Lease struct {
	Address netip.Addr
	// Owner has only its network if the address's file names nobody: somebody has reserved
	// the address by hand. IfName is empty in leases of host-local before 0.8.
	Owner cni.Owner
	// NetNS and Time are those of the ADD; zero if host-local wrote the lease.
	NetNS string
	Time  time.Time
	// Life is what is proved of the owner; Dead is short for Life == record.Dead.
	Life record.Life
	Dead bool
}

// The file of a lease is named after the address and contains
// "<containerID>\r\n<ifname>" (host-local's backend/disk). White space around that is
// ignored, and host-local before 0.8 wrote no interface name.
const (
	leaseBreak = "\r\n"
	leaseMax   = 1024 // longer than any names that a runtime may send
)

func leaseContent(o cni.Owner) []byte { return []byte(o.ContainerID + leaseBreak + o.IfName) }

// leaseKind says what a file named after an address is.
type leaseKind int

const (
	leaseHeld    leaseKind = iota // a lease
	leaseGarbage                  // empty or truncated: nobody's, since every writer holds the lock until it has written
	leaseOdd                      // something else: the address is taken, and we must not free it
)

// parseLease reads the file of a lease.
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

// parseLeaseName reads the name of a lease's file, which is an address exactly as netip and
// net print it.
func parseLeaseName(name string) (netip.Addr, bool) {
	if name == "" || !strings.ContainsRune("0123456789abcdef:", rune(name[0])) {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(name)
	return a, err == nil && a.Zone() == "" && !a.Is4In6() && a.String() == name
}
