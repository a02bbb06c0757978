//go:build kubernetes

package kubernetes

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

const storeConfig = `{"networks": [{"name": "pods", "ipv4": {"pool": "10.244.0.0/16"}, "ipv6": {"pool": "fd00:10:244::/48"}}]}`

// agentRights let a user have what the DaemonSet's service account has.
const agentRights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: agent }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: trestle-node }
subjects: [{ kind: User, name: agent, apiGroup: rbac.authorization.k8s.io }]
`

// TestStore: agents on hosts without kubelets, on a real control plane: what it gives, who
// may ask, what is said when it may not be asked, and its etcd wiped.
func TestStore(t *testing.T) {
	c := New(t)
	for _, user := range []string{"agent", "nobody"} {
		if err := c.pki.client(user, user); err != nil {
			t.Fatal(err)
		}
	}
	settings := func(h *lab.Host, user string) lab.Settings {
		h.Write("/etc/trestle/cluster.json", storeConfig)
		return lab.Settings{
			"name": h.Name, "kubernetes": map[string]any{"kubeconfig": filepath.Join(c.pki.dir, user+".conf")},
			"heartbeat": "2s", "audit": "2s", "timeout": "8s",
		}
	}
	a, b := c.Host("a"), c.Host("b")
	said := func(h *lab.Host, want string) {
		t.Helper()
		c.Await(h, want, func(s lab.Status) bool { return strings.Contains(s.Store.Error, want) })
	}
	agent := c.Agent(a, settings(a, "nobody"))
	said(a, `User "nobody" cannot list resource "nodes"`)
	agent.Kill()

	c.Apply(manifest(t, "/trestle/trestle-node"))
	c.Apply(agentRights)
	agent = c.Agent(a, settings(a, "agent"))
	said(a, "there is no Node named a")
	c.Apply(`{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}`)
	c.Ready(a, 0)
	c.Apply(`{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}}`)
	c.Agent(b, settings(b, "agent"))
	c.Ready(b, 1)
	s := c.Ready(a, 1)
	if got, want := s.Subnet(true).String(), c.Field("node/a", ".spec.podCIDRs[0]"); got != want {
		t.Errorf("got subnet %s, want %s", got, want)
	}
	atA, atB := c.Attach(a, "at-a"), c.Attach(b, "at-b")
	c.Reach(atA, atB)
	if out := a.Node("cluster", "nodes"); out.Code != 0 || !strings.Contains(out.Stdout, "b ") {
		t.Errorf("cluster nodes: got %v", out)
	}

	c.Kubectl("annotate", "node", "b", "trestle.io/node-")
	c.Until("the annotation is written again", func() error {
		if note := c.Field("node/b", `.metadata.annotations.trestle\.io/node`); !strings.Contains(note, b.IPv4.String()) {
			return fmt.Errorf("got %q", note)
		}
		return nil
	})
	c.Reach(atA, atB)
	c.Kubectl("delete", "node", "b")
	c.Ready(a, 0)
	said(b, "there is no Node named b")
	agent.Kill()
	t.Log(c.Kubectl("version"))
}
