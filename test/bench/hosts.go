package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/trestle-cni/trestle/pkg/hosts"
	"github.com/trestle-cni/trestle/test/bench/measure"
	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// flannelVariable names the program of flannel, if somebody has built it (docs/hosts.md).
const flannelVariable = "FLANNELD"

// severalHosts are tables of networks over several hosts: namespaces on a switch. More of
// them than three are simulated, as records or as watchers of the store.
func severalHosts(t host.T, s size) []measure.Section {
	return []measure.Section{
		{
			Title: "Between containers of two hosts", Rounds: 7, Operations: []string{fmt.Sprintf("%d MiB", s.stream>>20), "round trip", "connection"},
			Note: "Plain is from one host to the other, without containers. Aims: host-gw at most 1.18 of plain's time for the stream, vxlan at most 1.11 of host-gw's; round trip by vxlan at most 1.5 of host-gw's.",
			Setup: variants([]func() measure.Variant{
				variant("plain, host to host", func() round { return betweenHosts(t, s, "") }),
				variant("host-gw", func() round { return betweenHosts(t, s, "host-gw") }),
				variant("vxlan", func() round { return betweenHosts(t, s, "vxlan") }),
			}),
		},
		{
			Title: "From the start of a third host's agent to a route on both others", Rounds: 9, Operations: []string{"join"},
			Note:  "etcd of one member; `FLANNELD=…` puts flannel beside it. Aim: at most flannel's.",
			Setup: func() []measure.Variant { return joins(t) },
		},
		{
			Title: "From a host's record to the last of all others", Rounds: 9, Operations: []string{"put to last"},
			Note:  "One put into etcd, with so many hosts that watch, simulated; \"asking\" has each of them ask for the lease of what has come, as flannel does. Aim: at most half of that.",
			Setup: func() []measure.Variant { return watches(t, s) },
		},
		{
			Title: "Start of an agent with its peers in a list", Rounds: 5, Operations: []string{"nothing there", "all there"},
			Note:  "From before fork until each peer has its route, by vxlan; and started again over what is there, until its status says ready: that changes nothing, or there would be no table.",
			Setup: func() []measure.Variant { return starts(t, s) },
		},
	}
}

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

// routes counts those of a host's that lie in the prefix, the prefix itself aside.
func routes(h *lab.Host, within netip.Prefix) (count int, err error) {
	err = h.Do(func() error {
		all, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // there were changes: look again
		}
		for _, r := range all {
			if r.Dst == nil {
				continue
			}
			addr, _ := netip.AddrFromSlice(r.Dst.IP.To4()) // a prefix of IPv4
			if ones, _ := r.Dst.Mask.Size(); within.Contains(addr) && ones > within.Bits() {
				count++
			}
		}
		return err
	})
	return count, err
}

// until waits, by looking each millisecond, until so many routes are there.
func until(h *lab.Host, within netip.Prefix, want int) error {
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := routes(h, within)
		if err != nil || got == want {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has %d routes in %s, want %d", h.Name, got, within, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func joins(t host.T) []measure.Variant {
	all := []measure.Variant{{Name: "trestle", Round: joining(t)}}
	if program := os.Getenv(flannelVariable); program != "" {
		all = append(all, measure.Variant{Name: "flannel", Round: flannelJoining(t, program)})
	}
	return all
}

// joining is a round of a third host that joins, and leaves again.
func joining(t host.T) round {
	l := lab.New(t)
	e := l.Etcd(1)
	if err := e.Ctl("put", "/trestle/v1/default/config", lab.Config); err != nil {
		t.Fatalf("%v", err)
	}
	pool := netip.MustParsePrefix("10.40.0.0/16")
	a, b, c := l.Agent(l.Host("a"), e.Settings("a")), l.Agent(l.Host("b"), e.Settings("b")), l.Host("c")
	for _, h := range []*lab.Agent{a, b} {
		l.Ready(h.Host, 1)
	}
	own, err := routes(a.Host, pool)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return func() ([]time.Duration, error) {
		began := time.Now()
		agent := l.Agent(c, e.Settings("c"))
		err := errors.Join(until(a.Host, pool, own+1), until(b.Host, pool, own+1))
		took := time.Since(began)
		if out := c.Node("node", "leave"); out.Code != 0 {
			err = errors.Join(err, fmt.Errorf("leave: %s%s", out.Stdout, out.Stderr))
		}
		agent.Kill()
		return []time.Duration{took}, errors.Join(err, until(a.Host, pool, own), until(b.Host, pool, own))
	}
}

// flannelJoining is the same of flannel, with its own keys in an etcd of its own.
func flannelJoining(t host.T, program string) round {
	l := lab.New(t)
	e := l.Etcd(1)
	const config = `{"Network": "10.50.0.0/16", "Backend": {"Type": "vxlan"}}`
	if err := e.Ctl("put", "/coreos.com/network/config", config); err != nil {
		t.Fatalf("%v", err)
	}
	pool := netip.MustParsePrefix("10.50.0.0/16")
	start := func(h *lab.Host) (stop func() string) {
		return h.Start(host.Command{Args: []string{program, "--etcd-endpoints", strings.Join(e.URLs(), ","), "--iface", "eth0", "--ip-masq=false"}})
	}
	a, b, c := l.Host("a"), l.Host("b"), l.Host("c")
	start(a)
	start(b)
	for _, h := range []*lab.Host{a, b} {
		if err := until(h, pool, 1); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return func() ([]time.Duration, error) {
		began := time.Now()
		stop := start(c)
		err := errors.Join(until(a, pool, 2), until(b, pool, 2))
		took := time.Since(began)
		stop()
		keys, getErr := e.Out("get", "--prefix", "/coreos.com/network/subnets/")
		err = errors.Join(err, getErr)
		lines := strings.Split(keys, "\n")
		for i, line := range lines[:len(lines)-1] {
			if strings.HasPrefix(line, "/coreos.com/") && strings.Contains(lines[i+1], fmt.Sprintf("%q", c.IPv4.String())) {
				err = errors.Join(err, e.Ctl("del", line))
			}
		}
		c.MustRun("sh", "-c", "ip link del flannel.1; rm -rf /run/flannel; true")
		return []time.Duration{took}, errors.Join(err, until(a, pool, 1), until(b, pool, 1))
	}
}

func watches(t host.T, s size) []measure.Variant {
	l := lab.New(t)
	e := l.Etcd(1)
	var all []measure.Variant
	for _, count := range s.hosts {
		all = append(all,
			measure.Variant{Name: fmt.Sprintf("%d hosts", count), Round: watching(t, e, count, false)},
			measure.Variant{Name: fmt.Sprintf("%d hosts, asking", count), Round: watching(t, e, count, true)})
	}
	return all
}

// dial makes a client of the etcd, whose connections are made on the switch.
func dial(e *lab.Etcd) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: e.URLs(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(_ context.Context, at string) (conn net.Conn, err error) {
			err = e.Switch.Do(func() (err error) {
				conn, err = net.DialTimeout("tcp", at, 10*time.Second)
				return err
			})
			return conn, err
		})},
	})
}

