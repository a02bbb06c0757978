package trestle

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/conflist"
	"github.com/trestle-cni/trestle/test/host"
)

// demoHost has the usual network, and on it web, a pod with two published ports, and
// lost, whose namespace is gone.
func demoHost(t *testing.T) *host.Host {
	t.Helper()
	h := host.New(t)
	h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	list, err := conflist.Files.ReadFile(conflist.Default)
	if err != nil {
		t.Fatal(err)
	}
	h.InstallNetwork(conflist.Default, string(list))
	network := h.Network(string(list))
	web, lost := h.Container("web"), h.Container("lost")
	pod := web.Attachment()
	pod.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "front"}}
	pod.CapabilityArgs["portMappings"] = []any{
		map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		map[string]any{"hostPort": 8081, "containerPort": 81, "protocol": "tcp"},
		map[string]any{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.2"},
	}
	for _, rt := range []*libcni.RuntimeConf{pod, lost.Attachment()} {
		if _, err := network.Add(rt); err != nil {
			t.Fatal(err)
		}
	}
	if err := web.Ping(netip.MustParseAddr("10.22.0.1")); err != nil {
		t.Fatal(err)
	}
	lost.Remove()
	awaitVeths(t, h, 1)
	return h
}

// awaitVeths waits until there are so many host veths: those of a namespace that is
// deleted go a moment later.
func awaitVeths(t *testing.T, h *host.Host, count int) {
	t.Helper()
	await(t, "links of dead containers are gone", func() bool {
		return strings.Count(h.MustRun("ls", "/sys/class/net"), "veth") == count
	})
}

// awaitDead waits until one of the host's attachments is proved dead.
func awaitDead(t *testing.T, h *host.Host) {
	t.Helper()
	host.NeedProofOfDeath(t)
	await(t, "it is dead", func() bool { return strings.Contains(must(t, h, "ls"), "dead") })
}

// await asks again and again, until the kernel has done what it does in its own time.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	host.Await(t, what, done)
}

// TestLs: each attachment with all that it has, joined from lease, link, record and
// cache; a dead one is said to be. Nothing changes by looking.
func TestLs(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	var all []inventory.Attachment
	host.NeedProofOfDeath(t)
	await(t, "the lost container is dead", func() bool {
		all = answer[[]inventory.Attachment](t, h, "ls")
		return len(all) == 2 && all[0].State == inventory.Dead
	})
	before := h.Dump()
	lost, web := all[0], all[1]
	if lost.Container != "lost" || !lost.Evidence.Lease || lost.Evidence.Link {
		t.Errorf("got %+v, want lost, with a lease and no link", lost)
	}
	if web.Container != "web" || web.IfName != "eth0" || web.Network != "trestle" || web.Pod != "shop/front" ||
		web.State != inventory.Alive || web.Bridge != "trestle0" || web.NetNS != "/run/netns/web" || !web.ByTrestle {
		t.Errorf("got %+v", web)
	}
	if want := (inventory.Evidence{Lease: true, Record: true, Link: true, Cache: true}); web.Evidence != want {
		t.Errorf("got %+v, want %+v", web.Evidence, want)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.22.0.2"), netip.MustParseAddr("fd6c:4ae9:71d3:22::2")}; !slices.Equal(web.Addresses, want) {
		t.Errorf("got addresses %v, want %v", web.Addresses, want)
	}
	if web.Traffic.RxPackets == 0 || web.Traffic.TxBytes == 0 || web.MAC != "0a:58:0a:16:00:02" {
		t.Errorf("got traffic %+v, MAC %s", web.Traffic, web.MAC)
	}
	table := must(t, h, "ls")
	for _, want := range []string{"NETWORK", "shop/front", "10.22.0.2", "fd6c:4ae9:71d3:22::2", "8080-8081->80-81/tcp", "192.0.2.2:5353->53/udp", "alive", "dead"} {
		if !strings.Contains(table, want) {
			t.Errorf("got\n%swant %q in it", table, want)
		}
	}
	if strings.Contains(table, "\x1b") {
		t.Errorf("colours where there is no terminal: %q", table)
	}
	h.AssertUnchanged(before)
}

// TestLsWatch: looks again and again, with traffic by the second, until it is interrupted,
// which is no failure.
func TestLsWatch(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	script := `out=$(mktemp); "$0" ls --watch --interval 100ms --json >$out & pid=$!; for i in $(seq 300); do [ $(grep -c rxBytesPerSecond $out) -ge 4 ] && break; sleep 0.1; done; kill -INT $pid; wait $pid; echo status $?; cat $out; rm $out`
	got := h.MustRun("bash", "-c", script, h.Dirs().Trestle+"/trestle")
	if !strings.HasPrefix(got, "status 0\n") || strings.Count(got, `"container": "web"`) < 2 {
		t.Errorf("got %s, want at least two rounds and status 0", got)
	}
	refused(t, h, []string{"--interval", "1ms"}, "ls", "--watch", "--interval", "1ms")
}

