package hosts

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// podsConfig is the network of a cluster whose control plane cuts these pools.
const podsConfig = `{"networks": [{"name": "pods", "ipv4": {"pool": "10.40.0.0/16"}, "ipv6": {"pool": "fd40::/48"}}]}`

// kubernetes are hosts that are Nodes, with a container on each.
type kubernetes struct {
	*network
	api *lab.API
}

func newKubernetes(t *testing.T, names ...string) *kubernetes {
	t.Helper()
	l := lab.New(t)
	k := &kubernetes{&network{Lab: l}, l.API()}
	for i, name := range names {
		k.api.SetNode(name, podCIDRs(i)...)
		h := l.Host(name)
		settings := k.api.Settings(h, podsConfig)
		delete(settings, "name")
		h.Env = []string{"NODE_NAME=" + name, "HOST_IPS=" + h.IPv4.String() + "," + h.IPv6.String()}
		h.MustRun("ip", "address", "add", "203.0.113."+string(rune('1'+i))+"00/24", "dev", "eth0") // a second one, and not the Node's
		k.hosts = append(k.hosts, l.Agent(h, settings))
	}
	for _, h := range k.hosts {
		l.Ready(h.Host, len(names)-1)
		k.containers = append(k.containers, l.Attach(h.Host, "c-"+h.Name))
	}
	return k
}

// lists are the networks that the runtime of a host has.
func lists(h *lab.Host) string {
	return h.MustRun("sh", "-c", "ls /etc/cni/net.d 2>&1 | grep -v 'No such file'; true")
}

func podCIDRs(i int) []string {
	digit := string(rune('0' + i))
	return []string{"10.40." + digit + ".0/24", "fd40:0:0:" + digit + "::/64"}
}

// TestKubernetes: hosts that are Nodes have the subnets that their Nodes say, and reach each
// other by what each has written into its annotation. One without podCIDRs waits, and says for
// whom; one where no agent runs is no peer; with the API away everything goes on; one that is
// deleted is gone, seen or unseen.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, "a", "b")
	a, b := k.hosts[0], k.hosts[1]
	s, err := a.Status()
	if err != nil || s.Subnet(true).String() != "10.40.0.0/24" || s.Subnet(false).String() != "fd40::/64" || s.ID != "a" {
		t.Errorf("got %v, %v, want the podCIDRs of Node a", s, err)
	}
	k.Reach(k.containers[0], k.containers[1])
	if note := k.api.Annotation("a"); !strings.Contains(note, a.IPv4.String()+"/24") || strings.Contains(note, "10.40.0.0") {
		t.Errorf("got annotation %s, want the addresses and nothing that the Node says", note)
	}
	if list := a.MustRun("cat", "/etc/cni/net.d/10-pods.conflist"); !strings.Contains(list, `"bandwidth"`) {
		t.Errorf("pods could not ask for a bandwidth: %s", list)
	}

	k.api.SetNode("c")
	k.api.SetNode("d", podCIDRs(3)...)
	c := k.Host("c")
	agent := k.Agent(c, k.api.Settings(c, podsConfig))
	k.Await(c, "no podCIDRs", func(s lab.Status) bool {
		return strings.Contains(s.Store.Error, "node c has no podCIDRs yet") &&
			strings.Contains(s.Store.Error, "--allocate-node-cidrs=true and --cluster-cidr=10.40.0.0/16")
	})
	if out := lists(c); out != "" {
		t.Errorf("a host without a subnet has a network for containers: %s", out)
	}
	k.api.SetNode("c", podCIDRs(2)...)
	k.Ready(c, 2)
	k.Reach(k.Attach(c, "c-c"), k.containers[0])
	k.Await(a.Host, "d has no agent", func(s lab.Status) bool {
		return len(s.Peers) == 2 && strings.Contains(strings.Join(s.Problems, "\n"), "node d cannot be read, and is ignored: it has no annotation trestle.io/node")
	})

	pings := k.Pings(k.containers[0], k.containers[1].Addresses[0])
	k.api.Stop()
	k.Await(a.Host, "API away", disconnected)
	agent.Kill()
	k.api.DeleteNode("c") // nobody hears of it
	k.api.DeleteNode("d")
	k.api.Start()
	k.Ready(a.Host, 1)
	k.Ready(b.Host, 1)
	k.api.Refuse(http.StatusForbidden)
	k.Await(a.Host, "forbidden", func(s lab.Status) bool {
		return strings.Contains(s.Store.Error, `User "nobody" cannot list`) && strings.Contains(s.Store.Error, "verbs: [get, list, watch, patch]")
	})
	k.api.Refuse(0)
	k.Ready(a.Host, 1)
	noneLost(t, "the API is away and refuses", pings)
	k.api.DeleteNode("b")
	k.Ready(a.Host, 0)
	if left := routes(a.Host); strings.Contains(left, "10.40.1.0") {
		t.Errorf("b's Node was deleted, and its route is still there: %s", left)
	}
	k.Await(b.Host, "its Node is gone", func(s lab.Status) bool {
		return strings.Contains(s.Store.Error, "there is no Node named b") && len(s.Subnets) == 2 && len(s.Peers) == 1
	})
}

