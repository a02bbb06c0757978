package hosts

import (
	"errors"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// TestManyAddresses (row 19): a host goes on publishing the address that it has published,
// whatever virtual addresses come to its uplink (keepalived, kube-vip) or others beside it, and
// while its own is renewed; and it finds the uplink by a default route with several next hops.
func TestManyAddresses(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	b := n.hosts[1]
	id := n.Ready(b.Host, 1).ID
	published := func() string {
		record, err := n.etcd.Out("get", "--print-value-only", prefix+"nodes/"+id)
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(record, `"underlay":[`)
		addresses, _, _ := strings.Cut(after, "]")
		return addresses
	}
	before := published()
	b.MustRun("sh", "-c", `ip address add 2001:db8:1::99/128 dev eth0 nodad; ip address add 2001:db8:1::98/64 dev eth0 nodad
		ip address add 203.0.113.199/32 dev eth0; ip address add 203.0.113.198/24 dev eth0`)
	n.looks(b, 2)
	if got := published(); got != before {
		t.Errorf("other addresses came: got %s published, want %s", got, before)
	}
	b.Kill()
	b.Start()
	n.Ready(b.Host, 1)
	n.looks(b, 2)
	if got := published(); got != before {
		t.Errorf("started anew: got %s published, want %s", got, before)
	}
	n.Reach(n.containers[0], n.containers[1])

	b.MustRun("ip", "address", "del", "203.0.113.198/24", "dev", "eth0")
	b.Address("del", b.IPv4, 24)
	n.Eventually("the virtual one is all that it has", func() error {
		if got := published(); got == before {
			return errors.New(got)
		}
		return nil
	})
	b.Address("add", b.IPv4, 24)
	b.DefaultRoutes()
	n.Eventually("its own again", func() error {
		if got := published(); got != before {
			return errors.New(got)
		}
		return nil
	})

	b.Kill()
	b.MustRun("sh", "-c", `ip link add other0 type bridge; ip link set other0 up; ip address add 198.51.100.5/24 dev other0
		ip -6 route del default; ip route replace default nexthop via 203.0.113.1 dev eth0 nexthop via 198.51.100.1 dev other0; rm /run/trestle/node/status.json`)
	b.Start()
	n.Await(b.Host, "it has its uplink", func(s lab.Status) bool { return s.State == "ready" && s.Store.Connected && len(s.Problems) == 0 })
	n.Reach(n.containers[0], n.containers[1])
}

// TestNoUplinkYet: a host that is started without an uplink while its last sign of life is still
// there is not taken for the copy of a disk.
func TestNoUplinkYet(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1)
	n.init(t, lab.Config)
	settings := n.etcd.Settings("a")
	settings["alive"] = "60s"
	a := n.Agent(n.Host("a"), settings)
	n.Ready(a.Host, 0)
	n.Eventually("its sign of life is there", func() error {
		if n.keys(t, "alive/") == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	a.Kill()
	a.MustRun("sh", "-c", "ip route del default; ip -6 route del default; rm /run/trestle/node/status.json")
	a.Start()
	s := n.Await(a.Host, "no uplink", func(s lab.Status) bool { return s.Store.Error != "" })
	if strings.Contains(s.Store.Error, "reset-id") || !strings.Contains(s.Store.Error, "no uplink yet") || s.MTU < 0 {
		t.Errorf("got %s, MTU %d; want that there is no uplink", s.Store.Error, s.MTU)
	}
	a.DefaultRoutes()
	n.Ready(a.Host, 0)
}
