package trestle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/doctor"
	"github.com/trestle-cni/trestle/cmd/trestle/picture"
	"github.com/trestle-cni/trestle/cmd/trestle/way"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// member is one of several hosts, with its agent and a container; the others are hosts of
// its list that nobody has started.
type member struct {
	*lab.Lab
	*lab.Agent
	t   *testing.T
	web *lab.Attached
}

// othersList is the hosts' list; %s is the backend.
const othersList = `{"networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16", "subnetLen": 24}, "ipv6": {"pool": "fd40::/48", "subnetLen": 64}}],
	"backend": %q, "nodes": [
	{"name": "a", "underlay": ["203.0.113.11/24", "2001:db8:1::11/64"], "subnets": {"pods": ["10.40.0.0/24", "fd40::/64"]}},
	{"name": "b", "underlay": ["203.0.113.12/24", "2001:db8:1::12/64"], "subnets": {"pods": ["10.40.1.0/24", "fd40:0:0:1::/64"]}},
	{"name": "c", "underlay": ["203.0.113.13/24", "2001:db8:1::13/64"], "subnets": {"pods": ["10.40.2.0/24", "fd40:0:0:2::/64"]}},
	{"name": "d", "underlay": ["203.0.113.14/24", "2001:db8:1::14/64"], "subnets": {"pods": ["10.40.3.0/24", "fd40:0:0:3::/64"]}}]}`

const clusterFile = "/etc/trestle/cluster.json"

func newMember(t *testing.T, backend string) *member {
	t.Helper()
	l := lab.New(t)
	h := l.Host("a")
	h.MustRun("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0")
	h.Write(clusterFile, fmt.Sprintf(othersList, backend))
	m := &member{Lab: l, Agent: l.Agent(h, lab.Settings{"name": "a", "heartbeat": "2s", "audit": "2s"}), t: t}
	l.Ready(h, 3)
	m.web = l.Attach(h, "web")
	return m
}

func (m *member) sh(script string) {
	m.t.Helper()
	m.MustRun("sh", "-ec", script)
}

// write replaces the list as a whole: the agent reads it at any moment.
func (m *member) write(text string) {
	m.Write(clusterFile+".new", text)
	m.MustRun("mv", clusterFile+".new", clusterFile)
}

// list changes the hosts' list.
func (m *member) list(from, to string) {
	m.t.Helper()
	text := m.MustRun("cat", clusterFile)
	if !strings.Contains(text, from) {
		m.t.Fatalf("%q is not in %s", from, text)
	}
	m.write(strings.ReplaceAll(text, from, to))
}

// await waits for a state of the agent's.
func (m *member) await(what string, is func(lab.Status) bool) {
	m.t.Helper()
	m.Await(m.Agent.Host, what, is)
}

// examine is the doctor's answer.
func (m *member) examine(args ...string) []doctor.Finding {
	m.t.Helper()
	output := run(m.t, m.Agent.Host.Host, append([]string{"doctor", "--json"}, args...)...)
	return decode[[]doctor.Finding](m.t, output.Stdout)
}

