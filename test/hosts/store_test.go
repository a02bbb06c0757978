package hosts

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

const prefix = "/trestle/v1/default/"

// routes are a host's to the others, of both families.
func routes(h *lab.Host) string {
	return h.MustRun("sh", "-c", "ip route show proto 116; ip -6 route show proto 116")
}

// TestWiped (row 11): a store that has lost everything takes nothing from anybody; nobody
// gets a subnet until it is restored from a host and the administrator says so.
func TestWiped(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	before := routes(a.Host)
	reserved := n.free(0).String()
	if out := a.Node("cluster", "reserve", "pods", reserved, "--why", "mine"); out.Code != 0 {
		t.Fatal(out)
	}
	a.Kill()
	a.Start() // it looks at all claims when it connects
	n.Await(a.Host, "connected again", func(s lab.Status) bool { return s.Store.Connected && s.State == "ready" })
	pings := n.Pings(n.containers[0], n.containers[1].Addresses[0])
	if err := n.etcd.Ctl("del", "--prefix", "/trestle/"); err != nil {
		t.Fatal(err)
	}
	for _, h := range n.hosts {
		n.Await(h.Host, "suspect", func(s lab.Status) bool { return s.State == "suspect" && len(s.Peers) == 1 })
	}
	joiner := n.Agent(n.Host("j"), n.etcd.Settings("j"))
	n.Await(joiner.Host, "no configuration", func(s lab.Status) bool { return strings.Contains(s.Store.Error, "no configuration of this cluster") })
	if out := a.Node("cluster", "restore"); out.Code != 0 || !strings.Contains(out.Stdout, reserved+" of pods was reserved (mine), and is not any more") {
		t.Fatalf("got %v, want what is not reserved any more", out)
	}
	for _, h := range n.hosts {
		n.Ready(h.Host, 1)
	}
	n.Await(joiner.Host, "frozen", func(s lab.Status) bool { return strings.Contains(s.Store.Error, "no subnets are given") })
	if got := routes(a.Host); got != before {
		t.Errorf("got routes\n%s\nwant\n%s", got, before)
	}
	if out := b.Node("cluster", "accept"); out.Code != 0 {
		t.Fatal(out)
	}
	s := n.Ready(joiner.Host, 2)
	for _, h := range n.hosts {
		other := n.Ready(h.Host, 2)
		if other.Subnet(true) == s.Subnet(true) || other.Subnet(false) == s.Subnet(false) {
			t.Errorf("the joiner has %v, and %s %v", s.Subnets, h.Name, other.Subnets)
		}
	}
	noneLost(t, "etcd is wiped and restored", pings)
}

// TestOldBackup (row 11): an etcd restored from before a host joined is noticed; the host
// that it does not know claims its subnets again, and no route goes.
func TestOldBackup(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a")
	a, m := n.hosts[0], n.etcd.Members[0]
	const snapshot = "/var/lib/etcd-test/snapshot"
	if err := n.etcd.Ctl("snapshot", "save", snapshot); err != nil {
		t.Fatal(err)
	}
	b := n.Agent(n.Host("b"), n.etcd.Settings("b"))
	had := n.Ready(b.Host, 1)
	n.Ready(a.Host, 1)
	atB := n.Attach(b.Host, "at-b")
	n.Reach(n.containers[0], atB)
	pings := n.Pings(n.containers[0], atB.Addresses[0])
	m.Kill()
	n.Switch.MustRun("rm", "-rf", "/var/lib/etcd-test/m0")
	if err := n.etcd.Ctl("snapshot", "restore", snapshot, "--name", "m0", "--data-dir", "/var/lib/etcd-test/m0",
		"--initial-cluster", "m0=http://203.0.113.2:2380", "--initial-advertise-peer-urls", "http://203.0.113.2:2380"); err != nil {
		t.Fatal(err)
	}
	m.Start()
	// noticed, and healed by those who were forgotten; what is frozen stays so
	n.Eventually("noticed", func() error {
		frozen, err := n.etcd.Out("get", prefix+"frozen")
		if err == nil && !strings.Contains(frozen, "the store") {
			err = fmt.Errorf("got %q", frozen)
		}
		return err
	})
	s := n.Ready(b.Host, 1)
	n.Ready(a.Host, 1)
	if s.Subnet(true) != had.Subnet(true) || s.Subnet(false) != had.Subnet(false) || len(s.Lost) > 0 {
		t.Errorf("got %v, lost %v, want %v", s.Subnets, s.Lost, had.Subnets)
	}
	claims, err := n.etcd.Out("get", "--prefix", prefix+"claims/")
	if err != nil || strings.Count(claims, s.ID) != 2 {
		t.Errorf("got claims %s, %v, want b's again", claims, err)
	}
	noneLost(t, "etcd is restored from an old backup", pings)
}

