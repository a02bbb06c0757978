package portmap

import (
	"fmt"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/test/host"
)

// TestDelOnAFullDisk: where /run is full, an ADD fails and leaves nothing, and DEL deletes all
// that the container has: it makes room.
func TestDelOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, backend := range host.NATBackends {
		for full, limit := range map[string]string{"no block": "size=256k", "no inode": "nr_inodes=64"} {
			t.Run(backend+"/"+full, func(t *testing.T) {
				t.Parallel()
				h := host.NewRouting(t)
				h.MustRun("sh", "-c", "mkdir /run/trestle && mount -t tmpfs -o "+limit+" tmpfs /run/trestle")
				n := h.Network(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "n", "plugins": [
					{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": %[1]q,
						"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.61.0.0/24"}]]}},
					{"type": "portmap", "backend": %[1]q, "capabilities": {"portMappings": true}}]}`, backend))
				attachment := func(id string, port int) *libcni.RuntimeConf {
					a := h.Container(id).Attachment()
					a.CapabilityArgs["portMappings"] = []map[string]any{{"hostPort": port, "containerPort": 80, "protocol": "tcp"}}
					return a
				}
				a := attachment("c1", 8080)
				if _, err := n.Add(a); err != nil {
					t.Fatal(err)
				}
				const fill = `i=0; while true >/run/trestle/fill$i && head -c 4096 /dev/zero >/run/trestle/fill$i; do i=$((i+1)); done 2>&-; true`
				h.MustRun("sh", "-c", fill)
				late := attachment("c2", 8081)
				if _, err := n.Add(late); err == nil {
					t.Error("ADD on the full disk: got none, want an error")
				}
				if err := n.Del(late); err != nil {
					t.Errorf("DEL of what could not be added: %v", err)
				}
				h.MustRun("sh", "-c", fill)
				if err := n.Del(a); err != nil {
					t.Errorf("DEL: %v", err)
				}
				left := h.MustRun("sh", "-c", host.ListRuleset+` | grep -F /eth0; iptables-save -t nat | grep -F /eth0
					find /run/trestle/translations /run/trestle/hostports ! -type d; true`)
				if left != "" {
					t.Errorf("got left\n%s", left)
				}
				h.AssertNoLease()
			})
		}
	}
}
