package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// happening is two hosts on an etcd of three members, with a container each.
type happening struct {
	*lab.Etcd
	hosts      []*lab.Agent
	containers []*lab.Attached
}

// events is what is lost when something happens, and how long it takes until all is well.
func events(t host.T, s size) (string, error) {
	if !s.events {
		return "", nil
	}
	own := &scope{T: t}
	defer own.close()
	h := &happening{Etcd: lab.New(own).Etcd(3)}
	if err := h.Ctl("put", "/trestle/v1/default/config", lab.Config); err != nil {
		return "", err
	}
	for _, name := range []string{"a", "b"} {
		h.hosts = append(h.hosts, h.Agent(h.Host(name), h.Settings(name)))
	}
	for _, a := range h.hosts {
		h.Ready(a.Host, 1)
		h.containers = append(h.containers, h.Attach(a.Host, "c-"+a.Name))
	}
	h.Reach(h.containers[0], h.containers[1])
	text := "| what happens to two hosts with a container each | pings lost, one each 10 ms | until all is well, ms | aim |\n|---|--:|--:|---|\n"
	rows := []func() (string, error){
		func() (string, error) { return h.lose("etcd is away for 3 s", h.outage) },
		func() (string, error) { return h.lose("both agents are killed, and started", h.killed) },
		func() (string, error) {
			return h.lose("both agents are stopped, and started, as for an upgrade", h.stopped)
		},
	}
	for _, r := range repairs() {
		rows = append(rows, func() (string, error) { return h.repaired(r) })
	}
	rows = append(rows, func() (string, error) {
		return h.lose("etcd's leader is killed, and a host joins: from when there is a leader", h.leaderless)
	}, func() (string, error) { return cutOff(own) })
	for _, row := range rows {
		line, err := row()
		if err != nil {
			return "", err
		}
		text += line
	}
	return text + "\nOne try each.\n", nil
}