// TestDoctorHosts brings about what goes wrong between hosts.
func TestDoctorHosts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault func(*member)
		check string
		words []string
		// besides are checks that find the same fault.
		besides []string
	}{
		{
			"the agent does not run", func(m *member) { m.Kill() },
			"agent",
			[]string{"/etc/trestle/node.json", "systemctl start trestle-node"},
			nil,
		},
		{
			"the agent has not run since the boot", func(m *member) {
				m.Kill()
				m.sh("rm -r /run/trestle/node; ip link del trestle-vx; ip route flush proto 116; ip -6 route flush proto 116; rm /etc/cni/net.d/10-pods.conflist")
			},
			"agent",
			[]string{"has not run since the host was booted"},
			nil,
		},
		{
			"the list cannot be read", func(m *member) {
				m.write(`{"networks": [`)
				m.await("disconnected", func(s lab.Status) bool { return !s.Store.Connected })
			},
			"store",
			[]string{"not connected to file /etc/trestle/cluster.json since 20", "unexpected end of JSON", "stays as it is"},
			nil,
		},
		{
			"the subnet is another's", func(m *member) {
				m.list(`["10.40.0.0/24", "fd40::/64"]`, `["10.40.9.0/24", "fd40:0:0:9::/64"]`)
				m.list(`["10.40.1.0/24", "fd40:0:0:1::/64"]`, `["10.40.0.0/24", "fd40::/64"]`)
				m.await("fenced", func(s lab.Status) bool { return s.State == "fenced" && len(s.Restart) > 0 })
				m.sh("until ip route show proto 116 | grep -q '^10.40.0.0/24 ' && ip -6 route show proto 116 | grep -q '^fd40::/64 '; do sleep 0.05; done")
			},
			"fenced",
			[]string{"10.40.0.0/24", "web (10.40.0.2)", "trestle node accept"},
			nil,
		},
		{
			"the others vanish from the list", func(m *member) {
				text := m.MustRun("cat", clusterFile)
				at := strings.Index(text, `{"name": "b"`)
				m.write(strings.TrimRight(text[:at], ", \n\t") + "]}")
				m.await("suspect", func(s lab.Status) bool { return s.State == "suspect" })
			},
			"suspect",
			[]string{"ignores removals", "trestle node accept"},
			nil,
		},
		{
			"a route is gone", func(m *member) {
				m.Kill()
				m.sh("ip route del 10.40.1.0/24")
			},
			"peer-route",
			[]string{"10.40.1.0/24 of b", "cannot be reached", "systemctl start trestle-node"},
			[]string{"agent"},
		},
		{
			"a route of somebody else", func(m *member) {
				m.Kill()
				m.sh("ip route del 10.40.2.0/24; ip route add 10.40.2.0/24 dev eth0 proto bird")
			},
			"peer-route",
			[]string{"10.40.2.0/24 of c", "by eth0, protocol bird", "ip route del 10.40.2.0/24"},
			[]string{"agent"},
		},
		{
			"uplinks differ", func(m *member) {
				m.list(`["203.0.113.12/24", "2001:db8:1::12/64"],`, `["203.0.113.12/24", "2001:db8:1::12/64"], "mtu": 1400,`)
				m.await("the MTU is smaller", func(s lab.Status) bool { return s.MTU == 1350 })
			},
			"peer-mtu",
			[]string{"b has MTU 1400", "this host 1500", "1350"},
			[]string{"mtu"},
		},
		{
			"the tunnel's port is closed", func(m *member) {
				m.sh(`nft 'table inet wall { chain in { type filter hook input priority 10; policy drop; ct state established accept; tcp dport 22 accept; }; }'`)
			},
			"tunnel",
			[]string{"link trestle-vx", "comes from other hosts by UDP port 8473", "inet wall", "nft insert rule inet wall in udp dport 8473 accept"},
			nil,
		},
		{
			"nothing leaves by the tunnel's port", func(m *member) { m.sh("iptables -A OUTPUT -p udp --dport 8473 -j REJECT") },
			"tunnel",
			[]string{"goes to other hosts", "REJECT", "-I OUTPUT -p udp --dport 8473 -j ACCEPT"},
			nil,
		},
		{
			"another device has the tunnel's number", func(m *member) {
				m.Kill()
				m.sh("ip link del trestle-vx; ip link add flannel.1 type vxlan id 7243 dstport 8473 local 203.0.113.11 nolearning; ip link set flannel.1 up")
			},
			"tunnel",
			[]string{"flannel.1 has VNI 7243 and port 8473", "vni"},
			[]string{"agent", "peer-route"},
		},
		{
			"a program has the tunnel's port", func(m *member) {
				m.Kill()
				m.sh("ip link set trestle-vx down")
				m.sh("setsid python3 -c 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"203.0.113.11\", 8473)); open(\"/run/bound\", \"w\"); time.sleep(600)' >/dev/null 2>&1 & while ! test -e /run/bound; do sleep 0.05; done")
			},
			"tunnel",
			[]string{"a program has UDP port 8473", "ss -lunp"},
			[]string{"agent", "peer-route"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := newMember(t, "vxlan")
			test.fault(m)
			expect(t, m.examine(), test.check, test.besides, test.words)
		})
	}
}

// TestDoctorStartsTheAgent: where systemd runs, --fix has it start the agent. Like systemd, the
// fake systemctl returns when the agent is ready.
func TestDoctorStartsTheAgent(t *testing.T) {
	t.Parallel()
	m := newMember(t, "vxlan")
	m.Kill()
	m.sh(`mkdir -p /run/systemd/system /run/fake; printf '#!/bin/sh\nset -e\ntest "$*" = "start trestle-node"\nsetsid ` + m.Dirs().Trestle + `/trestle-node node run >/dev/null 2>&1 &
until grep -q "\"pid\": $!," /run/trestle/node/status.json && grep -q "\"connected\": true" /run/trestle/node/status.json; do sleep 0.05; done\n' >/run/fake/systemctl; chmod +x /run/fake/systemctl`)
	output := m.MustRun("env", "PATH=/run/fake:/usr/sbin:/usr/bin:/sbin:/bin", "CNI_PATH="+m.Dirs().Trestle, m.Dirs().Trestle+"/trestle", "doctor", "--fix", "--json")
	found := decode[[]doctor.Finding](t, output)
	if !slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Check == "agent" && f.Fixed }) {
		t.Errorf("got %+v, want that the agent was started", found)
	}
}

