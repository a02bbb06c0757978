package hosts

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/test/hosts/lab"
)

// TestImportFlannel: hosts that come from flannel keep their subnets, one that nobody
// knew gets another; and from keys that cannot be read nothing is made.
func TestImportFlannel(t *testing.T) {
	t.Parallel()
	n := &network{Lab: lab.New(t)}
	n.etcd = n.Etcd(1)
	a, b, c := n.Host("a"), n.Host("b"), n.Host("c")
	put := func(key, value string) {
		if err := n.etcd.Ctl("put", "/coreos.com/network/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	etcd := "--etcd=" + strings.Join(n.etcd.URLs(), ",")
	refused := func(want string, args ...string) {
		t.Helper()
		out := a.Node(append([]string{"cluster", "import-flannel", etcd}, args...)...)
		ours, err := n.etcd.Out("get", "--prefix", "--keys-only", "/trestle")
		if out.Code == 0 || !strings.Contains(out.Stderr, want) || err != nil || ours != "" {
			t.Errorf("got %v, and keys %q, %v, want %q and no key", out, ours, err, want)
		}
	}
	refused("there is no key /coreos.com/network/config")
	put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}`)
	refused("no backend of Trestle corresponds to flannel's (udp)")
	put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	lease := func(h *lab.Host) string { return fmt.Sprintf(`{"PublicIP": %q, "BackendType": "vxlan"}`, h.IPv4) }
	put("subnets/10.5.34.0-24", lease(a))
	put("subnets/10.5.99.0-24", `{"PublicIP": `)
	refused("flannel's subnets/10.5.99.0-24")
	put("subnets/10.5.99.0-24", lease(b))

	if out := a.Node("cluster", "import-flannel", etcd); out.Code != 0 || !strings.Contains(out.Stdout, "kept for host "+a.IPv4.String()+": 10.5.34.0/24") {
		t.Fatal(out)
	}
	if out := a.Node("cluster", "subnets", etcd); out.Code != 0 || !strings.Contains(out.Stdout, "host "+b.IPv4.String()+", which had it of flannel") {
		t.Errorf("subnets: got %v, want b's reservation", out)
	}
	a.MustRun("sh", "-c", "ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 nolearning; ip address add 10.5.34.0/32 dev flannel.1")
	if out := a.Node("node", "join", etcd, "--name", "a"); out.Code == 0 || !strings.Contains(out.Stderr, "overlaps the address 10.5.34.0/32 of flannel.1") {
		t.Errorf("join with flannel there: got %v, want its device named", out)
	}
	a.MustRun("ip", "link", "del", "flannel.1")
	for _, h := range []*lab.Host{a, b, c} {
		if out := h.Node("node", "join", etcd, "--name", h.Name); out.Code != 0 {
			t.Fatal(out)
		}
		n.hosts = append(n.hosts, n.Agent(h, n.etcd.Settings(h.Name)))
	}
	for i, want := range []string{"10.5.34.0/24", "10.5.99.0/24", ""} {
		s := n.Ready(n.hosts[i].Host, 2)
		if got := s.Subnet(true).String(); want != "" && got != want || want == "" && (got == "10.5.34.0/24" || got == "10.5.99.0/24") {
			t.Errorf("%s has %s, want %s", n.hosts[i].Name, got, want)
		}
		n.containers = append(n.containers, n.Attach(n.hosts[i].Host, "at-"+n.hosts[i].Name))
	}
	n.Reach(n.containers[0], n.containers[1])

	// of a host's own file, into a cluster that is there, and twice
	b.Write("/run/flannel/subnet.env", "FLANNEL_NETWORK=10.6.0.0/16\nFLANNEL_SUBNET=10.6.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
	env := []string{"cluster", "import-flannel", etcd, "--cluster", "other", "--subnet-env", "/run/flannel/subnet.env"}
	if out := b.Node(env...); out.Code == 0 || !strings.Contains(out.Stderr, "--backend vxlan") {
		t.Errorf("without a backend: got %v, want to be asked for one", out)
	}
	for range 2 {
		if out := b.Node(append(env, "--backend", "host-gw")...); out.Code != 0 {
			t.Error(out)
		}
	}
	if got, err := n.etcd.Out("get", "--prefix", "/trestle/v1/other/claims/"); err != nil || !strings.Contains(got, "claims/pods/10.6.7.0-24") || strings.Count(got, `"for"`) != 1 {
		t.Errorf("got claims %s, %v, want b's", got, err)
	}
}
