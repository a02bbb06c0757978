package hosts

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// available are the verbs that a command's help lists.
var available = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +[A-Z]`)

// TestJSON: each verb answers as JSON, its errors, too.
func TestJSON(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	etcd := "--etcd=" + strings.Join(n.etcd.URLs(), ",")
	if err := n.etcd.Ctl("put", "/coreos.com/network/config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`); err != nil {
		t.Fatal(err)
	}
	a.Write("/run/config", lab.Config)
	called := map[string]bool{}
	call := func(h *lab.Agent, args string, want ...string) {
		t.Helper()
		fields := strings.Fields(args)
		called[fields[0]+" "+fields[1]] = true
		out := h.Node(append(fields, "--json")...)
		var value any
		err := json.Unmarshal([]byte(out.Stdout), &value)
		object, _ := value.(map[string]any)
		_, failed := object["error"]
		if err != nil || out.Stderr != "" || failed != (out.Code != 0) {
			t.Errorf("%s: got %v, %v, want JSON, with an error if it failed", args, out, err)
		}
		for _, w := range want {
			if !strings.Contains(out.Stdout, w) {
				t.Errorf("%s: got %s, want %q", args, out.Stdout, w)
			}
		}
	}
	call(a, "node status", `"state": "ready"`)
	call(a, "node run", `"error": "trestle-node runs already`)
	call(a, "node accept", `"message": "there was nothing to accept"`)
	call(a, "node leave", `"error": "1 container has addresses`)
	call(b, "node drain", `"message": "drained`, `"container": "c-b"`)
	call(b, "node undrain", `"message"`)
	call(a, "node reset-id", `"error": "trestle-node runs already`)
	call(a, "node join "+etcd+" --name b", `"error": "host name b is taken by node`)
	call(a, "node join "+etcd+" --name a", `"settings": "/etc/trestle/node.json"`)
	call(a, "cluster init "+etcd+" --pool 10.9.0.0/16", `"error": "the store has a configuration`)
	call(a, "cluster init "+etcd+" --cluster third --pool 10.9.0.0/16", `"id"`)
	call(a, "cluster init --kubeconfig /run/none --pool 10.9.0.0/16", `"file": "/etc/trestle/cluster.json"`)
	call(a, "node undrian", `"error": "unknown command \"undrian\" for \"trestle-node node\"; is it undrain?"`)
	call(a, "cluster config put", `"error": "unknown command \"put\" for \"trestle-node cluster config\"; is it get or set?"`)
	call(a, "node status --peers", `"error": "unknown flag: --peers; see trestle-node node status --help"`)
	call(a, "cluster config get", `"subnetLen": 24`)
	call(a, "cluster config set /run/config", `"message"`)
	call(a, "cluster nodes", `"name": "b"`)
	call(a, "cluster subnets", `"subnet": "10.40.`)
	free := n.free(0).String()
	call(a, "cluster reserve pods "+free, `"message"`)
	call(a, "cluster reserve pods "+free, `"error": "pods `+free+` is reserved: reserved`)
	call(a, "cluster release pods "+free, `"message"`)
	call(a, "cluster release --node-is-dead nobody", `"error": "node nobody: unknown; trestle cluster nodes lists them"`)
	call(a, "cluster check", `"way": "tunnel"`, `"obstacles": []`)
	call(a, "cluster restore", `"message": "restored (hosts: 2)`)
	call(a, "cluster accept", `"message"`)
	call(a, "cluster import-flannel "+etcd+" --cluster fourth", `"pool": "10.5.0.0/16"`)
	for _, group := range []string{"node", "cluster"} {
		for _, verb := range available.FindAllStringSubmatch(a.Node(group, "--help").Stdout, -1) {
			if name := group + " " + verb[1]; !called[name] {
				t.Errorf("%s was not called", name)
			}
		}
	}
}
