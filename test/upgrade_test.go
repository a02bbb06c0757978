package test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/trestle-cni/trestle/test/host"
)

// TestUpgradeFirewall: containers that the build of test/previous.commit attached keep
// their policies and the check of their MACs, and this build's commands serve them.
func TestUpgradeFirewall(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"ADD", "DEL", "GC", "CHECK", "restore"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			upgradeFirewall(t, first)
		})
	}
}

// upgradeFirewall: first is the first command of this build.
func upgradeFirewall(t *testing.T, first string) {
	w := newWalled(t)
	if w.Dirs().Previous == "" {
		t.Skip("no earlier build: make previous")
	}
	w.MustRun("sh", "-ec", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
	network := func(i int, policy string) *host.Network {
		list := w.network(i, fmt.Sprintf(`"ingressPolicy": %q`, policy)).List.Bytes
		return w.Network(strings.Replace(string(list), `"hairpinMode"`, `"macspoofchk": true, "hairpinMode"`, 1))
	}
	isolated, same := network(1, "isolated"), network(2, "same-bridge")
	a, b, c, d := w.container(1, 5), w.container(1, 6), w.container(2, 5), w.container(2, 6)
	for _, n := range []*host.Network{isolated, same} {
		n.Path = []string{w.Dirs().Previous}
	}
	w.add(isolated, a)
	w.add(isolated, b)
	w.add(same, c)
	for _, n := range []*host.Network{isolated, same} {
		n.Path = []string{w.Dirs().Trestle}
	}
	protects := func(when string) {
		t.Helper()
		for _, way := range []struct {
			from *host.Namespace
			to   netip.Addr
			want bool
		}{
			{a.Namespace, b.v4, false},
			{c.Namespace, a.v6, false},
			{w.Namespace, a.v4, true},
			{a.Namespace, host.OutsideIPv4.Addr(), true},
		} {
			if err := way.from.Ping(way.to); (err == nil) != way.want {
				t.Errorf("%s: %s reaches %s: %v, want %v", when, way.from.Name, way.to, err == nil, way.want)
			}
		}
	}
	protects("before")
	firsts := map[string]func(){
		"ADD":     func() { w.add(same, d) },
		"DEL":     func() { w.del(same, d) }, // which is not there
		"CHECK":   func() {},
		"restore": w.restore,
		"GC": func() {
			for _, n := range []string{"firewall", "bridge"} {
				call := w.gc(a, b)
				call.Plugin = n
				call.Config = strings.Replace(call.Config, `"type": "firewall"`, fmt.Sprintf(`"type": %q, "bridge": "br1"`, n), 1)
				w.must(call)
			}
		},
	}
	firsts[first]()
	for n, all := range map[*host.Network][]firewalled{isolated: {a, b}, same: {c}} {
		for _, x := range all {
			if err := n.Check(x.attachment); err != nil {
				t.Errorf("CHECK of %s: %v", x.ID, err)
			}
		}
	}
	protects("after " + first)
	w.restore()
	tables := w.MustRun("nft", "list", "tables")
	if strings.Contains(tables, "trestle_firewall") {
		t.Errorf("got %s, want the earlier tables gone", tables)
	}
	a.MustRun("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
	if err := a.Ping(host.OutsideIPv4.Addr()); err == nil {
		t.Error("a forged MAC gets through")
	}
	w.del(isolated, a)
	w.del(same, c)
	w.del(same, d)
	w.del(isolated, b)
	w.leftNothing()
	err := w.Do(func() error {
		_, err := os.Stat(filepath.Join("/run/trestle/firewall", "lock"))
		return err
	})
	if !os.IsNotExist(err) {
		t.Errorf("got %v, want nothing of the earlier release's records", err)
	}
}

// TestUpgradeUnderTraffic: connections that were opened under the build before go on
// while this one's commands take over, and new ones are served.
func TestUpgradeUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, backend := range natBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			upgradeUnderTraffic(t, backend)
		})
	}
}