// record is the record of a host that there is none of.
func (n *network) record(name string, i int, more string) string {
	return fmt.Sprintf(`{"id": "%s", "name": "%[1]s", "underlay": ["203.0.113.%d/24"], "mtu": 1500, "mac": "02:00:00:00:01:%02x",
		"subnets": [{"network": "pods", "subnet": "%s", "nonce": "x"}]%s}`, name, 100+i, i, n.free(i), more)
}

// free is the i-th of the subnets that none of the hosts has: theirs are chosen at random.
func (n *network) free(i int) netip.Prefix {
	taken := map[netip.Prefix]bool{}
	for _, c := range n.containers {
		taken[netip.PrefixFrom(c.Addresses[0], 24).Masked()] = true
	}
	for third := byte(200); ; third++ {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 40, third, 0}), 24)
		if taken[subnet] {
			continue
		}
		if i--; i < 0 {
			return subnet
		}
	}
}

// TestRecords (rows 10 and 12): records that cannot be read, or are newer than this
// release, and records deleted by mistake take no route away; half of them gone is an alarm.
func TestRecords(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a := n.hosts[0]
	put := func(key, value string) {
		if err := n.etcd.Ctl("put", prefix+key, value); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		more := ""
		if i == 0 {
			more = `, "v": 7, "wireguard": {"key": "later"}`
		}
		name := fmt.Sprint("ghost", i)
		put("nodes/"+name, n.record(name, i, more))
	}
	n.Ready(a.Host, 5)
	before := routes(a.Host)
	put("nodes/ghost0", `{"id": `)
	put("nodes/ghost9", `[]`)
	n.Await(a.Host, "both are named", func(s lab.Status) bool {
		return len(s.Peers) == 5 && strings.Contains(strings.Join(s.Problems, "\n"), "ghost0") && strings.Contains(strings.Join(s.Problems, "\n"), "ghost9")
	})
	if out := a.Node("cluster", "nodes", "--json"); !strings.Contains(out.Stdout, `"id": "ghost9"`) || strings.Count(out.Stdout, `"error"`) != 2 || strings.Count(out.Stdout, `"up": true`) != 2 {
		t.Errorf("nodes: got %v, want all, two of them with an error, and two up", out)
	}
	if out := a.Node("cluster", "nodes"); !strings.Contains(out.Stdout, "the record of node ghost9 cannot be read: ") {
		t.Errorf("nodes: got %v, want ghost9's error", out)
	}
	// one record, of a host that lives, comes back by itself
	b, err := n.hosts[1].Status()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.etcd.Ctl("del", prefix+"nodes/"+b.ID); err != nil {
		t.Fatal(err)
	}
	n.Eventually("b publishes its record again", func() error {
		got, err := n.etcd.Out("get", prefix+"nodes/"+b.ID)
		if err == nil && got == "" {
			err = fmt.Errorf("it is gone")
		}
		return err
	})
	if got := routes(a.Host); got != before {
		t.Errorf("got routes\n%s\nwant\n%s", got, before)
	}
	if _, err := n.etcd.Out("del", "--prefix", prefix+"nodes/ghost"); err != nil {
		t.Fatal(err)
	}
	n.Await(a.Host, "suspect", func(s lab.Status) bool {
		return s.State == "suspect" && len(s.Peers) == 5 && strings.Contains(s.Why, "peers are gone")
	})
	if got := routes(a.Host); got != before {
		t.Errorf("suspect: got routes\n%s\nwant\n%s", got, before)
	}
	if out := a.Node("node", "accept"); out.Code != 0 || !strings.Contains(out.Stdout, "accepted; peers that are gone: 4, that are left: 1") {
		t.Errorf("accept: got %v", out)
	}
	n.Ready(a.Host, 1)
	log := a.Kill()
	if strings.Count(log, "record of node ghost9 cannot be read") != 1 {
		t.Errorf("got log\n%s\nwant one line about ghost9", log)
	}
}

