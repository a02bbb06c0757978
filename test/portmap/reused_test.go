package portmap

import (
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/test/host"
)

// TestAddressOfTheDead: a pool that is full gives the address of a container that ended
// without a DEL to another one. That one is not reached by the first one's host port, also
// while the runtime names the first one as valid.
func TestAddressOfTheDead(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			addressOfTheDead(t, backend)
		})
	}
}

func addressOfTheDead(t *testing.T, backend string) {
	host.NeedProofOfDeath(t)
	h := host.NewRouting(t)
	n := h.Network(`{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "br0", "isDefaultGateway": true,
		"ipMasq": true, "ipMasqBackend": "` + backend + `", "capabilities": {"portMappings": true},
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.5", "rangeEnd": "10.9.0.5"}]]}}]}`)
	dead, next := h.Container("dead"), h.Container("next")
	a := dead.Attachment()
	a.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
	if _, err := n.Add(a); err != nil {
		t.Fatal(err)
	}
	dead.Remove()
	var err error
	host.Await(t, "the pool gives the address of the dead", func() bool {
		_, err = n.Add(next.Attachment())
		return host.CodeOf(err) != 101
	})
	if err != nil {
		t.Fatal(err)
	}
	next.Serve("tcp", ":80")
	unreached := func(when string) {
		t.Helper()
		if reply, err := h.Outside.Briefly().Request("tcp", host.HostIPv4.Addr().String()+":8080"); err == nil {
			t.Errorf("%s: port 8080 of %s reaches %v, want nobody", when, dead.ID, reply)
		}
	}
	h.MustRun("sh", "-c", host.ListRuleset) // until the kernel has dropped what the ADD let expire
	unreached("after ADD")
	valid := []types.GCAttachment{{ContainerID: dead.ID, IfName: "eth0"}, {ContainerID: next.ID, IfName: "eth0"}}
	if err := n.GC(&libcni.GCArgs{ValidAttachments: valid}); err != nil {
		t.Errorf("GC: %v", err)
	}
	unreached("after GC")
}
