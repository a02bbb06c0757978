package hosts

import (
	"errors"
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
	h.Start(host.Command{Args: []string{"flock", "--exclusive", "/run/trestle/node/lock", "sh", "-c", "touch /run/held; until pgrep -f '[t]restle-node node run' >/dev/null; do sleep 0.05; done; exec sleep 1"}})
	h.MustRun("sh", "-c", "until [ -e /run/held ]; do sleep 0.05; done")
	l.Agent(h, lab.Settings{"name": "a"})
	l.Ready(h, 0)
}

// takeTunnel puts another device in the place of the tunnel, before the agent makes it again.
func takeTunnel(h *lab.Host) {
	h.MustRun("sh", "-c", `until printf 'link delete trestle-vx\nlink add trestle-vx type bridge\n' | ip -batch - 2>/dev/null; do sleep 0.01; done`)
}

// TestForeignDeviceUnwanted: a device with the name of ours, of somebody else, is in the way of
// nothing where that name is not wanted: neither of routes, nor of leaving.
func TestForeignDeviceUnwanted(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	h := alone(l)
	list := h.MustRun("cat", "/etc/trestle/cluster.json")
	h.Write("/etc/trestle/cluster.json", strings.Replace(list, `"nodes": [`,
		`"nodes": [{"name": "b", "underlay": ["203.0.113.99/24"], "subnets": {"pods": ["10.40.1.0/24"]}}, `, 1))
	h.MustRun("ip", "link", "add", "trestle-wg", "type", "bridge")
	l.Agent(h, lab.Settings{"name": "a"})
	l.Await(h, "no problems", func(s lab.Status) bool { return s.State == "ready" && len(s.Peers) == 1 && len(s.Problems) == 0 })
	if got := h.MustRun("ip", "route", "show", "proto", "116"); !strings.Contains(got, "10.40.1.0/24") {
		t.Errorf("got routes %s, want that to b", got)
	}
	takeTunnel(h)
	if out := h.Node("node", "leave"); out.Code != 0 {
		t.Errorf("leave: %v", out)
	}
	for show, want := range map[string]string{
		"ip route show proto 116; ls /etc/cni/net.d; nft list tables | grep trestle-node; true": "",
		"ip -br link show type bridge | grep -c trestle-":                                       "2\n",
	} {
		if got := h.MustRun("sh", "-c", show); got != want {
			t.Errorf("left, and %s: got %q, want %q", show, got, want)
		}
	}
}

// TestFencedWithFault: a host whose subnet is another's now takes the gateway off its bridge,
// though something else of the kernel's cannot be made.
func TestFencedWithFault(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	h := alone(l)
	l.Agent(h, lab.Settings{"name": "a"})
	l.Ready(h, 0)
	l.Attach(h, "at-a")
	takeTunnel(h)
	h.Write("/etc/trestle/cluster.json", strings.Replace(h.MustRun("cat", "/etc/trestle/cluster.json"), "10.40.0.0/24", "10.40.5.0/24", 1))
	l.Await(h, "fenced", func(s lab.Status) bool { return s.State == "fenced" })
	l.Eventually("the gateway is gone", func() error {
		if got := h.MustRun("ip", "-br", "address", "show", "dev", "tn-pods"); strings.Contains(got, "10.40.0.1/") {
			return errors.New(got)
		}
		return nil
	})
}