// TestHosts: on a host whose agent runs, each view shows the other hosts, and nothing is
// wrong.
func TestHosts(t *testing.T) {
	t.Parallel()
	for backend, device := range map[string]string{"vxlan": "trestle-vx", "host-gw": "eth0"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			m := newMember(t, backend)
			word := map[string]string{"vxlan": "vxlan", "host-gw": "direct"}[backend]
			h := m.Agent.Host.Host
			if found := m.examine(); len(found) > 0 {
				t.Errorf("got %+v, want nothing", found)
			}
			type line struct {
				Name, Way, Device string
				Subnets           []struct{ Subnet netip.Prefix }
			}
			got := answer[[]line](t, h, "ls", "--hosts")
			if len(got) != 3 || got[0].Name != "b" || got[0].Way != word || got[0].Device != device || got[0].Subnets[0].Subnet.String() != "10.40.1.0/24" {
				t.Errorf("ls --hosts: got %+v, want b, c and d by %s", got, device)
			}
			for _, args := range [][]string{{"ls"}, {"ls", "pods", "--hosts"}, {"topology"}} {
				if text := must(t, h, args...); !strings.Contains(text, "10.40.1.0/24") || !strings.Contains(text, word) || !strings.Contains(text, "203.0.113.12") {
					t.Errorf("%q: got\n%s", args, text)
				}
			}
			if topology := answer[picture.Topology](t, h, "topology"); topology.Hosts == nil || len(topology.Hosts.Peers) != 3 || topology.Hosts.Peers[0].Way != word {
				t.Errorf("topology: got %+v", topology.Hosts)
			}
			if text := must(t, h, "metrics"); !strings.Contains(text, `trestle_peers{way="`+word+`"} 3`) || !strings.Contains(text, `trestle_node_state{state="ready"} 1`) {
				t.Errorf("metrics: got\n%s", text)
			}
			if text := must(t, h, "report", "-", "--mask"); !strings.Contains(text, "trestle-node") || strings.Contains(text, "203.0.113.12") || !strings.Contains(text, word) {
				t.Error("report: the other hosts are not in it, or not masked")
			}
			for to, who := range map[string]string{"10.40.1.7:80": "b, at 203.0.113.12", "[fd40:0:0:2::7]:80": "c, at "} {
				w := answer[[]way.Way](t, h, "explain", "web", "--to", to)[0]
				if !slices.ContainsFunc(w.Stations, func(s way.Station) bool { return s.Name == "other host" && strings.HasPrefix(s.Text, who) }) {
					t.Errorf("explain --to %s: got %+v, want it to come to %s", to, w.Stations, who)
				}
			}
			m.Kill() // at work it writes its status now and then
			refused(t, h, []string{"--hosts", "--watch"}, "ls", "--hosts", "--watch")
		})
	}
}

// TestExplainHosts: a packet to another host's container is followed over the way there,
// and stops where the fault is.
func TestExplainHosts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, backend string
		fault         func(*member)
		to            string
		state         way.State
		station       string
		words         []string
	}{
		{"to nobody's subnet", "vxlan", func(*member) {}, "10.40.77.7:80", way.Stops, "host's route", []string{"10.40.0.0/16", "no host has"}},
		{
			"no entry of the tunnel", "vxlan", func(m *member) {
				m.Kill()
				m.sh("bridge fdb show dev trestle-vx | awk '/203.0.113.12/ {print $1}' | xargs -I M bridge fdb del M dev trestle-vx dst 203.0.113.12")
			},
			"10.40.1.7:80", way.Stops, "tunnel",
			[]string{"forwarding database", "trestle-vx"},
		},
		{
			"no neighbour on the tunnel", "vxlan", func(m *member) {
				m.Kill()
				m.sh("ip -6 neigh flush dev trestle-vx nud permanent")
			},
			"10.40.1.7:80", way.Stops, "tunnel",
			[]string{"no neighbour entry"},
		},
		{
			"the underlay has no route", "vxlan", func(m *member) { m.sh("ip route add unreachable 203.0.113.12") },
			"10.40.1.7:80", way.Stops, "underlay",
			[]string{"203.0.113.12"},
		},
		{
			"the port is closed", "vxlan", func(m *member) { m.sh("iptables -A OUTPUT -p udp --dport 8473 -j DROP") },
			"10.40.1.7:80", way.Stops, "rules, output",
			[]string{"ip filter"},
		},
		{
			"the route is gone", "vxlan", func(m *member) {
				m.Kill()
				m.sh("ip route del 10.40.1.0/24")
			},
			"10.40.1.7:80", way.Stops, "host's route",
			[]string{"unreachable", "b has"},
		},
		{
			"a route of somebody else", "vxlan", func(m *member) {
				m.Kill()
				m.sh("ip route replace 10.40.1.0/24 dev eth0 proto static")
			},
			"10.40.1.7:80", way.Stops, "host's route",
			[]string{"eth0", "trestle-vx", "b has"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := newMember(t, test.backend)
			test.fault(m)
			output := run(t, m.Agent.Host.Host, "explain", "web", "--to", test.to, "--json")
			ways := decode[[]way.Way](t, output.Stdout)
			if len(ways) != 1 || ways[0].State != test.state {
				t.Fatalf("got %+v", ways)
			}
			last := ways[0].Stations[len(ways[0].Stations)-1]
			i := slices.IndexFunc(ways[0].Stations, func(s way.Station) bool { return s.Name == test.station })
			if i < 0 || test.state == way.Stops && last.Name != test.station {
				t.Fatalf("got %+v, want station %q", ways[0].Stations, test.station)
			}
			for _, word := range test.words {
				if s := ways[0].Stations[i]; !strings.Contains(s.Text+s.Command, word) {
					t.Errorf("got %+v, want %q", s, word)
				}
			}
		})
	}
}
