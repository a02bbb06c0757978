package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestNATErrors: where nobody in the container listens, the client is told so, whoever asks and by
// whichever address; and it is told if the container cannot be reached.
func TestNATErrors(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNATNet(t, false)
			n.portmapAdd(t, "blue", fmt.Sprintf(`"backend": %q`, backend), natMapping("udp", "", 8080, 81), natMapping("tcp", "", 8080, 81),
				natMapping("udp", "127.0.0.1", 8081, 81), natMapping("tcp", "127.0.0.1", 8081, 81))
			address, loopback := host.HostIPv4.Addr(), netip.MustParseAddr("127.0.0.1")
			asks := []struct {
				from *host.Namespace
				to   netip.AddrPort
			}{
				{n.Namespace, netip.AddrPortFrom(loopback, 8080)},
				{n.Namespace, netip.AddrPortFrom(loopback, 8081)},
				{n.Namespace, netip.AddrPortFrom(address, 8080)},
				{n.Outside, netip.AddrPortFrom(address, 8080)},
				{n.neighbour.Namespace, netip.AddrPortFrom(address, 8080)},
			}
			for _, ask := range asks {
				for _, protocol := range []string{"udp", "tcp"} {
					if _, err := ask.from.Request(protocol, ask.to.String()); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("%s %s from %s: got %v, want %v", protocol, ask.to, ask.from.Name, err, syscall.ECONNREFUSED)
					}
				}
			}
			n.c1.MustRun("ip", "link", "set", "eth0", "down")
			n.MustRun("ip", "neigh", "flush", "dev", "br1")
			for _, ask := range asks[:4] {
				if _, err := ask.from.Request("tcp", ask.to.String()); !errors.Is(err, syscall.EHOSTUNREACH) {
					t.Errorf("tcp %s from %s: got %v, want %v", ask.to, ask.from.Name, err, syscall.EHOSTUNREACH)
				}
			}
		})
	}
}
