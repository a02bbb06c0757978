package portmap

import (
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// service leads the address of a service to c1's port 80, as kube-proxy does.
const service = `nft -f - <<.
table ip service {
	chain prerouting {
		type nat hook prerouting priority dstnat - 1
		ip daddr 10.96.0.1 tcp dport 80 dnat to 10.1.0.5:80
	}
}
.`

// TestPortmapLeavesServicesAlone: who comes to a container by a service's address, and not
// by its mapped port, is seen with an address of his own, even where all who come by the
// port are masqueraded.
func TestPortmapLeavesServicesAlone(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		for _, masqAll := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, masqAll %t", backend, masqAll), func(t *testing.T) {
				t.Parallel()
				n := newNATNet(t, true) // as kube-proxy needs it: neighbours' packets are translated, too
				n.MustRun("sh", "-ec", service)
				keys := fmt.Sprintf(`"backend": %q, "masqAll": %t`, backend, masqAll)
				n.Must(n.mapped("ADD", n.c1, keys, natMapping("tcp", "", 8080, 80)))
				for c, own := range map[*host.Container]string{n.neighbour: "10.1.0.6", n.other: "10.2.0.7"} {
					byPort := own
					if masqAll || c == n.neighbour {
						byPort = "10.1.0.1"
					}
					for to, want := range map[string]string{"10.96.0.1:80": own, "10.1.0.1:8080": byPort} {
						if reply, err := c.Request("tcp", to); err != nil || reply.Server != n.c1.ID || reply.Seen.Addr().String() != want {
							t.Errorf("%s to %s: got %v, %v, want an answer of %s, which sees %s", c.ID, to, reply, err, n.c1.ID, want)
						}
					}
				}
			})
		}
	}
}