// watching is a round of one put that all watchers hear of, each by a connection of its own.
func watching(t host.T, e *lab.Etcd, count int, asks bool) round {
	prefix := fmt.Sprintf("/bench/%d-%v/", count, asks)
	ctx, stop := context.WithCancel(context.Background())
	heard := make(chan error, count)
	writer, err := dial(e)
	if err != nil {
		t.Fatalf("%v", err)
	}
	clients := []*clientv3.Client{writer}
	t.Cleanup(func() {
		stop()
		for _, c := range clients {
			_ = c.Close() // nothing is under way
		}
	})
	for range count {
		client, err := dial(e)
		if err != nil {
			t.Fatalf("%v", err)
		}
		clients = append(clients, client)
		watch := client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if answer := <-watch; answer.Err() != nil {
			t.Fatalf("watch: %v", answer.Err())
		}
		ask := func(clientv3.LeaseID) error { return nil }
		if asks {
			ask = func(id clientv3.LeaseID) error {
				_, err := client.TimeToLive(ctx, id)
				return err
			}
		}
		go hear(watch, ask, heard)
	}
	return func() ([]time.Duration, error) {
		lease, err := writer.Grant(ctx, 3600)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if _, err := writer.Put(ctx, prefix+"node", `{"id": "n", "underlay": ["192.0.2.1/24"]}`, clientv3.WithLease(lease.ID)); err != nil {
			return nil, err
		}
		var failed error
		for range count {
			failed = errors.Join(failed, <-heard)
		}
		return []time.Duration{time.Since(began)}, failed
	}
}

// hear says of each event that it has come, and been asked about.
func hear(watch clientv3.WatchChan, ask func(clientv3.LeaseID) error, heard chan<- error) {
	for answer := range watch {
		for _, event := range answer.Events {
			heard <- errors.Join(answer.Err(), ask(clientv3.LeaseID(event.Kv.Lease)))
		}
	}
}

func starts(t host.T, s size) []measure.Variant {
	var all []measure.Variant
	for _, peers := range s.hosts {
		all = append(all, measure.Variant{Name: fmt.Sprintf("%d peers", peers), Round: starting(t, peers)})
	}
	return all
}

// member is a host with so many peers in its list.
type member struct {
	*lab.Lab
	*lab.Agent
	peers int
}

func newMember(t host.T, peers int) *member {
	l := lab.New(t)
	h := l.Host("a")
	h.Write(listPath, hostList("vxlan", peers))
	m := &member{l, l.Agent(h, lab.Settings{"name": "a"}), peers}
	l.Ready(h, peers)
	return m
}

func (m *member) routed() error {
	return until(m.Agent.Host, netip.MustParsePrefix("10.40.0.0/16"), m.peers)
}

// restart starts the agent where all is there, and says how long it took until it was ready,
// and what it had to say.
func (m *member) restart() (took time.Duration, said string, err error) {
	began := time.Now()
	m.Start()
	for deadline := began.Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, "", errors.New("the agent is not ready")
		}
		var status *hosts.Status
		if err := m.Do(func() (err error) { status, err = hosts.Read(hosts.StatusPath); return err }); err != nil {
			return 0, "", err
		}
		if status != nil && status.State == hosts.Ready && status.Updated.After(began) && len(status.Peers) == m.peers {
			break
		}
	}
	took = time.Since(began)
	return took, m.Kill(), nil
}

func starting(t host.T, peers int) round {
	m := newMember(t, peers)
	return func() ([]time.Duration, error) {
		m.Kill()
		m.MustRun("sh", "-ec", "ip link del trestle-vx; ip route flush proto 116; rm -r /run/trestle/node /var/lib/trestle")
		began := time.Now()
		m.Start()
		err := m.routed()
		first := time.Since(began)
		m.Ready(m.Agent.Host, peers)
		m.Kill()
		again, said, errAgain := m.restart()
		if strings.Contains(said, "bring the kernel") || strings.Contains(said, "repair") {
			errAgain = fmt.Errorf("started over what is there it changed something: %s", said)
		}
		return []time.Duration{first, again}, errors.Join(err, errAgain, m.routed())
	}
}
