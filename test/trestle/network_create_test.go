package trestle

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/test/host"
)

// TestNetworkCreate: a free subnet, a bridge of its own, and a list that runtimes read.
func TestNetworkCreate(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("ip", "route", "add", "10.24.0.0/23", "via", host.OutsideIPv4.Addr().String())
	want := "web: bridge br-web, 10.24.4.0/22; /etc/cni/net.d/90-web.conflist\n"
	if got := must(t, h, "network", "create", "web"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got := answer[struct {
		Name, File, Bridge string
		Subnets            []netip.Prefix
	}](t, h, "network", "create", "six", "--ipv6", "--label", "a=b", "--bridge", "six0")
	if got.Name != "six" || got.Bridge != "six0" || len(got.Subnets) != 2 || got.Subnets[0].String() != "10.24.8.0/22" || !got.Subnets[1].Addr().Is6() {
		t.Errorf("got %+v", got)
	}
	networks := answer[[]inventory.Network](t, h, "network", "ls")
	if len(networks) != 2 || networks[0].Name != "six" || networks[0].Labels["a"] != "b" || networks[0].Created.IsZero() || networks[1].IngressPolicy != "published" {
		t.Errorf("got %+v", networks)
	}
	if files := h.MustRun("ls", "-A", "/etc/cni/net.d"); files != "90-six.conflist\n90-web.conflist\n" {
		t.Errorf("got files %q", files)
	}
}

// TestNetworkCreateRefused: what somebody on the host has is not taken, and the message
// says who that is; nothing is changed.
func TestNetworkCreateRefused(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("ip", "route", "add", "10.50.0.0/16", "via", host.OutsideIPv4.Addr().String())
	h.MustRun("ip", "link", "add", "br9", "type", "bridge")
	must(t, h, "network", "create", "web", "--subnet", "10.40.0.0/24")
	h.MustRun("sh", "-c", "mkdir -p /var/lib/cni/networks/former && printf 'old\\r\\neth0' >/var/lib/cni/networks/former/10.9.0.7")
	for _, test := range []struct {
		words []string
		args  string
	}{
		{[]string{"name", "web", "90-web.conflist", "network rm web"}, "web"},
		{[]string{"name", "former", "1 container"}, "former"},
		{[]string{"--bridge", "br-web", "network web"}, "x --bridge br-web"},
		{[]string{"--bridge", "br9", "bridge"}, "x --bridge br9"},
		{[]string{"--bridge", host.Uplink, "veth"}, "x --bridge " + host.Uplink},
		{[]string{"--subnet", "10.40.0.0/16", "10.40.0.0/24", "network web"}, "x --subnet 10.40.0.0/16"},
		{[]string{"--subnet", "10.50.1.0/24", "10.50.0.0/16", "route by " + host.Uplink}, "x --subnet 10.50.1.0/24"},
		{[]string{"--subnet", "192.0.2.0/25", host.HostIPv4.String(), host.Uplink}, "x --subnet 192.0.2.0/25"},
		{[]string{"--ingress", `"none"`, "published"}, "x --ingress none"},
		{[]string{"--subnet", "empty", "leave it out"}, "x --subnet="},
		{[]string{"--bridge", "empty"}, "x --bridge="},
		{[]string{"--mtu", `"large"`, "a number"}, "x --mtu large"},
		{[]string{"nothing is left"}, "x --subnet 10.60.0.0/30 --exclude 10.60.0.0/30"},
		{[]string{"NETWORK", "nothing is given"}, ""},
		{[]string{"--mtu"}, "x --mtu large"},
	} {
		refused(t, h, test.words, append([]string{"network", "create"}, strings.Fields(test.args)...)...)
	}
}

// TestNetworkCreateAtOnce: who looks for a free subnet at the same time finds another one.
func TestNetworkCreateAtOnce(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	const count = 6
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			if output := run(t, h, "network", "create", fmt.Sprintf("n%d", i)); output.Code != 0 {
				t.Errorf("n%d: exit status %d: %s", i, output.Code, output.Stderr)
			}
		})
	}
	all.Wait()
	seen := map[netip.Prefix]string{}
	for _, n := range answer[[]inventory.Network](t, h, "network", "ls") {
		subnet := n.Pools[0].Subnet
		if other := seen[subnet]; other != "" {
			t.Errorf("%s and %s both have %s", other, n.Name, subnet)
		}
		seen[subnet] = n.Name
	}
	if len(seen) != count {
		t.Errorf("got %d networks, want %d", len(seen), count)
	}
}
