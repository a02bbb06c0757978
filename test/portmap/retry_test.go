package portmap

import (
	"fmt"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestMasqueradeOfAnotherSubnet: a network was given another subnet, and containers of
// the former one are still there. An ADD that meets what nobody has, and so makes its
// changes in a second transaction, leaves them masqueraded.
func TestMasqueradeOfAnotherSubnet(t *testing.T) {
	t.Parallel()
	h := host.NewRouting(t)
	in := func(subnet string) *host.Network {
		return h.Network(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "br0", "isDefaultGateway": true,
			"ipMasq": true, "ipMasqBackend": "nftables", "capabilities": {"portMappings": true},
			"ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]]}}]}`, subnet))
	}
	add := func(n *host.Network, id string, ports ...map[string]any) *host.Container {
		t.Helper()
		c := h.Container(id)
		a := c.Attachment()
		if ports != nil {
			a.CapabilityArgs["portMappings"] = ports
		}
		if _, err := n.Add(a); err != nil {
			t.Fatalf("ADD of %s: %v", id, err)
		}
		return c
	}
	port := func(number int) map[string]any {
		return map[string]any{"hostPort": number, "containerPort": 80, "protocol": "tcp"}
	}
	former := add(in("10.61.0.0/24"), "former")
	now := in("10.62.0.0/24")
	add(now, "now", port(8081))
	h.Outside.Serve("tcp", ":80")
	seen := func(when string) {
		t.Helper()
		reply, err := former.Request("tcp", host.OutsideIPv4.Addr().String()+":80")
		if err != nil || reply.Seen.Addr() != host.HostIPv4.Addr() {
			t.Errorf("%s: got %v, %v, want it to be seen as the host; rules:\n%s", when, reply, err, h.MustRun("nft", "list", "chain", "inet", "trestle", "postrouting"))
		}
	}
	seen("with another subnet")
	h.MustRun("nft", "add", "element", "inet", "trestle", "host_ports4", `{ tcp . 8080 comment "n/gone/eth0" : 10.62.0.77 . 80 }`)
	add(now, "late", port(8080))
	seen("after a second transaction")
}
