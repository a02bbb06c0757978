// Command demo shows a network over three hosts at work: an etcd of three members, a
// container on each host, who reaches whom, a member and a host killed and back. All of it
// is in namespaces. It exits with 1 at the first thing that is not as it should be.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

func main() { os.Exit(host.Program(demo)) }

type show struct {
	*lab.Lab
	etcd       *lab.Etcd
	agents     []*lab.Agent
	containers []*lab.Attached
}

func title(text string)              { fmt.Printf("\n%s\n", text) }
func say(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }

func demo(t host.T) {
	title("Three hosts on a switch, and an etcd of three members (namespaces; nothing of this machine is touched)")
	s := &show{Lab: lab.New(t)}
	s.etcd = s.Etcd(3)
	say("etcd at %s", strings.Join(s.etcd.URLs(), ", "))
	s.form()

	title("A container on each, and who reaches whom")
	for _, a := range s.agents {
		c := s.Attach(a.Host, "c-"+a.Name)
		say("%s on host %s has %v", c.ID, a.Name, c.Addresses)
		s.containers = append(s.containers, c)
	}
	s.everybody()

	title("What a host says of the others")
	s.print(s.agents[0], "node", "status")
	s.print(s.agents[0], "cluster", "check")

	title("A member of etcd is killed: pings go on, and a fourth host joins all the same")
	pings := s.Pings(s.containers[0], s.containers[1].Addresses[0])
	s.etcd.Members[0].Kill()
	d := s.join("d")
	for _, a := range s.agents {
		s.Ready(a.Host, 3)
	}
	s.none(pings)
	say("host d is in: %v", s.Ready(d.Host, 3).Subnet(true))
	s.etcd.Members[0].Start()

	title("A host is killed, and back: the same subnet, and nobody's routes went meanwhile")
	b := s.agents[1]
	before := s.Ready(b.Host, 3)
	b.Kill()
	b.MustRun("sh", "-c", "ip link del trestle-vx; ip route flush proto 116; ip -6 route flush proto 116; nft flush ruleset; rm -rf /run/trestle/node")
	b.Start()
	after := s.Ready(b.Host, 3)
	if after.Subnet(true) != before.Subnet(true) {
		s.Fatalf("host b had %s, and has %s", before.Subnet(true), after.Subnet(true))
	}
	say("host b has %s again", after.Subnet(true))
	s.everybody()

	title("Host d leaves")
	say("$ trestle node leave")
	if out := d.Node("node", "leave"); out.Code != 0 {
		s.Fatalf("leave: %v", out)
	}
	for _, a := range s.agents {
		s.Ready(a.Host, 2)
	}
	s.print(s.agents[0], "cluster", "nodes")
}

// form makes the cluster by the commands that a person types.
func (s *show) form() {
	for i, name := range []string{"a", "b", "c"} {
		h := s.Host(name)
		if i == 0 {
			s.must(h, "cluster", "init", "--etcd", s.etcd.Members[0].URL, "--pool", "10.40.0.0/16", "--pool6", "fd40::/48")
		}
		s.must(h, "node", "join", "--name", name, "--etcd", strings.Join(s.etcd.URLs(), ","))
		s.agents = append(s.agents, s.Agent(h, s.etcd.Settings(name)))
	}
	for _, a := range s.agents {
		status := s.Ready(a.Host, 2)
		say("host %s, %s, has %s and %s", a.Name, a.IPv4, status.Subnet(true), status.Subnet(false))
	}
}

func (s *show) join(name string) *lab.Agent {
	h := s.Host(name)
	s.must(h, "node", "join", "--name", name, "--etcd", strings.Join(s.etcd.URLs(), ","))
	return s.Agent(h, s.etcd.Settings(name))
}

func (s *show) must(h *lab.Host, args ...string) {
	say("%s$ trestle %s", h.Name, strings.Join(args, " "))
	if out := h.Node(args...); out.Code != 0 {
		s.Fatalf("trestle %s: %v", strings.Join(args, " "), out)
	}
}

func (s *show) print(a *lab.Agent, args ...string) {
	say("%s$ trestle %s", a.Name, strings.Join(args, " "))
	out := a.Node(args...)
	for line := range strings.Lines(out.Stdout) {
		say("  %s", strings.TrimSuffix(line, "\n"))
	}
	if out.Code != 0 {
		s.Fatalf("trestle %s: %v", strings.Join(args, " "), out)
	}
}

func (s *show) everybody() {
	for _, from := range s.containers {
		for _, to := range s.containers {
			if from != to {
				s.Reach(from, to)
			}
		}
	}
	say("each container reaches each other, by its own address, of both families")
}

func (s *show) none(p *lab.Pinger) {
	sent, lost := p.Lost()
	if lost > 0 {
		s.Fatalf("%d of %d pings were lost", lost, sent)
	}
	say("%d pings of a at b meanwhile, a hundred a second: none lost", sent)
}
