package hosts

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// block keeps a host from its etcd, without a word: its packets are dropped. The
// network between containers goes on.
func block(h *lab.Agent) {
	h.MustRun("nft", "add table inet block; add chain inet block output { type filter hook output priority 0; }; add rule inet block output tcp dport 2379 drop")
}

func unblock(h *lab.Agent) { h.MustRun("nft", "delete", "table", "inet", "block") }

func disconnected(s lab.Status) bool { return !s.Store.Connected }

// TestBlackHole (rows 4 and 15): a host that hears nothing from etcd keeps everything,
// loses nothing to anybody, and sees who joined meanwhile when it is back.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a, b := n.hosts[0], n.hosts[1]
	before, err := b.Status()
	if err != nil {
		t.Fatal(err)
	}
	pings := n.Pings(n.containers[0], n.containers[1].Addresses[0])
	block(b)
	n.Await(b.Host, "disconnected", disconnected)
	c := n.Agent(n.Host("c"), n.etcd.Settings("c"))
	n.Ready(c.Host, 2)
	n.Ready(a.Host, 2)
	if s, err := b.Status(); err != nil || len(s.Peers) != 1 || s.Peers[0].Way != "tunnel" {
		t.Errorf("cut off: got peers %v, %v, want a as before", s.Peers, err)
	}
	unblock(b)
	after := n.Ready(b.Host, 2)
	if fmt.Sprint(after.Subnets) != fmt.Sprint(before.Subnets) {
		t.Errorf("back: got subnets %v, want %v", after.Subnets, before.Subnets)
	}
	n.Reach(n.containers[1], n.Attach(c.Host, "c-c"))
	noneLost(t, "b is cut off from etcd", pings)
}

// twoSubnets is a pool of two, each family.
const twoSubnets = `{"id": "lab", "networks": [{"name": "pods",
	"ipv4": {"pool": "10.40.0.0/24", "subnetLen": 25}, "ipv6": {"pool": "fd40::/63", "subnetLen": 64}}]}`

