package hosts

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// check runs "cluster check" until it says all that is wanted, with the exit status. What
// stands before and behind a " … " is wanted in one line.
func (n *network) check(h *lab.Host, code int, want ...string) host.Output {
	n.Helper()
	return n.checkWith(h, code, nil, want...)
}

// survey is check of what the store says alone.
func (n *network) survey(h *lab.Host, code int, want ...string) {
	n.Helper()
	if out := n.checkWith(h, code, []string{"--probe=false"}, want...); strings.Contains(out.Stdout, "fine") {
		n.Errorf("got %v, want no packet sent", out)
	}
}

func (n *network) checkWith(h *lab.Host, code int, flags []string, want ...string) (out host.Output) {
	n.Helper()
	n.Eventually(fmt.Sprintf("check says %q", want), func() error {
		out = h.Node(append([]string{"cluster", "check"}, flags...)...)
		for _, w := range want {
			if !saysInALine(out.Stdout, strings.Split(w, " … ")) {
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

func saysInALine(text string, parts []string) bool {
	return slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
	})
}

// TestCheck: what keeps hosts from each other is named by its likely cause, and so is what
// the store alone shows; who only asks the store needs no agent. A packet that nobody answers
// takes seconds: each host has a harm of its own, and they are looked for at once.
func TestCheck(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b", "c", "d")
	a, b, c, d := n.hosts[0], n.hosts[1], n.hosts[2], n.hosts[3]
	fine := func(way string) []string {
		return []string{"b: fine, by " + way, "c: fine, by " + way, "d: fine, by " + way}
	}
	n.check(a.Host, 0, append(fine("tunnel"), "the store lists hosts: 4, of which are up: 4", "pairs by vxlan: 12")...)

	b.MustRun("sh", "-c", "nft add table inet firewall; nft add chain inet firewall in '{ type filter hook input priority -10; }'; nft add rule inet firewall in udp dport 8473 drop")
	n.Switch.MustRun("ip", "link", "set", c.Port, "mtu", "1400")
	n.Cut(d.Host)
	n.check(
		a.Host, 1,
		"b: no answer from  … answers: UDP port 8473 is blocked between the hosts",
		"c: no answer from  … a small packet is answered: a link on the way has a smaller MTU than the uplinks, from which 1450 follows",
		"d: no answer from  … does not answer either: the host is down",
	)
	n.survey(a.Host, 1, "of which are up: 3", "pairs by vxlan: 12", "problem: d: down, or cut off from the store")
	x := n.Host("x")
	n.checkWith(x, 1, []string{"--etcd=" + strings.Join(n.etcd.URLs(), ",")}, "problem: d: down", "note: no packet was sent from this host")
	if out := x.Node("cluster", "check"); out.Code != 1 || !strings.Contains(out.Stderr, "trestle-node has not run") {
		t.Errorf("from a host that is in no network: got %v, want that said", out)
	}
	b.MustRun("nft", "delete", "table", "inet", "firewall")
	n.Switch.MustRun("ip", "link", "set", c.Port, "mtu", "1500")
	d.Kill()
	n.Mend(d.Host)
	n.check(a.Host, 1, append(fine("tunnel"), "of which are up: 3")...) // without an agent, a host has its network

	// a cloud that knows the hosts' addresses alone, of IPv6; a packet of IPv4 is answered
	d.Start()
	n.init(t, strings.Replace(lab.Config, `"id": "lab"`, `"id": "lab", "backend": "host-gw"`, 1))
	for _, h := range n.hosts {
		n.Await(h.Host, "all go directly", func(s lab.Status) bool {
			return !slices.ContainsFunc(s.Peers, func(p lab.Peer) bool { return p.Way != "direct" })
		})
	}
	n.check(a.Host, 0, append(fine("direct"), "pairs by direct: 12")...)
	// With br_netfilter, 5.10 leaves out the chains of priority 0 and less (br_nf_hook_thresh).
	n.Switch.MustRun("sh", "-c", "nft add table bridge cloud; nft add chain bridge cloud forward '{ type filter hook forward priority 10; }'; nft add rule bridge cloud forward iifname "+b.Port+" ip6 saddr fd40::/48 drop")
	out := n.check(a.Host, 1, "b: no answer from fd40: … answers: packets with containers' addresses are dropped between the hosts, as clouds do", "c: fine, by direct")
	if strings.Contains(out.Stdout, "b: fine") || strings.Contains(out.Stdout, "b: no answer from 10.") {
		t.Errorf("got %v, want one fault of b's", out)
	}
	n.etcd.Members[0].Kill()
	if out := a.Node("cluster", "check", "--probe=false"); out.Code != 1 || !strings.Contains(out.Stdout, "problem: the store was not asked: etcd at ") {
		t.Errorf("with no etcd: got %v", out)
	}
}
