package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// severalHosts are tables of networks over several hosts: namespaces on a switch. More of
// them than three are simulated, as records or as watchers of the store.
func severalHosts(t host.T, s size) []measure.Section {
	most := s.hosts[len(s.hosts)-1]
	all := []measure.Section{
		{
			Title: "Between containers of two hosts", Rounds: 7, Operations: []string{fmt.Sprintf("%d MiB", s.stream>>20), "round trip", "connection"},
			Note: "Plain is from one host to the other, without containers. Aims: host-gw at most 1.18 of plain's time for the stream, vxlan at most 1.11 of host-gw's; round trip by vxlan at most 1.5 of host-gw's.",
			Setup: variants([]func() measure.Variant{
				variant("plain, host to host", func() round { return betweenHosts(t, s, "") }),
				variant("host-gw", func() round { return betweenHosts(t, s, "host-gw") }),
				variant("vxlan", func() round { return betweenHosts(t, s, "vxlan") }),
			}),
		},
	}
	for _, count := range s.hosts {
		all = append(all, measure.Section{
			Title: fmt.Sprintf("A host joins %d others", count-1), Operations: []string{"route on all others", "routes to all others"}, Rounds: 9,
			Note: fmt.Sprintf("From the start of its agent, on an etcd of one member. %d of the others are real, and share this machine's CPUs; the rest are simulated: they have joined, and watch etcd. Aim with two others: at most flannel's.", s.real(count)),
			Setup: func() []measure.Variant {
				return byEach(t, func(j joiner) round { return joining(t, j, s.real(count), count) })
			},
		})
	}
	all = append(all,
		measure.Section{
			Title: "From a host's record to the last of all others", Rounds: 9, Operations: []string{"put to last"},
			Note:  "One put into etcd, with so many simulated hosts that watch it; for \"asking\" each of them reads the lease of what has come, as flannel does. Aim: at most half of that.",
			Setup: func() []measure.Variant { return watches(t, s) },
		},
		measure.Section{
			Title: fmt.Sprintf("%d hosts join at once", most), Rounds: 3, Operations: []string{"all have joined"},
			Note:  "Simulated, on an etcd of one member. With a lock of etcd's they take turns, as most programs would do it. Aim: at most a quarter of that; the transactions are counted below.",
			Setup: func() []measure.Variant { return joiningAtOnce(t, most) },
		})
	for _, count := range s.hosts {
		all = append(all, measure.Section{
			Title: fmt.Sprintf("Start of an agent with %d peers", count), Rounds: 7, Operations: []string{"all are routed"},
			Note:  "From before fork until each peer has its route, by vxlan, while the kernel has none yet. Aim with 1000: at most 0.3 of flannel's.",
			Setup: func() []measure.Variant { return starts(t, count) },
		})
	}
	return append(all, measure.Section{
		Title: "Start of an agent over what is there", Rounds: 7, Operations: []string{"ready"},
		Note:  "From before fork until its status says that it is ready; it changes nothing in the kernel (or this table would be missing).",
		Setup: func() []measure.Variant { return startsAnew(t, s) },
	})
}

// real is how many of so many hosts, less the one that joins, are no simulation.
func (s size) real(count int) int { return min(count-1, s.agents) }

// hostList is cluster.json with so many hosts, the first of which is a.
func hostList(backend string, peers int) string {
	var nodes []string
	for i := range peers + 1 {
		name, at := fmt.Sprintf("n%d", i), netip.AddrFrom4([4]byte{203, 0, byte(113 + i/200), byte(11 + i%200)})
		if i == 0 {
			name = "a"
		}
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 40, byte(i / 64), byte(i % 64 * 4)}), 30)
		nodes = append(nodes, fmt.Sprintf(`{"name": %q, "underlay": ["%s/24"], "subnets": {"pods": [%q]}}`, name, at, subnet))
	}
	return fmt.Sprintf(`{"networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16", "subnetLen": 30}}], "backend": %q, "nodes": [%s]}`,
		backend, strings.Join(nodes, ",\n"))
}

const listPath = "/etc/trestle/cluster.json"

// betweenHosts is a round from a container of one host to one of another; "" is from host
// to host.
func betweenHosts(t host.T, s size, backend string) round {
	l := lab.New(t)
	a, b := l.Host("a"), l.Host("n1")
	from, server, to := a.Namespace, b.Namespace, b.IPv4
	if backend != "" {
		var at []*lab.Attached
		for _, h := range []*lab.Host{a, b} {
			h.Write(listPath, hostList(backend, 1))
			l.Agent(h, lab.Settings{"name": h.Name})
			l.Ready(h, 1)
			at = append(at, l.Attach(h, "at-"+h.Name))
		}
		from, server, to = at[0].Namespace, at[1].Namespace, at[1].Addresses[0]
		l.Reach(at[0], at[1])
	}
	listen(t, server)
	return func() (took []time.Duration, err error) {
		err = from.Do(func() (err error) {
			took, err = ask(netip.AddrPortFrom(to, 80).String(), s.stream)
			return err
		})
		return took, err
	}
}