// TestKubernetesChanges: a host whose podCIDRs become others takes them, gives up those that
// it had, and names the containers to restart; peers follow. Drained, it has no list for
// the kubelet. What it left in its annotation takes it off its peers.
func TestKubernetesChanges(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, "a", "b")
	a, b := k.hosts[0], k.hosts[1]
	k.api.SetNode("b", podCIDRs(5)...)
	s := k.Await(b.Host, "fenced", func(s lab.Status) bool { return s.State == "fenced" && s.Subnet(true).String() == "10.40.5.0/24" })
	if len(s.Lost) != 2 || len(s.Restart) != 2 {
		t.Errorf("got lost %v, restart %v, want two subnets, and both addresses of a container", s.Lost, s.Restart)
	}
	var list string
	k.Eventually("b's list has the new subnets", func() error {
		list = b.MustRun("cat", "/etc/cni/net.d/10-pods.conflist")
		if !strings.Contains(list, "10.40.5.0/24") || strings.Contains(list, "10.40.1.0/24") {
			return errors.New(list)
		}
		return nil
	})
	if err := k.containers[1].Detach(list); err != nil {
		t.Error(err)
	}
	if out := b.Node("node", "accept"); out.Code != 0 {
		t.Error(out)
	}
	k.Ready(b.Host, 1)
	again := k.Attach(b.Host, "again")
	k.Reach(k.containers[0], again)
	b.MustRun("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
	b.Address("del", b.IPv4, 24) // which the pod was told; 203.0.113.200 is left
	b.DefaultRoutes()
	k.Await(a.Host, "b's other address", func(s lab.Status) bool {
		return len(s.Peers) == 1 && slices.Contains(s.Peers[0].Underlay, netip.MustParsePrefix("203.0.113.200/24"))
	})
	k.Reach(k.containers[0], again)

	if out := b.Node("node", "drain"); out.Code != 0 {
		t.Error(out)
	}
	if out := lists(b.Host); out != "" {
		t.Errorf("drained, and there is still %s", out)
	}
	if out := b.Node("cluster", "release", "--node-is-dead", "a"); out.Code == 0 || !strings.Contains(out.Stderr, "kubectl delete node a") {
		t.Errorf("got %v, want a word about kubectl", out)
	}
	if out := b.Node("node", "leave", "--force"); out.Code != 0 || !strings.HasPrefix(out.Stdout, "left; containers are on tn-pods, which stays") {
		t.Errorf("leave: got %v, want that the bridge with a container on it stays", out)
	}
	k.Ready(a.Host, 0)
	if note := k.api.Annotation("b"); note != `{"left":true}` {
		t.Errorf("left, and its annotation is %s", note)
	}
	if err := again.Detach(list); err != nil {
		t.Error(err)
	}
}

