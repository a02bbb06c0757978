package trestle

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/way"
	"github.com/trestle-cni/trestle/test/host"
)

// explain is the answer; its exit status is 3 where a packet stops.
func (p *patient) explain(args ...string) []way.Way {
	p.t.Helper()
	output := run(p.t, p.Host, append([]string{"explain", "--json"}, args...)...)
	var ways []way.Way
	if err := json.Unmarshal([]byte(output.Stdout), &ways); err != nil {
		p.t.Fatalf("explain %q: exit status %d, %v in %s%s", args, output.Code, err, output.Stdout, output.Stderr)
	}
	want := 0
	for _, w := range ways {
		if w.State == way.Stops {
			want = 3
		}
	}
	if output.Code != want {
		p.t.Errorf("explain %q: got exit status %d, want %d", args, output.Code, want)
	}
	return ways
}

// TestChains: explain and the topology name the chains that a packet comes to, those of
// iptables too, and whether one drops what no rule of it accepts.
func TestChains(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.sh("iptables -A FORWARD -i trestle0 -j ACCEPT; iptables -P FORWARD DROP")
	var said string
	for _, s := range p.explain("web", "--to", "192.0.2.1:80")[0].Stations {
		if s.Name == "rules, forward" {
			said = s.Text
		}
	}
	if !strings.Contains(said, "no chain drops it: FORWARD of ip filter (iptables") {
		t.Errorf("explain: got %q", said)
	}
	if tree := must(t, p.Host, "topology"); !strings.Contains(tree, "FORWARD of ip filter (iptables") || !strings.Contains(tree, "drops what no rule accepts") || !strings.Contains(tree, "postrouting of inet trestle") {
		t.Errorf("topology: got\n%s", tree)
	}
}