func upgradeUnderTraffic(t *testing.T, backend string) {
	h := routingHost(t)
	if h.Dirs().Previous == "" {
		t.Skip("no earlier build: make previous")
	}
	h.MustRun("sh", "-ec", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
	network := h.Network(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "n", "plugins": [
		{"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": %[1]q, "macspoofchk": true,
		 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]}},
		{"type": "portmap", "backend": %[1]q, "capabilities": {"portMappings": true}},
		{"type": "firewall", "ingressPolicy": "same-bridge"}]}`, backend))
	attach := func(c *host.Container, port int) *libcni.RuntimeConf {
		a := c.Attachment()
		a.CapabilityArgs["portMappings"] = []any{map[string]any{"hostPort": port, "containerPort": 80, "protocol": "tcp"}}
		if _, err := network.Add(a); err != nil {
			t.Fatalf("ADD of %s: %v", c.ID, err)
		}
		return a
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	network.Path = []string{h.Dirs().Previous}
	stays, goes := h.Container("stays"), h.Container("goes")
	a, b := attach(stays, 8080), attach(goes, 8081)
	echo(t, stays.Namespace, ":80")
	echo(t, h.Outside, ":90")
	var opened []*conversation
	for _, address := range []string{host.HostIPv4.Addr().String(), "[" + host.HostIPv6.Addr().String() + "]"} {
		opened = append(opened, converse(t, h.Outside, address+":8080"))
	}
	// Not by 127.0.0.1, which takes another way since: an open connection is reset once.
	opened = append(opened, converse(t, stays.Namespace, host.OutsideIPv4.Addr().String()+":90"),
		converse(t, stays.Namespace, "["+host.OutsideIPv6.Addr().String()+"]:90"))
	goOn := func(when string) {
		t.Helper()
		for _, c := range opened {
			must(fmt.Sprintf("after %s: %s over the connection to %s", when, c.from.Name, c.to), c.say())
			must("a new connection to "+c.to, converse(t, c.from, c.to).say())
		}
		must("a new connection to 127.0.0.1", converse(t, h.Namespace, "127.0.0.1:8080").say())
	}
	goOn("ADD by the build before")
	network.Path = []string{h.Dirs().Trestle}
	n1 := h.Container("new")
	c := attach(n1, 8082)
	goOn("ADD")
	must("DEL of the new one", network.Del(c))
	must("DEL of an earlier one", network.Del(b))
	goOn("DEL")
	must("CHECK", network.Check(a))
	must("GC", network.GC(&libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: a.ContainerID, IfName: a.IfName}}}))
	goOn("GC")
	h.MustRun(filepath.Join(h.Dirs().Trestle, "trestle"), "restore")
	goOn("restore")
	must("CHECK", network.Check(a))
	must("DEL", network.Del(a))
	must("GC of nobody", network.GC(&libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}))
	if got := h.MustRun("sh", "-c", "nft list ruleset; iptables-save; find /run/trestle -type f -o -type l"); strings.Contains(got, `"n/`) || strings.Contains(got, "table inet trestle") {
		t.Errorf("got\n%s\nwant nothing left", got)
	}
}

// echo answers whatever it is told, for as long as the test lasts.
func echo(t *testing.T, in *host.Namespace, address string) {
	t.Helper()
	var listener net.Listener
	err := in.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatalf("listen on %s in %s: %v", address, in.Name, err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }() // until the other side closes
		}
	}()
}

// conversation is a connection to an echo that stays open.
type conversation struct {
	net.Conn
	from *host.Namespace
	to   string
}

func converse(t *testing.T, from *host.Namespace, to string) *conversation {
	t.Helper()
	c := &conversation{from: from, to: to}
	err := from.Do(func() (err error) {
		c.Conn, err = net.DialTimeout("tcp", to, 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatalf("%s connects to %s: %v", from.Name, to, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// say says something and waits for the answer.
func (c *conversation) say() error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("still there?")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len("still there?")))
	return err
}