// TestFenced (rows 5 and 7): a host is released while it lives, and another gets its
// subnets. When it hears of it, it gives them up, names its containers and what it lacks, and
// the other's traffic goes on.
func TestFenced(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1)
	n.init(t, twoSubnets)
	for _, name := range []string{"a", "b"} {
		n.hosts = append(n.hosts, n.Agent(n.Host(name), n.etcd.Settings(name)))
	}
	a, b := n.hosts[0], n.hosts[1]
	n.Ready(a.Host, 1)
	lost := n.Ready(b.Host, 1)
	atA, atB := n.Attach(a.Host, "at-a"), n.Attach(b.Host, "at-b")
	n.Reach(atA, atB)
	block(b)
	n.Await(b.Host, "disconnected", disconnected)

	if out := a.Node("cluster", "release", "--node-is-dead", "b"); out.Code != 0 {
		t.Fatal(out)
	}
	n.Ready(a.Host, 0)
	full := n.Agent(n.Host("early"), n.etcd.Settings("early")) // the subnets are in quarantine
	n.Await(full.Host, "no subnet", func(s lab.Status) bool {
		return strings.Contains(s.Store.Error, "pool 10.40.0.0/24") && strings.Contains(s.Store.Error, "all 2 of length 25 are taken") &&
			strings.Contains(s.Store.Error, "given up less than 24h0m0s ago, 10.40.0.") && strings.Contains(s.Store.Error, " as the oldest at ") && strings.Contains(s.Store.Error, "trestle cluster release")
	})
	full.Kill()
	settings := n.etcd.Settings("c")
	settings["quarantine"] = "1ms"
	c := n.Agent(n.Host("c"), settings)
	got := n.Ready(c.Host, 1)
	if got.Subnet(true) != lost.Subnet(true) {
		t.Fatalf("c has %v, want the %v that b had", got.Subnets, lost.Subnets)
	}
	atC := n.Attach(c.Host, "at-c")
	n.Reach(atA, atC)
	n.Reach(atC, atA)
	pings := n.Pings(atA, atC.Addresses[0])
	unblock(b)
	fenced := n.Await(b.Host, "fenced", func(s lab.Status) bool { return s.State == "fenced" && len(s.Restart) == 2 })
	if fenced.Restart[0].Container != "at-b" || len(fenced.Lost) != 2 || len(fenced.Subnets) != 0 {
		t.Errorf("got lost %v, subnets %v, to restart %v; want both lost, and at-b to restart", fenced.Lost, fenced.Subnets, fenced.Restart)
	}
	if out := b.Node("node", "status"); out.Code == 0 || !strings.Contains(out.Stdout, "restart: container at-b") {
		t.Errorf("got status %v, want exit status 1 and the container", out)
	}
	n.Eventually("b's gateway is off its bridge", func() error {
		if got := b.MustRun("ip", "-o", "address", "show", "dev", "tn-pods", "scope", "global"); strings.Contains(got, "10.40.0") || strings.Contains(got, "fd40:") {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
	n.Ready(c.Host, 1)
	noneLost(t, "b comes back", pings)

	// with room in the pool it gets another subnet, and the runtime its list
	n.init(t, strings.ReplaceAll(strings.ReplaceAll(twoSubnets, "10.40.0.0/24", "10.40.0.0/23"), "fd40::/63", "fd40::/62"))
	after := n.Await(b.Host, "another subnet", func(s lab.Status) bool { return len(s.Subnets) == 2 && len(s.Peers) == 2 })
	if after.State != "fenced" || after.Subnet(true) == lost.Subnet(true) {
		t.Errorf("got %s with %v, want fenced with another", after.State, after.Subnets)
	}
	if out := b.Node("node", "accept"); out.Code == 0 || !strings.Contains(out.Stderr, "at-b") {
		t.Errorf("accept with containers there: got %v, want them named", out)
	}
	if out := b.Node("node", "accept", "--force"); out.Code != 0 {
		t.Error(out)
	}
	n.Ready(b.Host, 2)
	n.Reach(n.Attach(b.Host, "new-at-b"), atC)
}

// TestStartLine (row 6): hosts that wait for one etcd and get its answer at once have
// subnets of their own, in a pool with one to spare.
func TestStartLine(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1)
	n.init(t, strings.ReplaceAll(strings.ReplaceAll(twoSubnets, "10.40.0.0/24", "10.40.0.0/23"), "fd40::/63", "fd40::/62"))
	n.etcd.Members[0].Signal("STOP")
	for _, name := range []string{"a", "b", "c"} {
		n.hosts = append(n.hosts, n.Agent(n.Host(name), n.etcd.Settings(name)))
	}
	n.etcd.Members[0].Signal("CONT")
	seen := map[netip.Prefix]string{}
	for _, h := range n.hosts {
		s := n.Ready(h.Host, 2)
		for _, is4 := range []bool{true, false} {
			if other := seen[s.Subnet(is4)]; other != "" {
				t.Errorf("%s and %s both have %s", other, h.Name, s.Subnet(is4))
			}
			seen[s.Subnet(is4)] = h.Name
		}
	}
}

// TestTwins (row 8): the second host of a name, and a copied disk, are refused with the
// first one named; the first goes on.
func TestTwins(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	a := n.hosts[0]
	pings := n.Pings(n.containers[1], n.containers[0].Addresses[0])
	id, err := a.Status()
	if err != nil {
		t.Fatal(err)
	}
	named := n.Agent(n.Host("a2"), n.etcd.Settings("a"))
	n.Await(named.Host, "the name is refused", func(s lab.Status) bool {
		return s.State == "starting" && strings.Contains(s.Store.Error, "a is node "+id.ID)
	})
	copied := n.Host("copied")
	for _, file := range []string{"/var/lib/trestle/node/id", "/var/lib/trestle/node/state.json"} {
		copied.Write(file, a.MustRun("cat", file))
	}
	clone := n.Agent(copied, n.etcd.Settings("a"))
	n.Await(copied, "the id is refused", func(s lab.Status) bool {
		return strings.Contains(s.Store.Error, "is alive at ["+a.IPv4.String()) && strings.Contains(s.Store.Error, "trestle node reset-id")
	})
	clone.Kill()
	if out := copied.Node("node", "reset-id"); out.Code != 0 {
		t.Fatal(out)
	}
	// a copy of the WireGuard key alone would have the others take it for the first one
	const key = nodeDir + "wg.key"
	copied.Write(key, a.MustRun("cat", key))
	clone = n.Agent(copied, n.etcd.Settings("c"))
	n.Await(copied, "the key is refused", func(s lab.Status) bool {
		return strings.Contains(s.Store.Error, "is that of node a ("+id.ID) && strings.Contains(s.Store.Error, "remove "+key)
	})
	clone.Kill()
	copied.MustRun("rm", key)
	n.Agent(copied, n.etcd.Settings("c"))
	n.Ready(copied, 2)
	n.Ready(a.Host, 2)
	noneLost(t, "twins come", pings)
}

// TestRenamedHost: a host that has got another name keeps its subnets, and another host may have the
// former name. Who releases the former name does not release the host.
func TestRenamedHost(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b")
	b := n.hosts[1]
	had := n.Ready(b.Host, 1)
	b.Kill()
	n.Agent(b.Host, n.etcd.Settings("c"))
	s := n.Await(b.Host, "renamed", func(s lab.Status) bool { return s.Name == "c" && s.State == "ready" && s.Store.Connected })
	if fmt.Sprint(s.Subnets) != fmt.Sprint(had.Subnets) || s.ID != had.ID {
		t.Errorf("got %v of %s, want %v of %s", s.Subnets, s.ID, had.Subnets, had.ID)
	}
	if out := b.Node("cluster", "release", "--node-is-dead", "b"); out.Code == 0 || !strings.Contains(out.Stderr, "node b: unknown") {
		t.Errorf("release of the former name: got %v, want it unknown", out)
	}
	if err := n.etcd.Ctl("put", prefix+"names/former", had.ID); err != nil { // as if it could not be deleted
		t.Fatal(err)
	}
	if out := b.Node("cluster", "release", "--node-is-dead", "former"); out.Code == 0 || !strings.Contains(out.Stderr, "which is c now") {
		t.Errorf("release of a name that is kept: got %v, want the host's name", out)
	}
	n.Agent(n.Host("another"), n.etcd.Settings("b"))
	n.Ready(n.hosts[0].Host, 2)
	n.Ready(b.Host, 2)
	n.Reach(n.containers[0], n.containers[1])
}

// TestLeave (row 25): a host with containers stays; a drained one starts no more; one
// that leaves takes all that is ours along, whether etcd answers or not.
func TestLeave(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, "a", "b", "c")
	a, b, c := n.hosts[0], n.hosts[1], n.hosts[2]
	list := b.MustRun("cat", "/etc/cni/net.d/10-pods.conflist")
	if out := b.Node("node", "leave"); out.Code == 0 || !strings.Contains(out.Stderr, "c-b") {
		t.Errorf("leave with a container: got %v, want it named", out)
	}
	// what a restart would forget is not done
	const inTheWay = nodeDir + ".state.json.new"
	b.MustRun("mkdir", inTheWay)
	if out := b.Node("node", "drain"); out.Code == 0 || !strings.Contains(out.Stderr, "is a directory") {
		t.Errorf("drain that cannot be saved: got %v, want an error", out)
	}
	if s, err := b.Status(); err != nil || s.State != "ready" || b.MustRun("ls", "/etc/cni/net.d") != "10-pods.conflist\n" {
		t.Errorf("drain that cannot be saved: got %+v, %v, want it ready, with its list", s, err)
	}
	b.MustRun("rmdir", inTheWay)
	if out := b.Node("node", "drain"); out.Code != 0 || !strings.Contains(out.Stdout, "c-b") {
		t.Errorf("drain: got %v, want the container named", out)
	}
	n.Await(b.Host, "drained", func(s lab.Status) bool { return s.State == "drained" && len(s.Peers) == 2 })
	if got := b.MustRun("ls", "/etc/cni/net.d"); got != "" {
		t.Errorf("drained: got lists %s, want none", got)
	}
	if out := b.Node("node", "undrain"); out.Code != 0 {
		t.Errorf("undrain: got %v", out)
	}
	n.Ready(b.Host, 2)
	if got := b.MustRun("cat", "/etc/cni/net.d/10-pods.conflist"); got != list {
		t.Errorf("undrained: got list %s, want the one before, %s", got, list)
	}
	b.Node("node", "drain")
	n.Reach(n.containers[0], n.containers[1])
	if err := n.containers[1].Detach(list); err != nil {
		t.Error(err)
	}
	n.leftBehind(t, b)
	n.Ready(a.Host, 1)
	if got, err := n.etcd.Out("get", "--prefix", "--keys-only", "/trestle/v1/default/"); err != nil || strings.Count(got, "claims/") != 4 || strings.Count(got, "released/") != 2 {
		t.Errorf("got keys %s, %v, want the claims of a and c, and two tombstones", got, err)
	}

	n.etcd.Members[0].Kill()
	n.Await(c.Host, "disconnected", disconnected)
	if err := n.containers[2].Detach(list); err != nil {
		t.Error(err)
	}
	if out := c.Node("node", "leave"); out.Code != 0 || !strings.Contains(out.Stdout, "the store does not know yet") {
		t.Errorf("leave without etcd: got %v", out)
	}
	nothingLeft(t, c)
	n.etcd.Members[0].Start()
	n.Ready(a.Host, 0)

	// one that forgets its cluster asks nobody but its own containers
	a.Kill()
	if out := a.Node("node", "leave", "--local"); out.Code == 0 || !strings.Contains(out.Stderr, "c-a") {
		t.Errorf("leave --local with a container: got %v, want it named", out)
	}
	if err := n.containers[0].Detach(list); err != nil {
		t.Error(err)
	}
	if out := a.Node("node", "leave", "--local"); out.Code != 0 || !strings.HasPrefix(out.Stdout, "forgotten") {
		t.Errorf("leave --local: got %v", out)
	}
	nothingLeft(t, a)
}

