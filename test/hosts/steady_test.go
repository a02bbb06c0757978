package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// revision is the one of the last write.
func (n *network) revision(t *testing.T) string {
	t.Helper()
	out, err := n.etcd.Out("get", prefix+"config", "-w", "json")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(out, `"revision":`)
	number, _, _ := strings.Cut(after, ",")
	return number
}

// TestSteady: where nothing happens nothing is written, so that nobody is told anything, and each
// heartbeat asks one question. Containers see each other's own addresses. An agent that is
// stopped takes nothing along; one that is started tells systemd when the runtime has its list.
func TestSteady(t *testing.T) {
	t.Parallel()
	n := newNetworkWith(t, patient, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	for _, addr := range n.containers[1].Addresses {
		n.Reach(n.containers[0], n.containers[1])
		server := netip.AddrPortFrom(addr, 8000).String()
		n.containers[1].Serve("tcp", server)
		reply, err := n.containers[0].Request("tcp", server)
		own := n.containers[0].Addresses[0]
		if addr.Is6() {
			own = n.containers[0].Addresses[1]
		}
		if err != nil || reply.Seen.Addr() != own {
			t.Errorf("%s saw %v, %v, want %s itself", addr, reply.Seen, err, own)
		}
	}

	revision, began := n.revision(t), time.Now()
	asked, alive, told := n.etcd.Metric(lab.Transactions), n.etcd.Metric(lab.KeepAlives), n.etcd.Metric(lab.Told)
	n.looks(a, 4)
	if got := n.revision(t); got != revision {
		t.Errorf("etcd was written to: revision %s, it was %s", got, revision)
	}
	if got := n.etcd.Metric(lab.Told) - told; got != 0 {
		t.Errorf("etcd said %d times that something has changed", got)
	}
	if got, most := n.etcd.Metric(lab.KeepAlives)-alive, 2*(1+int(time.Since(began)/(5*time.Second))); alive == 0 || got > most { // each says so thrice in the 15 seconds that it lasts
		t.Errorf("got %d signs of life, of %d before, want %d at most", got, alive, most)
	}
	const life = 2 // each may look for signs of life, which it does at every tenth
	got := n.etcd.Metric(lab.Transactions) - asked
	beats := 2 * (1 + int(time.Since(began)/(2*time.Second*4/5))) // of both; each is two seconds, or a fifth less
	if asked == 0 || got > beats+life {
		t.Errorf("got %d transactions in %d heartbeats, want one each, and %d more", got, beats, life)
	}

	shown := func() string {
		return routes(a.Host) + a.MustRun("sh", "-c", "bridge fdb show dev trestle-vx; nft list table inet trestle-node | sed 's/packets [0-9]* bytes [0-9]*//'; cat /etc/cni/net.d/10-pods.conflist")
	}
	before := shown()
	pings := n.Pings(n.containers[1], n.containers[0].Addresses[0])
	s, err := a.Status()
	if err != nil {
		t.Fatal(err)
	}
	a.MustRun("kill", "-TERM", strconv.Itoa(s.PID))
	n.Await(a.Host, "stopped", func(s lab.Status) bool { return s.State == "stopped" })
	if diff := host.Diff(before, shown()); diff != "" {
		t.Errorf("stopped: %s", diff)
	}
	if got := notified(t, a); got != "READY=1" {
		t.Errorf("systemd was told %q, want READY=1", got)
	}
	n.Ready(a.Host, 1)
	noneLost(t, "an agent is stopped and started", pings)
	n.withReference(t, b)
}

// notified starts the agent as systemd does, and gives what it says.
func notified(t *testing.T, a *lab.Agent) string {
	t.Helper()
	a.MustRun("rm", "/etc/cni/net.d/10-pods.conflist")
	var socket *net.UnixConn
	err := a.Do(func() (err error) {
		socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/run/notify", Net: "unixgram"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }() // one message is all
	a.Host.Start(host.Command{Args: []string{a.Dirs().Trestle + "/trestle-node", "node", "run"}, Env: []string{"NOTIFY_SOCKET=/run/notify"}})
	if err := socket.SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 64)
	length, err := socket.Read(message)
	if err != nil {
		t.Fatal(err)
	}
	if list := a.MustRun("ls", "/etc/cni/net.d"); !strings.Contains(list, "10-pods.conflist") {
		t.Errorf("systemd was told before the runtime had its list: %q", list)
	}
	return string(message[:length])
}

// withReference: the list is one that the reference plugins can run, too.
func (n *network) withReference(t *testing.T, b *lab.Agent) {
	t.Helper()
	list := b.Network(b.MustRun("cat", "/etc/cni/net.d/10-pods.conflist"))
	list.Path = []string{b.Dirs().Reference}
	c := b.Container("by-reference")
	result, err := list.Add(c.Attachment())
	if err != nil {
		t.Errorf("the list by the reference plugins: %v", err)
		return
	}
	for _, ip := range result.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP) // an address
		n.Eventually(fmt.Sprint("reached, made by the reference plugins: ", addr), func() error { return n.containers[0].Briefly().Ping(addr.Unmap()) })
	}
	if err := list.Del(c.Attachment()); err != nil {
		t.Errorf("DEL by the reference plugins: %v", err)
	}
}

