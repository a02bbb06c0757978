package hosts

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// TestFile: hosts that have a list of each other and no store reach each other as soon
// as it is there; a host more is reached when the list says so; and a list that is
// nonsense, or half a list, changes nothing.
func TestFile(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	a, b, c := l.Host("a"), l.Host("b"), l.Host("c")
	out := a.Node("cluster", "init", "--pool", "10.40.0.0/16", "--pool6", "fd40::/48", "--backend", "auto",
		"--node", "a="+a.IPv4.String()+"/24", "--node", "b="+b.IPv4.String()+"/24")
	if out.Code != 0 {
		t.Fatal(out)
	}
	list := a.MustRun("cat", "/etc/trestle/cluster.json")
	b.Write("/etc/trestle/cluster.json", list)
	var agents []*lab.Agent
	for _, h := range []*lab.Host{a, b} {
		if out := h.Node("node", "join", "--name", h.Name); out.Code != 0 {
			t.Fatal(out)
		}
		agents = append(agents, l.Agent(h, lab.Settings{"name": h.Name, "heartbeat": "2s", "audit": "2s"}))
	}
	var at []*lab.Attached
	for _, h := range agents {
		s := l.Ready(h.Host, 1)
		at = append(at, l.Attach(h.Host, "at-"+h.Name))
		if s.Peers[0].Way != "tunnel" { // IPv6 has no address on one link: the list has none
			t.Errorf("%s: got way %s, want the tunnel for both families", h.Name, s.Peers[0].Way)
		}
	}
	l.Reach(at[0], at[1])
	l.Reach(at[1], at[0])
	before := routes(a)

	for _, bad := range []struct{ name, list, want string }{
		{"half", list[:len(list)/2], "unexpected end of JSON"},
		{"overlap", strings.Replace(list, "10.40.1.0/24", "10.40.0.0/24", 1), "node b has 10.40.0.0/24, which overlaps 10.40.0.0/24 of node a"},
		{"one key", strings.NewReplacer(`"name": "a"`, `"name": "a", "wgKey": "k"`, `"name": "b"`, `"name": "b", "wgKey": "k"`).Replace(list), "node b: wgKey: it is that of node a, too"},
		{"outside", strings.Replace(list, "10.40.1.0/24", "10.41.1.0/24", 1), "node b has subnets that are in no pool of their network, or not of its length: pods 10.41.1.0/24"},
	} {
		a.Write("/etc/trestle/cluster.json", bad.list)
		l.Await(a, bad.name, func(s lab.Status) bool { return strings.Contains(s.Store.Error, bad.want) && len(s.Peers) == 1 })
		if got := routes(a); got != before {
			t.Errorf("%s: got routes\n%s\nwant\n%s", bad.name, got, before)
		}
	}
	longer := strings.Replace(list, `"nodes": [`, fmt.Sprintf(`"nodes": [
    {"name": "c", "underlay": ["%s/24"], "subnets": {"pods": ["10.40.2.0/24", "fd40:0:0:2::/64"]}},`, c.IPv4), 1)
	for _, h := range []*lab.Host{a, b, c} {
		h.Write("/etc/trestle/cluster.json", longer)
	}
	if out := c.Node("node", "join", "--name", "c"); out.Code != 0 {
		t.Fatal(out)
	}
	l.Agent(c, lab.Settings{"name": "c"})
	l.Ready(a, 2)
	l.Ready(b, 2)
	l.Ready(c, 2)
	l.Reach(l.Attach(c, "at-c"), at[0])

	a.Write("/etc/trestle/cluster.json", list)
	l.Ready(a, 1)
	l.Reach(at[0], at[1])
	conflist := b.MustRun("cat", "/etc/cni/net.d/10-pods.conflist")
	if err := at[1].Detach(conflist); err != nil {
		t.Error(err)
	}
	if out := b.Node("node", "leave"); out.Code != 0 || out.Stdout != "left\n" {
		t.Errorf("leave: got %v", out)
	}
	nothingLeft(t, agents[1])
}

// TestDirect: hosts on one link need no tunnel, in either family, and strict rp_filter
// lets their packets through.
func TestDirect(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"auto", "host-gw"} {
		l := lab.New(t)
		n := &network{Lab: l, etcd: l.Etcd(1)}
		n.init(t, strings.Replace(lab.Config, `"id": "lab"`, `"id": "lab", "backend": "`+backend+`"`, 1))
		for _, name := range []string{"a", "b"} {
			h := n.Host(name)
			h.MustRun("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
			n.hosts = append(n.hosts, n.Agent(h, n.etcd.Settings(name)))
		}
		for _, h := range n.hosts {
			s := n.Ready(h.Host, 1)
			if s.Peers[0].Way != "direct" {
				t.Errorf("%s, %s: got way %s, want direct", backend, h.Name, s.Peers[0].Way)
			}
			n.containers = append(n.containers, n.Attach(h.Host, "at-"+h.Name))
		}
		n.Reach(n.containers[0], n.containers[1])
		n.Reach(n.containers[1], n.containers[0])
		n.check(n.hosts[0].Host, 0, "b: fine, by direct")
		if backend == "auto" {
			n.moved(t)
		}
	}
}

// moved: hosts that are on one link no more go by the tunnel (row 19).
func (n *network) moved(t *testing.T) {
	t.Helper()
	b := n.hosts[1]
	for addr, bits := range map[netip.Addr][2]int{b.IPv4: {24, 26}, b.IPv6: {64, 80}} {
		b.Address("del", addr, bits[0])
		b.Address("add", addr, bits[1])
	}
	b.DefaultRoutes()
	for _, h := range n.hosts {
		n.Await(h.Host, "by the tunnel", func(s lab.Status) bool { return len(s.Peers) == 1 && s.Peers[0].Way == "tunnel" })
	}
	n.Reach(n.containers[0], n.containers[1])
	n.Reach(n.containers[1], n.containers[0])
}