// TestKubernetesRestored: an API whose store was restored from an old backup takes no
// route from anybody, however few the peers are.
func TestKubernetesRestored(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, "a", "b")
	a := k.hosts[0]
	before := routes(a.Host)
	k.hosts[1].Kill()
	k.api.Stop()
	k.api.Wipe("a")
	k.api.Start()
	k.Await(a.Host, "suspect, and b is missing and kept", func(s lab.Status) bool {
		return s.State == "suspect" && s.Store.Connected && strings.Contains(s.Why, "went back") && len(s.Peers) == 1 && s.Peers[0].Missing
	})
	if got := routes(a.Host); got != before {
		t.Errorf("got routes\n%s\nwant\n%s", got, before)
	}
	k.api.SetNode("b", podCIDRs(1)...)
	k.hosts[1].Start()
	k.Ready(a.Host, 1)
	k.Reach(k.containers[0], k.containers[1])
}

// TestKubernetesDeletedByMistake: most of the Nodes, deleted one after the other as kubectl does
// it, take no route from anybody; a few that are deleted are gone.
func TestKubernetesDeletedByMistake(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, "a")
	a := k.hosts[0]
	for i := 1; i < 9; i++ {
		name := fmt.Sprint("n", i)
		k.api.SetNode(name, podCIDRs(i)...)
		k.api.Annotate(name, fmt.Sprintf(`{"underlay": ["203.0.113.%d/24"], "mtu": 1500}`, 200+i))
	}
	k.Ready(a.Host, 8)
	for i := 1; i < 3; i++ {
		k.api.DeleteNode(fmt.Sprint("n", i))
	}
	k.Ready(a.Host, 6)
	before := routes(a.Host)
	for i := 3; i < 9; i++ {
		k.api.DeleteNode(fmt.Sprint("n", i))
		time.Sleep(100 * time.Millisecond)
	}
	k.Await(a.Host, "suspect", func(s lab.Status) bool { return s.State == "suspect" && len(s.Peers) == 6 })
	k.looks(a, 3)
	if got := routes(a.Host); got != before {
		t.Errorf("got routes\n%s\nwant\n%s", got, before)
	}
	if out := a.Node("node", "accept"); out.Code != 0 || !strings.Contains(out.Stdout, "peers that are gone: 6") {
		t.Errorf("accept: got %v", out)
	}
	k.Ready(a.Host, 0)
}

// TestKubernetesBlackHole: a host whose packets to the API vanish without a word notices by
// its connections, long before its heartbeat, and sees who came meanwhile when they
// arrive again.
func TestKubernetesBlackHole(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	api := l.API()
	api.SetNode("a", podCIDRs(0)...)
	a, b := l.Host("a"), l.Host("b")
	settings := api.Settings(a, podsConfig)
	settings["heartbeat"] = "1h"
	l.Agent(a, settings)
	l.Ready(a, 0)
	a.MustRun("nft", "add table inet block; add chain inet block output { type filter hook output priority 0; }; add rule inet block output tcp dport 8080 drop")
	l.Await(a, "disconnected", disconnected)
	api.SetNode("b", podCIDRs(1)...)
	l.Agent(b, api.Settings(b, podsConfig))
	l.Ready(b, 1)
	a.MustRun("nft", "delete", "table", "inet", "block")
	l.Ready(a, 1)
}

// TestKubernetesUninstalled: a node from which the DaemonSet is gone, and with it node.json and
// the environment that said how the Node is called, forgets its network (docs/kubernetes.md).
func TestKubernetesUninstalled(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, "node.example")
	a := k.hosts[0]
	list := a.MustRun("cat", "/etc/cni/net.d/10-pods.conflist")
	a.Kill()
	a.MustRun("rm", "/etc/trestle/node.json", "/etc/trestle/cluster.json", "/etc/trestle/kubeconfig")
	if out := a.Node("node", "leave", "--local"); out.Code == 0 || !strings.Contains(out.Stderr, "c-node.example") {
		t.Errorf("leave --local with a container: got %v, want it named", out)
	}
	if err := k.containers[0].Detach(list); err != nil {
		t.Error(err)
	}
	if out := a.Node("node", "leave", "--local"); out.Code != 0 || !strings.HasPrefix(out.Stdout, "forgotten") {
		t.Errorf("leave --local: got %v", out)
	}
	nothingLeft(t, a)
}
