package hosts

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// check runs "cluster check" until it says all that is wanted, with the exit status.
func (n *network) check(h *lab.Host, code int, want ...string) host.Output {
	n.Helper()
	var out host.Output
	n.Eventually(fmt.Sprintf("check says %q", want), func() error {
		out = h.Node("cluster", "check")
		for _, w := range want {
			if !strings.Contains(out.Stdout, w) {
				return fmt.Errorf("got %v, want %q", out, w)
			}
		}
		if out.Code != code {
			return fmt.Errorf("got %v, want exit status %d", out, code)
		}
		return nil
	})
	return out
}

// TestCheck: what keeps hosts from each other is named by its likely cause, and so is what
// the store alone shows; who only asks the store needs no agent.
func TestCheck(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	n.Reach(n.containers[0], n.containers[1])
	n.check(a.Host, 0, "the store lists hosts: 2, of which are up: 2", "pairs by vxlan: 2", "b: fine, by tunnel")
	for _, test := range []struct{ on, harm, undo, want string }{
		{"b", "nft add table inet firewall; nft add chain inet firewall in '{ type filter hook input priority -10; }'; nft add rule inet firewall in udp dport 8473 drop", "nft delete table inet firewall", "answers: UDP port 8473 is blocked between the hosts"},
		{"switch", "ip link set p-b mtu 1400", "ip link set p-b mtu 1500", "a small packet is answered: a link on the way has a smaller MTU than the uplinks, from which 1450 follows"},
	} {
		on := map[string]*host.Host{"b": b.Host.Host, "switch": n.Switch}[test.on]
		on.MustRun("sh", "-c", test.harm)
		n.check(a.Host, 1, "b: no answer from ", test.want)
		on.MustRun("sh", "-c", test.undo)
		n.check(a.Host, 0, "b: fine, by tunnel")
	}

	// a cloud that knows the hosts' addresses alone
	n.init(t, strings.Replace(lab.Config, `"id": "lab"`, `"id": "lab", "backend": "host-gw"`, 1))
	n.check(a.Host, 0, "pairs by direct: 2", "b: fine, by direct")
	n.Switch.MustRun("sh", "-c", "nft add table bridge cloud; nft add chain bridge cloud forward '{ type filter hook forward priority 0; }'; nft add rule bridge cloud forward ip saddr 10.40.0.0/16 drop")
	n.check(a.Host, 1, "answers: packets with containers' addresses are dropped between the hosts, as clouds do")
	n.Switch.MustRun("nft", "delete", "table", "bridge", "cloud")

	b.Kill()
	n.check(a.Host, 1, "of which are up: 1", "problem: b: down, or cut off from the store", "b: fine, by direct")
	n.Cut(b.Host)
	n.check(a.Host, 1, "b: no answer from ", "does not answer either: the host is down")
	etcd := "--etcd=" + strings.Join(n.etcd.URLs(), ",")
	x := n.Host("x")
	n.Eventually("check from a host without an agent says what the store does", func() error {
		if out := x.Node("cluster", "check", etcd); out.Code != 1 || !strings.Contains(out.Stdout, "problem: b: down") || !strings.Contains(out.Stdout, "note: no packet was sent from this host") {
			return fmt.Errorf("got %v", out)
		}
		return nil
	})
	if out := x.Node("cluster", "check"); out.Code != 1 || !strings.Contains(out.Stderr, "trestle-node has not run") {
		t.Errorf("from a host that is in no network: got %v, want that said", out)
	}
	n.Eventually("check without probes", func() error { // a busy store may not answer in time
		if out := a.Node("cluster", "check", "--probe=false"); strings.Contains(out.Stdout, "fine") || !strings.Contains(out.Stdout, "pairs by direct: 2") {
			return fmt.Errorf("got %v", out)
		}
		return nil
	})
	n.etcd.Members[0].Kill()
	if out := a.Node("cluster", "check", "--probe=false"); out.Code != 1 || !strings.Contains(out.Stdout, "problem: the store was not asked: etcd at ") {
		t.Errorf("with no etcd: got %v", out)
	}
}
