package portmap

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

// TestPortmapServicesByTheKernelsIPVS: kube-proxy's own means, which make test-vm boots a
// kernel for. A port mapped to a container takes nothing of what is sent to a service.
func TestPortmapServicesByTheKernelsIPVS(t *testing.T) {
	t.Parallel()
	n := newNATNet(t, false)
	output, err := n.Run(host.Command{Args: []string{"ipvsadm", "-A", "-t", "10.96.0.1:8080", "-s", "rr"}})
	switch {
	case err == nil && output.Code == 0:
	case os.Getenv("TRESTLE_VM") != "":
		t.Fatalf("this kernel was booted for IPVS, but: %v, %s", err, output.Stderr)
	default:
		t.Skip("this kernel has no IPVS, or there is no ipvsadm; `make test-vm` boots one that has")
	}
	n.MustRun("sh", "-ec", `ipvsadm -a -t 10.96.0.1:8080 -r 10.2.0.7:6443 -m; sysctl -qw net.ipv4.vs.conntrack=1
		ip link add kube-ipvs0 type dummy; ip address add 10.96.0.1/32 dev kube-ipvs0
		iptables -t nat -N KUBE-SERVICES; iptables -t nat -I PREROUTING -j KUBE-SERVICES; iptables -t nat -I OUTPUT -j KUBE-SERVICES
		iptables -t nat -A KUBE-SERVICES -d 10.96.0.1 -p tcp --dport 8080 -j ACCEPT`)
	n.other.Serve("tcp", ":6443")
	assert := func(when string) {
		t.Helper()
		for from, what := range map[*host.Namespace]string{n.neighbour.Namespace: "a container", n.Namespace: "the host"} {
			if reply, err := from.Request("tcp", "10.96.0.1:8080"); err != nil || reply.Server != n.other.ID {
				t.Errorf("%s, %s asks the service: got %v, %v, want %s", when, what, reply, err, n.other.ID)
			}
		}
	}
	assert("before")
	n.Must(n.mapped("ADD", n.c1, "", natMapping("tcp", "", 8080, 80)))
	assert("beside the mapping")
	for _, from := range []*host.Namespace{n.neighbour.Namespace, n.Outside} {
		if reply, err := from.Request("tcp", "192.0.2.2:8080"); err != nil || reply.Server != "c1" {
			t.Errorf("the host's port, from %s: got %v, %v, want c1", from.Name, reply, err)
		}
	}
	n.portmapDel(t, "blue", "")
	assert("after DEL")
}