// leftBehind: a host that leaves while something keeps its list says so, and has told etcd;
// killed and started anew it goes on; and the next leave ends it.
func (n *network) leftBehind(t *testing.T, b *lab.Agent) {
	t.Helper()
	const list = "/etc/cni/net.d/10-pods.conflist"
	b.MustRun("sh", "-c", "touch "+list+" && mount --bind "+list+" "+list)
	b.MustRun("sh", "-c", `echo '{"io.trestle.node": "x"}' >`+list)
	for range 2 {
		out := b.Node("node", "leave")
		if out.Code == 0 || !strings.Contains(out.Stderr, "something of it is left here: remove "+list) || !strings.Contains(out.Stderr, "run trestle node leave again") {
			t.Errorf("leave with something in the way: got %v, want it named, and the way out", out)
		}
		if got := b.MustRun("sh", "-c", "ip route show proto 116; ip -br link show type vxlan"); got != "" {
			t.Errorf("got %s, want all gone that could", got)
		}
		if claims, nodes := n.keys(t, "claims/"), n.keys(t, "nodes/"); claims != 4 || nodes != 2 {
			t.Errorf("got %d claims and %d records, want those of a and c", claims, nodes)
		}
		if out := b.Node("node", "status"); out.Code == 0 || !strings.Contains(out.Stdout, ": leaving") || !strings.Contains(out.Stdout, list) {
			t.Errorf("got status %v, want that it is leaving, and what is left", out)
		}
		b.Kill()
		b.MustRun("rm", "-f", "/run/trestle/node/status.json")
		b.Start()
		n.Await(b.Host, "leaving", func(s lab.Status) bool { return s.State == "leaving" && len(s.Problems) > 0 })
	}
	b.MustRun("umount", list)
	if out := b.Node("node", "leave"); !strings.Contains(out.Stdout, "left") && !strings.Contains(out.Stderr, "does not run") { // it tries by itself, too
		t.Errorf("leave again: got %v", out)
	}
	n.Await(b.Host, "left", func(s lab.Status) bool { return s.State == "left" })
	nothingLeft(t, b)
}

func nothingLeft(t *testing.T, h *lab.Agent) {
	t.Helper()
	got := h.MustRun("sh", "-c", "ls /etc/cni/net.d; ip route show proto 116; ip -6 route show proto 116; ip -br link show type vxlan; ip -br link show type wireguard; ip -br link show type bridge; nft list tables | grep trestle-node; true")
	if got != "" {
		t.Errorf("%s has left, and has still\n%s", h.Name, got)
	}
}