// TestMoved (rows 9 and 19): a host's address changes. It keeps its subnets, and the others
// follow; also one that was cut off from etcd, whose history is compacted meanwhile.
func TestMoved(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b", "c")
	a, b, c := n.hosts[0], n.hosts[1], n.hosts[2]
	had, err := b.Status()
	if err != nil {
		t.Fatal(err)
	}
	block(c)
	n.Await(c.Host, "disconnected", disconnected)
	b.Address("del", b.IPv4, 24)
	b.IPv4 = b.IPv4.Next().Next().Next().Next()
	b.Address("add", b.IPv4, 24)
	b.DefaultRoutes()
	follows := func(s lab.Status) bool {
		for _, p := range s.Peers {
			if p.Name == "b" {
				return len(p.Underlay) > 0 && p.Underlay[0].Addr() == b.IPv4
			}
		}
		return false
	}
	n.Await(a.Host, "follows b", follows)
	s := n.Ready(b.Host, 2)
	if s.Subnet(true) != had.Subnet(true) {
		t.Errorf("got subnets %v, want %v", s.Subnets, had.Subnets)
	}
	n.Reach(n.containers[0], n.containers[1])
	n.Reach(n.containers[1], n.containers[0])
	n.compact(t, "put", prefix+"alive/nobody", "x")
	unblock(c)
	n.Await(c.Host, "follows b", follows)
	n.Reach(n.containers[2], n.containers[1])

	// away and back
	b.MustRun("ip", "link", "set", "eth0", "down")
	b.MustRun("ip", "link", "set", "eth0", "up")
	b.MustRun("ip", "address", "replace", b.IPv6.String()+"/64", "dev", "eth0", "nodad")
	b.DefaultRoutes()
	n.Reach(n.containers[1], n.containers[0])
	n.Reach(n.containers[0], n.containers[1])
}

// compact deletes the history of etcd, up to this change of it.
func (n *network) compact(t *testing.T, change ...string) {
	t.Helper()
	revision, err := n.etcd.Out(append(change, "-w", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(revision, `"revision":`)
	number, _, _ := strings.Cut(after, ",")
	if err := n.etcd.Ctl("compact", number); err != nil {
		t.Fatal(err)
	}
}

// TestNoSpace: an etcd whose space is used up takes no sign of life. It is followed all the same,
// without a new session and two lines of the log each second, and the host says why it counts as
// down.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1, "--quota-backend-bytes", "4194304")
	n.init(t, lab.Config)
	a := n.Agent(n.Host("a"), n.etcd.Settings("a"))
	n.Ready(a.Host, 0)
	n.Eventually("etcd is full", func() error {
		if err := n.etcd.Ctl("put", fmt.Sprint("fill", time.Now().UnixNano()), strings.Repeat("x", 100_000)); err == nil {
			return errors.New("it took more")
		}
		return nil
	})
	a.Kill()
	n.Eventually("the last sign of life is over", func() error {
		got, err := n.etcd.Out("get", "--prefix", "--keys-only", prefix+"alive/")
		if err == nil && got != "" {
			err = errors.New(got)
		}
		return err
	})
	a.Start()
	const down = "this host counts as down, since the store takes no sign of life from it"
	n.Await(a.Host, "it is named", func(s lab.Status) bool {
		return s.State == "ready" && s.Store.Connected && strings.Contains(strings.Join(s.Problems, "\n"), down)
	})
	n.looks(a, 3)
	if log := a.Kill(); strings.Count(log, "connected") > 1 || strings.Count(log, down) != 1 {
		t.Errorf("got log\n%s\nwant one session, and the problem once", log)
	}
	a.Start()
	n.Await(a.Host, "it is named again", func(s lab.Status) bool { return strings.Contains(strings.Join(s.Problems, "\n"), down) })
	n.compact(t, "del", "--prefix", "fill") // its history counts as well, until it is gone from the file
	for _, args := range [][]string{{"defrag"}, {"alarm", "disarm"}} {
		if err := n.etcd.Ctl(args...); err != nil {
			t.Fatal(err)
		}
	}
	n.Await(a.Host, "it gives a sign of life again", func(s lab.Status) bool { return s.Store.Connected && len(s.Problems) == 0 })
}
