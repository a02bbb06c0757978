package hosts

import (
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// alone is a host of a list that has no other.
func alone(l *lab.Lab) *lab.Host {
	h := l.Host("a")
	h.Write("/etc/trestle/cluster.json", `{"networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16"}}],
 "nodes": [{"name": "a", "underlay": ["`+h.IPv4.String()+`/24"], "subnets": {"pods": ["10.40.0.0/24"]}}]}`)
	return h
}

// TestAgentInPod: the process number of an agent with numbers of its own, as in a pod, is
// another process's on the host, where the agent is known to live all the same.
func TestAgentInPod(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	h := alone(l)
	h.Write("/etc/trestle/node.json", `{"name": "a"}`)
	program := h.Dirs().Trestle + "/trestle-node"
	stop := h.Start(host.Command{Args: []string{"unshare", "--fork", "--pid", "--kill-child", program, "node", "run"}})
	l.Ready(h, 0)
	if out := h.Node("node", "status"); out.Code != 0 || !strings.Contains(out.Stdout, "): ready") {
		t.Errorf("got %v, want ready", out)
	}
	stop()
	l.Await(h, "stopped", func(s lab.Status) bool { return s.State == "stopped" })
}

// TestStartAfterAnother: an agent that is started while another one ends, as after leave, waits
// for that.
func TestStartAfterAnother(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	h := alone(l)
	h.MustRun("mkdir", "-p", "/run/trestle/node")
	h.Start(host.Command{Args: []string{"flock", "--exclusive", "/run/trestle/node/lock", "sh", "-c", "touch /run/held; exec sleep 2"}})
	h.MustRun("sh", "-c", "until [ -e /run/held ]; do sleep 0.05; done")
	l.Agent(h, lab.Settings{"name": "a"})
	l.Ready(h, 0)
}
