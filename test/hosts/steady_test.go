package hosts

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// asked is how many transactions etcd was asked for, as it counts them.
func (n *network) asked(t *testing.T) int {
	t.Helper()
	total := -1
	err := n.Switch.Do(func() error {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(n.etcd.URLs()[0], "http://"), lab.Patience)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // all is read
		if _, err := conn.Write([]byte("GET /metrics HTTP/1.0\r\n\r\n")); err != nil {
			return err
		}
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			if line := lines.Text(); strings.HasPrefix(line, `grpc_server_started_total{grpc_method="Txn"`) {
				total, err = strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
				return err
			}
		}
		return lines.Err()
	})
	if err != nil || total < 0 {
		t.Fatalf("etcd's metrics: %v, %d", err, total)
	}
	return total
}

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
	n := newNetwork(t, 1, "a", "b")
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

	revision, asked, began := n.revision(t), n.asked(t), time.Now()
	n.looks(a, 4)
	if got := n.revision(t); got != revision {
		t.Errorf("etcd was written to: revision %s, it was %s", got, revision)
	}
	beats := 2 * (1 + int(time.Since(began)/(2*time.Second*4/5))) // of both; each is two seconds, or a fifth less
	const life = 2                                                // each may look for signs of life, which it does at every tenth
	if got := n.asked(t) - asked; got > beats+life {
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
		n.Eventually(fmt.Sprint("reached, made by the reference plugins: ", addr), func() error { return n.containers[0].Ping(addr.Unmap()) })
	}
	if err := list.Del(c.Attachment()); err != nil {
		t.Errorf("DEL by the reference plugins: %v", err)
	}
}