// TestMinAgent: hosts that are too old for their cluster keep what they have, follow the others,
// and say so; nobody joins with such an agent, and nobody asks by mistake for one that there is not.
func TestMinAgent(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	before := routes(a.Host)
	newer := strings.Replace(lab.Config, `"id": "lab"`, `"id": "lab", "minAgent": "99.0.0"`, 1)
	a.Write("/run/newer", newer)
	const tooOld = "it asks for 99.0.0 or newer"
	if out := a.Node("cluster", "config", "set", "/run/newer"); out.Code == 0 || !strings.Contains(out.Stderr, tooOld) {
		t.Errorf("set by one that is older: got %v, want it refused", out)
	}
	n.init(t, newer)
	for _, h := range n.hosts {
		n.Await(h.Host, "outdated", func(s lab.Status) bool {
			return s.State == "outdated" && s.Store.Connected && len(s.Subnets) == 2 && len(s.Peers) == 1 && strings.Contains(s.Why, "upgrade trestle-node")
		})
	}
	if out := a.Node("node", "status"); out.Code == 0 || !strings.Contains(out.Stdout, tooOld) {
		t.Errorf("status: got %v, want exit status 1, and what is asked for", out)
	}
	join := []string{"node", "join", "--etcd", strings.Join(n.etcd.URLs(), ","), "--name", "j"}
	if out := n.Host("j").Node(join...); out.Code == 0 || !strings.Contains(out.Stderr, tooOld) {
		t.Errorf("join: got %v, want it refused", out)
	}
	if got := routes(a.Host); got != before {
		t.Errorf("got routes\n%s\nwant\n%s", got, before)
	}
	n.Reach(n.Attach(a.Host, "another"), n.containers[1])
	if err := n.etcd.Ctl("put", prefix+"nodes/ghost", n.record("ghost", 1, "")); err != nil {
		t.Fatal(err)
	}
	n.Await(a.Host, "who comes is followed", func(s lab.Status) bool { return len(s.Peers) == 2 && s.Peers[1].Way == "tunnel" })
	// what changes on the host is told when it may be
	b.MustRun("ip", "link", "set", "eth0", "mtu", "1400")
	n.Await(b.Host, "its own MTU", func(s lab.Status) bool { return s.MTU == 1350 })
	if s, err := a.Status(); err != nil || s.MTU != 1450 {
		t.Errorf("got MTU %d, %v, want 1450: b publishes nothing", s.MTU, err)
	}
	n.init(t, lab.Config)
	n.Ready(b.Host, 2)
	n.Await(a.Host, "ready, and told of b's MTU", func(s lab.Status) bool { return s.State == "ready" && s.MTU == 1350 })
}

// TestLinesForChanges: peers that come, move and leave are a line of the log each, at the most.
func TestLinesForChanges(t *testing.T) {
	t.Parallel()
	n := newNetworkWith(t, patient, 1, "a")
	a, store := n.hosts[0], n.etcd.Store()
	const peers, atStart = 6, 4
	joined, err := store.Join(peers, false)
	if err != nil {
		t.Fatal(err)
	}
	n.Ready(a.Host, peers)
	for i, m := range joined.Hosts {
		if err := m.Reconcile(t.Context(), store, lab.Record(256+i)); err != nil {
			t.Fatal(err)
		}
		n.Await(a.Host, "it has moved", func(s lab.Status) bool {
			return slices.ContainsFunc(s.Peers, func(p lab.Peer) bool { return p.Underlay[0] == lab.Record(256 + i).Underlay[0] })
		})
	}
	for i, m := range joined.Hosts {
		if err := errors.Join(m.BeginLeave(), m.Leave(t.Context(), store)); err != nil {
			t.Fatal(err)
		}
		n.Await(a.Host, "it is gone", func(s lab.Status) bool { return len(s.Peers) == peers-1-i })
	}
	if log := a.Kill(); strings.Count(log, "\n") > 3*peers+atStart {
		t.Errorf("got %d lines for %d changes:\n%s", strings.Count(log, "\n"), 3*peers, log)
	}
}

// TestWritesForChanges: a change of a peer costs one write of the state, before it is acted
// upon, and one of the status, which is long where there are many peers.
func TestWritesForChanges(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	e := l.Etcd(1)
	if err := e.Ctl("put", prefix+"config", lab.Config); err != nil {
		t.Fatal(err)
	}
	h := l.Host("a")
	settings, err := json.Marshal(patient(slow(e.Settings("a"))))
	if err != nil {
		t.Fatal(err)
	}
	h.Write("/etc/trestle/node.json", string(settings))
	const trace = "/run/renames"
	stop := h.Start(host.Command{Args: []string{"strace", "-f", "-qq", "-o", trace, "-e", "trace=renameat", h.Dirs().Trestle + "/trestle-node", "node", "run"}})
	defer stop()
	l.Ready(h, 0)
	writes := func(file string) int { return strings.Count(h.MustRun("cat", trace), file+`"`) }
	store, changes := e.Store(), 0
	joined, err := store.Join(1, false)
	if err != nil {
		t.Fatal(err)
	}
	l.Ready(h, 1)
	states, statuses := writes(nodeDir+"state.json"), writes("node/status.json")
	for ; changes < 6; changes++ {
		if err := joined.Hosts[0].Reconcile(t.Context(), store, lab.Record(256+changes)); err != nil {
			t.Fatal(err)
		}
		l.Await(h, "it has moved", func(s lab.Status) bool { return s.Peers[0].Underlay[0] == lab.Record(256 + changes).Underlay[0] })
	}
	n := &network{Lab: l}
	n.Eventually("strace has told of the last one", func() error { // which it does some time after it
		if got := writes("node/status.json") - statuses; got < changes {
			return fmt.Errorf("got %d writes of the status", got)
		}
		return nil
	})
	if got := writes(nodeDir+"state.json") - states; got != changes {
		t.Errorf("%d changes: got %d writes of the state, want one each", changes, got)
	}
	if got := writes("node/status.json") - statuses; got > changes+2 { // 2: of what was before
		t.Errorf("%d changes: got %d writes of the status, want one each", changes, got)
	}
}
