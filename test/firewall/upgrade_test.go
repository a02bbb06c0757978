package firewall

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
			if err := way.from.Expecting(way.want).Ping(way.to); (err == nil) != way.want {
				t.Errorf("%s: %s reaches %s: %v, want %v", when, way.from.Name, way.to, err == nil, way.want)
			}
		}
	}
	protects("before")
	firsts := map[string]func(){
		"ADD":     func() { w.add(same, d) },
		"DEL":     func() { w.del(same, d) }, // which is not there
		"CHECK":   func() {},
		"restore": w.Restore,
		"GC": func() {
			for _, n := range []string{"firewall", "bridge"} {
				call := w.gc(a, b)
				call.Plugin = n
				call.Config = strings.Replace(call.Config, `"type": "firewall"`, fmt.Sprintf(`"type": %q, "bridge": "br1"`, n), 1)
				w.Must(call)
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
	w.Restore()
	tables := w.MustRun("nft", "list", "tables")
	if strings.Contains(tables, "trestle_firewall") {
		t.Errorf("got %s, want the earlier tables gone", tables)
	}
	a.MustRun("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
	if err := a.Briefly().Ping(host.OutsideIPv4.Addr()); err == nil {
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