// TestExplain: a packet goes through, or stops where the fault is.
func TestExplain(t *testing.T) {
	t.Parallel()
	out := []string{"web", "--to", "192.0.2.1:80"}
	in := []string{"web", "--from", "192.0.2.1", "--port", "8080"}
	for _, test := range []struct {
		name  string
		fault func(*patient)
		args  []string
		state way.State
		// station is the last one, or the one that is not passed; its text has the words.
		station string
		words   []string
	}{
		{"out", func(*patient) {}, out, way.Passes, "masquerade", []string{"192.0.2.2"}},
		{"out by IPv6", func(*patient) {}, []string{"web", "--to", "[2001:db8::1]:80"}, way.Passes, "masquerade", []string{"2001:db8::2"}},
		{"a ping", func(*patient) {}, []string{"10.22.0.2", "--to", "192.0.2.1"}, way.Passes, "masquerade", []string{"192.0.2.2"}},
		{"to the host", func(*patient) {}, []string{"web", "--to", "192.0.2.2:22"}, way.Passes, "destination", []string{"the host"}},
		{"to the gateway, for a published port", func(*patient) {}, []string{"web", "--to", "10.22.0.1:8080"}, way.Passes, "destination", []string{"10.22.0.2:80 of container web"}},
		{"to a neighbour", func(p *patient) { p.attach("second", 8081) }, []string{"web", "--to", "10.22.0.3:80"}, way.Passes, "destination", []string{"container second on the same bridge"}},
		{
			"to a neighbour, filtered", func(p *patient) {
				p.attach("second", 8081)
				p.sh("iptables -P FORWARD DROP; sysctl -qw net.bridge.bridge-nf-call-iptables=1")
			},
			[]string{"web", "--to", "10.22.0.3:80"},
			way.Stops, "rules, forward",
			[]string{"ip filter", "iptables"},
		},
		{"its interface is down", func(p *patient) {
			p.web.MustRun("ip", "link", "set", "eth0", "down")
			await(p.t, "the kernel has told the bridge", func() bool { return p.MustRun("sh", "-c", "cat /sys/class/net/trestle0/brif/*/state") == "0\n" })
		}, out, way.Stops, "interface", []string{"eth0 is down"}},
		{"it has no route", func(p *patient) { p.web.MustRun("ip", "route", "del", "default") }, out, way.Stops, "route", []string{"192.0.2.1", "isDefaultGateway"}},
		{"its network is internal", func(p *patient) {
			p.add(p.network("walled", "br3", "10.61.0.0/24", `, {"type": "firewall", "ingressPolicy": "published", "internal": true}`), p.Container("c"), "eth0")
		}, []string{"c", "--to", "192.0.2.1:80"}, way.Stops, "route", []string{"internal", "192.0.2.1", "trestle network inspect walled"}},
		{"it has no such address", func(p *patient) { p.add(p.network("four", "br4", "10.62.0.0/24", ""), p.Container("c"), "eth0") }, []string{"c", "--to", "2001:db8::1"}, way.Stops, "address", []string{"10.62.0.2"}},
		{"it is on no bridge", func(p *patient) { p.sh("ip link set $(ls /sys/class/net/trestle0/brif) nomaster") }, out, way.Stops, "port", []string{"on no bridge"}},
		{"the bridge is down", func(p *patient) { p.sh("ip link set trestle0 down") }, out, way.Stops, "port", []string{"trestle0 is down"}},
		{"the host does not forward", func(p *patient) { p.sh("sysctl -qw net.ipv4.ip_forward=0") }, out, way.Stops, "forwarding", []string{"net/ipv4/ip_forward is 0"}},
		{"the host has no route", func(p *patient) { p.sh("ip route del default") }, []string{"web", "--to", "203.0.113.9:80"}, way.Stops, "host's route", []string{"203.0.113.9"}},
		{"FORWARD drops", func(p *patient) { p.sh(dockerRules) }, out, way.Stops, "rules, forward", []string{"ip filter", "iptables"}},
		{"nobody masquerades", func(p *patient) {
			p.add(p.network("bare", "br5", "10.63.0.0/24", ""), p.Container("c"), "eth0")
			p.sh("ip netns exec c ip route add default via 10.63.0.1")
		}, []string{"c", "--to", "203.0.113.9:80"}, way.Maybe, "masquerade", []string{"no ipMasq", "10.63.0.2"}},
		{"another network's policy", func(p *patient) {
			p.add(p.network("walled", "br3", "10.61.0.0/24", `, {"type": "firewall", "ingressPolicy": "published"}`), p.Container("c"), "eth0")
		}, []string{"web", "--to", "10.61.0.2:80"}, way.Stops, "rules, forward", []string{"inet trestle", "by the network's configuration", "trestle network inspect trestle walled"}},

		{"in", func(p *patient) { p.web.Serve("tcp", ":80") }, in, way.Passes, "program", []string{"tcp/80"}},
		{"in from the host", func(p *patient) { p.web.Serve("tcp", ":80") }, []string{"web", "--from", "192.0.2.2", "--port", "8080"}, way.Passes, "program", []string{"tcp/80"}},
		{"nothing listens", func(*patient) {}, in, way.Stops, "program", []string{"no program listens on tcp/80"}},
		{"it listens to itself", func(p *patient) { p.web.Serve("tcp", "127.0.0.1:80") }, in, way.Stops, "program", []string{"not on 10.22.0.2"}},
		{"another port", func(*patient) {}, []string{"web", "--from", "192.0.2.1", "--port", "80"}, way.Stops, "published port", []string{"tcp/80", "8080->80/tcp"}},
		{"no port", func(p *patient) { p.add(p.network("four", "br4", "10.62.0.0/24", ""), p.Container("c"), "eth0") }, []string{"c", "--from", "192.0.2.1", "--port", "80"}, way.Stops, "published port", []string{"publishes none"}},
		{"rules were flushed", func(p *patient) { p.sh("nft flush ruleset") }, in, way.Stops, "published port", []string{"flushed"}},
		{"somebody else has the port", func(p *patient) { p.sh("iptables -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 99") }, in, way.Stops, "rules, NAT", []string{"ip nat"}},
		{"FORWARD drops what comes in", func(p *patient) { p.sh("iptables -A FORWARD -i trestle0 -j ACCEPT; iptables -P FORWARD DROP") }, in, way.Stops, "rules, forward", []string{"ip filter"}},
		{"the host sends it elsewhere", func(p *patient) { p.sh("ip route add 10.22.0.2/32 via 192.0.2.1") }, in, way.Stops, "host's route", []string{"10.22.0.2", "trestle0", host.Uplink}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			test.fault(p)
			before := p.Dump()
			ways := p.explain(test.args...)
			p.AssertUnchanged(before)
			if len(ways) != 1 || ways[0].State != test.state {
				t.Fatalf("got %+v, want %s", ways, test.state)
			}
			var station way.Station
			for _, s := range ways[0].Stations {
				if s.State == test.state && s.Name == test.station {
					station = s
				}
			}
			for _, word := range test.words {
				if !strings.Contains(station.Text+"\n"+station.Command, word) {
					t.Errorf("got %+v, want it at %s with %q", ways[0].Stations, test.station, word)
				}
			}
		})
	}
}

// TestExplainDead: what is gone sends nothing.
func TestExplainDead(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.attach("lost", 8081).Remove()
	p.awaitVeths(1)
	awaitDead(t, p.Host)
	ways := p.explain("lost", "--to", "192.0.2.1")
	if len(ways) != 1 || len(ways[0].Stations) != 1 || ways[0].Stations[0].Name != "container" || ways[0].State != way.Stops {
		t.Errorf("got %+v, want it to stop at once", ways)
	}
}

