package hosts

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// network is a lab with an etcd and hosts that are in a network, a container on each.
type network struct {
	*lab.Lab
	etcd       *lab.Etcd
	hosts      []*lab.Agent
	containers []*lab.Attached
}

func newNetwork(t *testing.T, members int, names ...string) *network {
	t.Helper()
	return newNetworkWith(t, func(s lab.Settings) lab.Settings { return s }, members, names...)
}

// patient is an agent that a machine which stands still for some seconds does not keep from its
// etcd: for who counts what is said where nothing happens.
func patient(s lab.Settings) lab.Settings {
	s["timeout"], s["alive"] = "10s", "15s"
	return s
}

func newNetworkWith(t *testing.T, settings func(lab.Settings) lab.Settings, members int, names ...string) *network {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Fatalf("etcd is missing (Debian: etcd-server and etcd-client): %v", err)
	}
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(members)
	n.init(t, lab.Config)
	for _, name := range names {
		n.hosts = append(n.hosts, n.Agent(n.Host(name), settings(n.etcd.Settings(name))))
	}
	for _, h := range n.hosts {
		n.Ready(h.Host, len(names)-1)
		n.containers = append(n.containers, n.Attach(h.Host, "c-"+h.Name))
	}
	return n
}

// init writes the configuration, as an administrator does.
func (n *network) init(t *testing.T, config string) {
	t.Helper()
	if err := n.etcd.Ctl("put", "/trestle/v1/default/config", config); err != nil {
		t.Fatal(err)
	}
}

func noneLost(t *testing.T, during string, p *lab.Pinger) {
	t.Helper()
	sent, lost := p.Lost()
	if lost > 0 || sent == 0 {
		t.Errorf("%s: %d of %d pings were lost", during, lost, sent)
	}
}

// TestEtcdDown (rows 1 to 3): with etcd away containers come and go and nothing is lost; a host
// that boots meanwhile has its subnet and its routes; and with etcd back it has the
// same subnet and MAC.
func TestEtcdDown(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	n.Reach(n.containers[0], n.containers[1])
	n.Reach(n.containers[1], n.containers[0])
	pings := n.Pings(n.containers[0], n.containers[1].Addresses[0])
	n.etcd.Members[0].Kill()
	before := n.Await(b.Host, "disconnected", func(s lab.Status) bool { return !s.Store.Connected && s.State == "ready" })
	if out := b.Node("node", "status"); !strings.Contains(out.Stdout, "not connected since ") {
		t.Errorf("status: got %v, want since when etcd is away", out)
	}
	extra := n.Attach(b.Host, "extra")
	n.Reach(n.containers[0], extra)
	if err := extra.Detach(b.MustRun("cat", "/etc/cni/net.d/10-pods.conflist")); err != nil {
		t.Errorf("etcd is down: DEL: %v", err)
	}
	noneLost(t, "etcd is down", pings)

	// a boot: all that the kernel had is gone, and the disk is there
	mac := b.MustRun("cat", "/sys/class/net/trestle-vx/address")
	reboot(b)
	n.Await(b.Host, "back without etcd", func(s lab.Status) bool { return s.PID != before.PID && len(s.Peers) == 1 && s.Peers[0].Way == "tunnel" })
	if got := b.MustRun("cat", "/sys/class/net/trestle-vx/address"); got != mac {
		t.Errorf("after a boot: got MAC %s, want %s", got, mac)
	}
	after := n.Await(b.Host, "ready without etcd", func(s lab.Status) bool { return s.State == "ready" && !s.Store.Connected })
	if after.Subnet(true) != before.Subnet(true) || after.Subnet(false) != before.Subnet(false) {
		t.Errorf("after a boot: got subnets %v, want %v", after.Subnets, before.Subnets)
	}
	again := n.Attach(b.Host, "again")
	n.Reach(n.containers[0], again)

	n.etcd.Members[0].Start()
	after = n.Ready(b.Host, 1)
	if after.Subnet(true) != before.Subnet(true) || len(after.Lost) > 0 {
		t.Errorf("with etcd back: got subnets %v, want %v", after.Subnets, before.Subnets)
	}
	n.Ready(a.Host, 1)
	entries := a.MustRun("bridge", "fdb", "show", "dev", "trestle-vx")
	if strings.Count(entries, "\n") != 1 {
		t.Errorf("got forwarding entries %s, want one", entries)
	}

	reboot(b) // with etcd there
	booted := n.Await(b.Host, "back with etcd", func(s lab.Status) bool {
		return s.PID != after.PID && s.State == "ready" && s.Store.Connected && len(s.Peers) == 1
	})
	if booted.Subnet(true) != before.Subnet(true) || booted.Subnet(false) != before.Subnet(false) {
		t.Errorf("after a boot with etcd: got subnets %v, want %v", booted.Subnets, before.Subnets)
	}
	if got := b.MustRun("cat", "/sys/class/net/trestle-vx/address"); got != mac {
		t.Errorf("after a boot with etcd: got MAC %s, want %s", got, mac)
	}
	n.Reach(n.containers[0], n.Attach(b.Host, "once-more"))
	if got := a.MustRun("bridge", "fdb", "show", "dev", "trestle-vx"); got != entries {
		t.Errorf("after a boot with etcd: got forwarding entries %s, want %s", got, entries)
	}
}

// reboot does to a host what a boot does, but for its uplink.
func reboot(a *lab.Agent) {
	a.Kill()
	a.MustRun("sh", "-c", "ip link del trestle-vx; ip link del tn-pods; nft flush ruleset; ip route flush proto 116; ip -6 route flush proto 116; rm -rf /run/trestle /etc/cni/net.d/* /run/cni; true")
	a.Start()
}