// lose counts the pings that are lost while something happens, which says how long it took.
func (h *happening) lose(what string, happens func() (took, aim string, err error)) (string, error) {
	pings := h.Pings(h.containers[0], h.containers[1].Addresses[0])
	took, aim, err := happens()
	sent, lost := pings.Lost()
	if err == nil && sent == 0 {
		err = errors.New(what + ": no ping was sent")
	}
	return fmt.Sprintf("| %s | %d of %d | %s | 0 lost%s |\n", what, lost, sent, took, aim), err
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// ready waits until both hosts are, and says how long that took.
func (h *happening) ready() (took, aim string, err error) {
	began := time.Now()
	for _, a := range h.hosts {
		h.Ready(a.Host, 1)
	}
	return ms(time.Since(began)), "", nil
}

func (h *happening) outage() (took, aim string, err error) {
	for _, m := range h.Members {
		m.Kill()
	}
	time.Sleep(3 * time.Second)
	for _, m := range h.Members {
		m.Start()
	}
	return h.ready()
}

func (h *happening) killed() (took, aim string, err error) {
	for _, a := range h.hosts {
		a.Kill()
	}
	return h.started()
}

func (h *happening) stopped() (took, aim string, err error) {
	for _, a := range h.hosts {
		status, err := a.Status()
		if err != nil {
			return "", "", err
		}
		a.MustRun("kill", "-TERM", strconv.Itoa(status.PID))
		h.Await(a.Host, "stopped", func(s lab.Status) bool { return s.State == "stopped" })
	}
	return h.started()
}

func (h *happening) started() (took, aim string, err error) {
	for _, a := range h.hosts {
		a.MustRun("rm", "/run/trestle/node/status.json") // it says what was
		a.Start()
	}
	return h.ready()
}

// repair is something that is taken away from under an agent, and what shows that it is
// there again.
type repair struct{ what, harm, shown string }

func repairs() []repair {
	return []repair{
		{"the route to a peer is deleted", "ip route del SUBNET", "ip route show SUBNET | grep -q trestle-vx"},
		{"the way to a peer's address is deleted", "bridge fdb del MAC dev trestle-vx", "bridge fdb show dev trestle-vx | grep -q MAC"},
		{"neighbours are flushed", "ip -6 neigh flush dev trestle-vx nud permanent", "ip -6 neigh show dev trestle-vx nud permanent | grep -q fe80"},
		{"the nftables table is deleted", "nft delete table inet trestle-node", "nft list set inet trestle-node peers4 | grep -q elements"},
		{"the device is deleted", "ip link del trestle-vx", "ip route show SUBNET | grep -q trestle-vx"},
		{"the device is set down", "ip link set trestle-vx down", "ip route show SUBNET | grep -q trestle-vx"},
	}
}

// repaired takes it away, and waits until it is there and traffic passes.
func (h *happening) repaired(r repair) (string, error) {
	a, b := h.hosts[0], h.hosts[1]
	status, err := b.Status()
	if err != nil {
		return "", err
	}
	subnet := status.Subnet(true).String()
	mac := strings.TrimSpace(b.MustRun("cat", "/sys/class/net/trestle-vx/address"))
	fill := strings.NewReplacer("SUBNET", subnet, "MAC", mac)
	a.MustRun("sh", "-c", fill.Replace(r.harm))
	began := time.Now()
	a.MustRun("timeout", strconv.Itoa(int(lab.Patience.Seconds())), "sh", "-c", "until "+fill.Replace(r.shown)+"; do :; done")
	took := time.Since(began)
	h.Reach(h.containers[0], h.containers[1])
	return fmt.Sprintf("| %s | | %s | 1000 |\n", r.what, ms(took)), nil
}

// leaderless kills the leader while a host joins.
func (h *happening) leaderless() (took, aim string, err error) {
	leader, err := h.leader(nil)
	if err != nil {
		return "", "", err
	}
	all, err := look([]*lab.Host{h.hosts[0].Host, h.hosts[1].Host})
	if err != nil {
		return "", "", err
	}
	c := h.Host("c")
	leader.Kill()
	h.Agent(c, h.Settings("c"))
	if _, err := h.leader(leader); err != nil {
		return "", "", err
	}
	began := time.Now()
	for _, l := range all {
		err = errors.Join(err, l.await(1))
		l.close()
	}
	return ms(time.Since(began)), ", 3000", err
}

// leader waits until the members, but for the one that is dead, have one.
func (h *happening) leader(dead *lab.Member) (*lab.Member, error) {
	client := h.Client()
	for deadline := time.Now().Add(lab.Patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, m := range h.Members {
			if m == dead {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := client.Status(ctx, m.URL)
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				return m, nil
			}
		}
	}
	return nil, errors.New("etcd has no leader")
}

// cutOff drops a host's packets to etcd until it notices. Meanwhile another joins, moves, and
// etcd forgets that history. The time is from when they pass again until the host knows where
// the other is; with the agent's usual settings.
func cutOff(t host.T) (string, error) {
	e := lab.New(t).Etcd(1)
	if err := e.Ctl("put", "/trestle/v1/default/config", lab.Config); err != nil {
		return "", err
	}
	usual := lab.Settings{"name": "a", "etcd": map[string]any{"endpoints": e.URLs()}}
	a := e.Agent(e.Host("a"), usual)
	e.Ready(a.Host, 0)
	a.MustRun("nft", "add table inet block; add chain inet block output { type filter hook output priority 0; }; add rule inet block output tcp dport 2379 drop")
	e.Await(a.Host, "disconnected", func(s lab.Status) bool { return !s.Store.Connected })
	b := e.Agent(e.Host("b"), e.Settings("b"))
	e.Ready(b.Host, 1)
	b.Address("del", b.IPv4, 24)
	moved := b.IPv4.Next()
	b.Address("add", moved, 24)
	b.DefaultRoutes()
	e.Eventually("b's new address is in etcd", func() error {
		records, err := e.Out("get", "--prefix", "/trestle/v1/default/nodes/")
		if err == nil && !strings.Contains(records, moved.String()) {
			err = errors.New(records)
		}
		return err
	})
	answer, err := e.Out("put", "/forgotten", "x", "-w", "json")
	if err != nil {
		return "", err
	}
	_, after, _ := strings.Cut(answer, `"revision":`)
	revision, _, _ := strings.Cut(after, ",")
	if err := e.Ctl("compact", revision); err != nil {
		return "", err
	}
	a.MustRun("nft", "delete", "table", "inet", "block")
	began := time.Now()
	e.Await(a.Host, "knows where b is", func(s lab.Status) bool {
		return len(s.Peers) == 1 && len(s.Peers[0].Underlay) > 0 && s.Peers[0].Underlay[0].Addr() == moved
	})
	return fmt.Sprintf("| packets to etcd are dropped until a host notices; another joins, moves, and etcd forgets that history: from when they pass | | %s | 10000 |\n",
		ms(time.Since(began))), nil
}
