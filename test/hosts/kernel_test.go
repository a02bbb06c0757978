package hosts

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/host"
	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// slow is an agent that would look at everything after an hour: what it repairs it
// was told of.
func slow(s lab.Settings) lab.Settings {
	s["audit"], s["heartbeat"] = "1h", "1h"
	return s
}

// TestRepair (rows 17 and 18): whatever is taken away from under it an agent makes
// again, as soon as the kernel says so, and counts it; others' settings it names.
func TestRepair(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1)
	n.init(t, lab.Config)
	for _, name := range []string{"a", "b"} {
		n.hosts = append(n.hosts, n.Agent(n.Host(name), slow(n.etcd.Settings(name))))
	}
	a, b := n.hosts[0], n.hosts[1]
	n.Ready(a.Host, 1)
	peer := n.Ready(b.Host, 1)
	atA, atB := n.Attach(a.Host, "at-a"), n.Attach(b.Host, "at-b")
	n.Reach(atA, atB)
	shown := func() string {
		return routes(a.Host) + a.MustRun("sh", "-c", "bridge fdb show dev trestle-vx; ip -6 neigh show dev trestle-vx nud permanent; nft list table inet trestle-node | sed 's/packets [0-9]* bytes [0-9]*//'; ip -br -4 address show dev trestle-vx;"+
			"ip -d link show dev trestle-vx | grep -o 'trestle-vx.*mtu [0-9]*\\|master [^ ]*\\|vxlan id.*'; sysctl net.ipv4.conf.trestle-vx.forwarding net.ipv6.conf.trestle-vx.disable_ipv6; true")
	}
	before := shown()
	repairs := 0
	for _, harm := range []string{
		"ip route del " + peer.Subnet(true).String(),
		"ip -6 route del " + peer.Subnet(false).String(),
		"ip route del unreachable 10.40.0.0/16",
		"bridge fdb del $(bridge fdb show dev trestle-vx | cut -d' ' -f1,2,3,4,5 | sed 's/ dst.*//' | awk '{print $1}') dev trestle-vx",
		"ip -6 neigh flush dev trestle-vx nud permanent",
		"nft delete table inet trestle-node",
		"nft flush set inet trestle-node peers4",
		"nft flush chain inet trestle-node input",
		"ip link del trestle-vx",
		"ip link set trestle-vx down",
		// kernels before 6.2 rename only what is down, and the agent soon has it up again
		`timeout 30 sh -c "until printf 'link set trestle-vx down\nlink set trestle-vx name vxlan9\n' | ip -batch -; do sleep 0.1; done"`,
		"ip link add br9 type bridge; ip link set trestle-vx master br9",
		"ip link set trestle-vx type vxlan learning; ip link set trestle-vx mtu 1400",
		"sysctl -qw net.ipv4.conf.trestle-vx.forwarding=0",
		"sysctl -qw net.ipv6.conf.trestle-vx.disable_ipv6=1",
		"ip route replace blackhole " + peer.Subnet(true).String() + " proto 116",
		"ip route replace " + peer.Subnet(true).String() + " via 203.0.113.1; sleep 0.3; ip route del " + peer.Subnet(true).String() + " via 203.0.113.1",
	} {
		a.MustRun("sh", "-c", harm)
		n.Eventually("repaired: "+harm, func() error {
			if diff := host.Diff(before, shown()); diff != "" {
				return fmt.Errorf("%s", diff)
			}
			return nil
		})
		s := n.Await(a.Host, "it is counted", func(s lab.Status) bool { return s.Repairs > repairs })
		repairs = s.Repairs
		n.Reach(atA, atB)
	}
	for _, forward := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		a.MustRun("sysctl", "-qw", forward+"=0")
		n.Eventually(forward+" is on again", func() error {
			if got := a.MustRun("sysctl", "-n", forward); got != "1\n" {
				return fmt.Errorf("got %s", got)
			}
			return nil
		})
	}
	// strict rp_filter lets everything through, since the way there is the way back
	a.MustRun("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
	n.Reach(atB, atA)
	n.check(a.Host, 0, "b: fine, by tunnel")
	a.MustRun("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
	if out := a.Node("cluster", "check"); out.Code == 0 || !strings.Contains(out.Stdout, "chain FORWARD of table ip filter drops") {
		t.Errorf("check with FORWARD dropping: got %v", out)
	}
}

// TestForeign (rows 21 to 23): what is somebody else's is named, with the way out, and stays.
func TestForeign(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a := n.hosts[0]
	peer, err := n.hosts[1].Status()
	if err != nil {
		t.Fatal(err)
	}
	j := n.Host("j")
	join := []string{"node", "join", "--etcd", strings.Join(n.etcd.URLs(), ","), "--name", "j"}
	for _, test := range []struct{ name, make, want, undo string }{
		{"an address", "ip address add 10.40.9.1/24 dev lo", "pool 10.40.0.0/16 of network pods overlaps the address 10.40.9.1/24 of lo", "ip address del 10.40.9.1/24 dev lo"},
		{"a route", "ip route add 10.40.128.0/17 via 203.0.113.1", "overlaps the route 10.40.128.0/17 of eth0", "ip route del 10.40.128.0/17"},
		{
			"a list", `mkdir -p /etc/cni/net.d; echo '{"name": "other", "plugins": [{"type": "bridge", "ipam": {"ranges": [[{"subnet": "fd40:0:0:7::/64"}]]}}]}' >/etc/cni/net.d/20-other.conflist`,
			"pool fd40::/48 overlaps subnet fd40:0:0:7::/64 of /etc/cni/net.d/20-other.conflist", "rm /etc/cni/net.d/20-other.conflist",
		},
	} {
		j.MustRun("sh", "-c", test.make)
		if out := j.Node(join...); out.Code == 0 || !strings.Contains(out.Stderr, test.want) {
			t.Errorf("%s: got %v, want %q", test.name, out, test.want)
		}
		if out, err := j.Run(host.Command{Args: []string{"ls", "/etc/trestle/node.json"}}); err != nil || out.Code == 0 {
			t.Errorf("%s: refused, and node.json was written", test.name)
		}
		j.MustRun("sh", "-c", test.undo)
	}
	j.MustRun("ip", "link", "add", "flannel.1", "type", "vxlan", "id", "7243", "dstport", "8473", "dev", "eth0", "nolearning")
	agent := n.Agent(j, n.etcd.Settings("j"))
	n.Await(j, "the device is named", func(s lab.Status) bool {
		return strings.Contains(strings.Join(s.Problems, "\n"), "flannel.1 has VNI 7243 on port 8473; set another vni or port")
	})
	j.MustRun("ip", "link", "del", "flannel.1")
	n.Ready(j, 2)
	n.Reach(n.Attach(j, "at-j"), n.containers[0])
	agent.Kill()

	other := peer.Subnet(true).String()
	a.MustRun("sh", "-c", "ip route del "+other+"; ip route replace "+other+" via 203.0.113.1 proto static")
	n.Await(a.Host, "the route is named", func(s lab.Status) bool {
		return strings.Contains(strings.Join(s.Problems, "\n"), "the route to "+other+" is of protocol static, and stays")
	})
	if got := a.MustRun("ip", "route", "show", other, "proto", "static"); got == "" {
		t.Errorf("the static route to %s is gone", other)
	}
	a.MustRun("ip", "route", "del", other, "proto", "static")
	n.Reach(n.containers[0], n.containers[1])
}

// TestMTU (row 20): an uplink that takes less than the others is known to all; a packet that may not be
// fragmented is answered with the right size, TCP passes, and the containers that were there
// before are counted.
func TestMTU(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	if s := n.Ready(a.Host, 1); s.MTU != 1450 {
		t.Errorf("got MTU %d, want 1450", s.MTU)
	}
	b.MustRun("ip", "link", "set", "eth0", "mtu", "1400")
	for _, h := range n.hosts {
		n.Await(h.Host, "MTU 1350", func(s lab.Status) bool { return s.MTU == 1350 })
		n.Eventually("the list says so", func() error {
			if list := h.MustRun("cat", "/etc/cni/net.d/10-pods.conflist"); !strings.Contains(list, `"mtu": 1350`) {
				return fmt.Errorf("got %s", list)
			}
			return nil
		})
	}
	for _, h := range n.hosts {
		n.Await(h.Host, "a container of before", func(s lab.Status) bool {
			return strings.Contains(strings.Join(s.Problems, "\n"), "containers on tn-pods with a larger MTU than 1350, the largest that all hosts take now: 1")
		})
	}
	for _, addr := range n.containers[1].Addresses {
		transfer(t, n.containers[0], n.containers[1], addr)
	}
	to := n.containers[1].Addresses[0].String()
	n.Eventually("told the right MTU", func() error {
		out, err := n.containers[0].Run(host.Command{Args: []string{"ping", "-n", "-c1", "-W2", "-M", "do", "-s", "1400", to}})
		if err == nil && !strings.Contains(out.Stdout+out.Stderr, "1350") {
			err = fmt.Errorf("got %s%s", out.Stdout, out.Stderr)
		}
		return err
	})
	n.containers[0].MustRun("ping", "-n", "-c1", "-W30", "-M", "do", "-s", "1322", to)
}

// transfer sends a megabyte by TCP.
func transfer(t *testing.T, from, to *lab.Attached, addr netip.Addr) {
	t.Helper()
	const size = 1 << 20
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(addr, 7000).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // one connection is all
	received := make(chan int64, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			received <- -1
			return
		}
		_ = conn.SetDeadline(time.Now().Add(lab.Patience))
		n, _ := io.Copy(io.Discard, conn)
		received <- n
	}()
	err = from.Do(func() error {
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, 7000).String(), lab.Patience)
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(lab.Patience))
		_, err = conn.Write(make([]byte, size))
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		t.Errorf("send to %s by TCP: %v", addr, err)
		return
	}
	if got := <-received; got != size {
		t.Errorf("%s: received %d bytes by TCP, want %d", addr, got, size)
	}
}