// TestExplainForPeople: station by station, with the rules that match, their counters,
// and the connections; all ways where none is asked for.
func TestExplainForPeople(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.web.Serve("tcp", ":80")
	p.Outside.Serve("tcp", ":80")
	p.sh("iptables -A FORWARD -i trestle0 -j ACCEPT")
	if _, err := p.web.Request("tcp", "192.0.2.1:80"); err != nil {
		t.Fatal(err)
	}
	got := must(t, p.Host, "explain", "web", "--to", "192.0.2.1:80")
	oneLine := strings.Join(strings.Fields(got), " ")
	for _, want := range []string{
		"tcp, web of network trestle, from 10.22.0.2 to 192.0.2.1:80 ok", "ok container namespace /run/netns/web", "leased 10.22.0.2",
		"MAC 0a:58:0a:16:00:02", "via 10.22.0.1 dev eth0", "of bridge trestle0", "dev uplink0", "ip filter FORWARD: -i trestle0 -j ACCEPT (",
		"tcp 10.22.0.2 port ", "seen as 192.0.2.2", "it gets there",
		"inet trestle postrouting: meta nfproto ipv4 ip saddr 10.22.0.0/16 ip daddr != 10.22.0.0/16 ip daddr != 224.0.0.0/4 masquerade",
	} {
		if !strings.Contains(oneLine, want) {
			t.Errorf("got\n%swant %q in it", got, want)
		}
	}
	if strings.Contains(got, "(0 packets") {
		t.Errorf("got\n%swant counters of what was sent", got)
	}
	for line := range strings.Lines(got) {
		if len(line) > 81 {
			t.Errorf("got a line of %d bytes: %s", len(line)-1, line)
		}
	}
	if got := must(t, p.Host, "explain", "web"); strings.Count(got, "it gets there") != 4 {
		t.Errorf("got\n%swant two ways out and two in", got)
	}
	refused(t, p.Host, []string{"nobody", "trestle ls"}, "explain", "nobody")
	refused(t, p.Host, []string{"--to", `"there"`}, "explain", "web", "--to", "there")
	refused(t, p.Host, []string{"--port"}, "explain", "web", "--from", "192.0.2.1")
	refused(t, p.Host, []string{"--port", "--from"}, "explain", "web", "--port", "80")
	refused(t, p.Host, []string{"--protocol", "sctp"}, "explain", "web", "--protocol", "sctp")
	refused(t, p.Host, []string{"--network", "other", "trestle"}, "explain", "web", "--network", "other")
	refused(t, p.Host, []string{"use only one of them"}, "explain", "web", "--to", "192.0.2.1", "--from", "192.0.2.1", "--port", "1")
	refused(t, p.Host, []string{"CONTAINER", "nothing is given"}, "explain")
}

// TestWayByVLAN: the host reaches the containers of a VLAN by the VLAN's interface on the
// bridge, which is a veth pair if the reference plugin has made it, and neither explain nor doctor
// takes the bridge for it.
func TestWayByVLAN(t *testing.T) {
	t.Parallel()
	for _, reference := range []bool{false, true} {
		t.Run(fmt.Sprintf("reference %t", reference), func(t *testing.T) {
			t.Parallel()
			wayByVLAN(t, reference)
		})
	}
}

func wayByVLAN(t *testing.T, reference bool) {
	t.Helper()
	h := host.NewWithVLANs(t)
	h.MustRun("sysctl", "-qew", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0")
	list := `{"cniVersion": "1.0.0", "name": "tagged", "plugins": [{"type": "bridge", "bridge": "br-tagged", "vlan": 7, "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.62.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`
	h.InstallNetwork("90-tagged.conflist", list)
	p := &patient{Host: h, t: t, net: h.Network(list), plugins: h.Dirs().Trestle}
	kind := "vlan"
	if reference {
		kind = "veth"
		theirs := h.Network(list)
		theirs.Path = []string{h.Dirs().Reference}
		p.add(theirs, h.Container("theirs"), "eth0")
	}
	c := p.attach("c1", 8080)
	h.MustRun("ip", "link", "show", "br-tagged.7", "type", kind)
	c.Serve("tcp", ":80")
	if _, err := h.Outside.Request("tcp", "192.0.2.2:8080"); err != nil {
		t.Fatal(err)
	}
	if got := must(t, h, "explain", "c1", "--from", "192.0.2.1", "--port", "8080"); !strings.Contains(got, "it gets there") || !strings.Contains(got, "br-tagged.7") {
		t.Errorf("got\n%s", got)
	}
	for _, f := range p.examine() {
		if f.Check == "overlap" || f.Check == "forwarding" || f.Check == "forward-drops" || f.Check == "reverse-path" {
			t.Errorf("got %+v, want nothing: the container reaches the outside", f)
		}
	}
}