// TestPorts: a line for each port and family, in order.
func TestPorts(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	want := `
PORT  PROTOCOL  ON         TO                         CONTAINER   NETWORK  BACKEND   NETNS
5353  udp       192.0.2.2  10.22.0.2:53               shop/front  trestle  nftables  alive
8080  tcp       0.0.0.0    10.22.0.2:80               shop/front  trestle  nftables  alive
8080  tcp       ::         [fd6c:4ae9:71d3:22::2]:80  shop/front  trestle  nftables  alive
8081  tcp       0.0.0.0    10.22.0.2:81               shop/front  trestle  nftables  alive
8081  tcp       ::         [fd6c:4ae9:71d3:22::2]:81  shop/front  trestle  nftables  alive
`
	if got := "\n" + must(t, h, "ports"); got != want {
		t.Errorf("got%swant%s", got, want)
	}
	refused(t, h, []string{"nowhere", "trestle"}, "ports", "nowhere")
}

// TestNetworkLs: networks with a list, and those of which only leases are left; a file
// that is no list is told of, and hides none.
func TestNetworkLs(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	h.InstallNetwork("20-broken.conflist", `{"name": `)
	h.MustRun("sh", "-c", "mkdir -p /var/lib/cni/networks/former && printf 'old\\r\\neth0' >/var/lib/cni/networks/former/10.9.0.7")
	output := run(t, h, "network", "ls")
	want := `
NAME     DRIVER  BRIDGE    SUBNET                  USED     OF  CONTAINERS  FILE
former                                                                   1
trestle  bridge  trestle0  10.22.0.0/16               2  65533           2  10-trestle.conflist
                           fd6c:4ae9:71d3:22::/64     2      ∞
`
	if got := "\n" + output.Stdout; got != want || output.Code != 0 {
		t.Errorf("got exit status %d,%swant%s", output.Code, got, want)
	}
	if !strings.Contains(output.Stderr, "20-broken.conflist") {
		t.Errorf("got %q, want it to name 20-broken.conflist", output.Stderr)
	}
}

func TestNetworkInspect(t *testing.T) {
	t.Parallel()
	h := demoHost(t)
	got := answer[[]struct {
		Name    string
		Pools   []inventory.Pool
		Members []inventory.Attachment
		Config  struct{ Plugins []any }
	}](t, h, "network", "inspect", "trestle")
	if len(got) != 1 || got[0].Name != "trestle" || len(got[0].Pools) != 2 || len(got[0].Members) != 2 || len(got[0].Config.Plugins) != 2 {
		t.Errorf("got %+v", got)
	}
	text := must(t, h, "network", "inspect", "trestle")
	for _, want := range []string{"Bridge:         trestle0\n", "10.22.0.0/16, gateway 10.22.0.1, 2 of 65533 leased", "shop/front"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%swant %q in it", text, want)
		}
	}
	refused(t, h, []string{"trestel", "trestle"}, "network", "inspect", "trestel")
}

// TestEmptyHost: nothing is no error, and in JSON an empty list.
func TestEmptyHost(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	before := h.Dump()
	for _, args := range [][]string{{"ls"}, {"ports"}, {"network", "ls"}, {"ip", "map"}} {
		if got := must(t, h, append(args, "--json")...); got != "[]\n" {
			t.Errorf("%v: got %q, want an empty list", args, got)
		}
		must(t, h, args...)
	}
	h.AssertUnchanged(before)
	refused(t, h, []string{"network create nowhere"}, "ls", "nowhere")
	refused(t, h, []string{`unknown command "lss"`, "ls"}, "lss")
	refused(t, h, []string{`unknown command "frob"`, "trestle network --help"}, "network", "frob")
	refused(t, h, []string{"--colour"}, "ls", "--colour")
}

// TestLsOfOthers: what the reference plugins made is listed likewise; by the runtime's
// cache where they leave nothing that names anybody.
func TestLsOfOthers(t *testing.T) {
	t.Parallel()
	h := host.New(t)
	h.MustRun("sysctl", "-qw", "net.ipv4.ip_forward=1")
	list := `{"cniVersion": "1.0.0", "name": "old", "plugins": [
		{"type": "bridge", "bridge": "br-old", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.70.0.0/24"}]]}},
		{"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]}`
	h.InstallNetwork("10-old.conflist", list)
	network := h.Network(list)
	network.Path = []string{h.Dirs().Reference}
	c := h.Container("c1")
	rt := c.Attachment()
	rt.CapabilityArgs["portMappings"] = []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
	if _, err := network.Add(rt); err != nil {
		t.Fatal(err)
	}
	all := answer[[]inventory.Attachment](t, h, "ls")
	if len(all) != 1 {
		t.Fatalf("got %+v, want c1", all)
	}
	a := all[0]
	if a.ByTrestle || a.State != inventory.Alive || a.Bridge != "br-old" || !strings.HasPrefix(a.HostLink, "veth") || a.MAC == "" ||
		!slices.Equal(texts(a.Published()), []string{"8080->80/tcp"}) || !slices.Equal(texts(a.Addresses), []string{"10.70.0.2"}) {
		t.Errorf("got %+v", a)
	}
	if want := (inventory.Evidence{Lease: true, Link: true, Cache: true}); a.Evidence != want {
		t.Errorf("got %+v, want %+v", a.Evidence, want)
	}
	must(t, h, "detach", "c1") // by Trestle's plugins, as after a switch-over
	if got := must(t, h, "ls", "--json"); got != "[]\n" {
		t.Errorf("got %s, want nobody", got)
	}
}

func texts[T interface{ String() string }](values []T) []string {
	var all []string
	for _, v := range values {
		all = append(all, v.String())
	}
	return all
}