// TestStrangers (row 28): VXLAN from who is no peer is dropped, and counted.
func TestStrangers(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a := n.hosts[0]
	n.Reach(n.containers[1], n.containers[0])
	if s, err := a.Status(); err != nil || s.StrangersDropped != 0 {
		t.Fatalf("got %d dropped, %v, before anybody sent anything", s.StrangersDropped, err)
	}
	// a stranger knows everything but that it is none of the peers
	mac := strings.TrimSpace(a.MustRun("cat", "/sys/class/net/trestle-vx/address"))
	n.Switch.MustRun("sh", "-c", "ip link add evil type vxlan id 7243 dstport 8473 local 203.0.113.1 nolearning; ip address add 10.40.250.1/16 dev evil; ip link set evil up; "+
		"bridge fdb append "+mac+" dev evil dst "+a.IPv4.String()+"; ip neigh add "+n.containers[0].Addresses[0].String()+" lladdr "+mac+" dev evil")
	out, err := n.Switch.Run(host.Command{Args: []string{"ping", "-n", "-c3", "-i0.2", "-W1", n.containers[0].Addresses[0].String()}})
	if err != nil || out.Code == 0 {
		t.Errorf("a stranger's ping: got %v, %v, want no answer", out, err)
	}
	n.Await(a.Host, "counted", func(s lab.Status) bool { return s.StrangersDropped >= 3 })
	n.Reach(n.containers[1], n.containers[0])
}
